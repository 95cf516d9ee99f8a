"""Provider and device with one another, and with somebody who listens, replays and forges."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.invite.applicant import NotAdmitted
from nconnect.invite.book import Book
from nconnect.invite.registrar import BURST, Admission, application_in
from nconnect.invite.token import Token, TokenKeys
from nconnect.model import NknAddress
from nconnect.wire.invite import Application, Grant, Reason, Refusal, unwrap, wrap
from nconnect.wire.message import Message
from tests.invite.examples import (
    DEVICE,
    DEVICE_IDENTITY,
    NOW,
    OTHER,
    OTHER_IDENTITY,
    PROVIDER,
    TOKEN,
    WELCOME,
    Provider,
    applicant,
    asked,
    invitation,
    rng,
)


def refusal_of(payload: bytes | Admission | None) -> Refusal:
    assert isinstance(payload, bytes)
    frame = unwrap(Message.decode(payload).payload)
    assert isinstance(frame, Refusal)
    return frame


def test_a_device_is_let_in() -> None:
    provider, device = Provider(invitation()), applicant()
    admission = provider.judge(asked(device))
    assert isinstance(admission, Admission)
    assert admission.device == DEVICE
    answer = admission.grant(WELCOME, rng(3))
    assert WELCOME.preshared_key not in answer
    assert b"192.168.50.0" not in answer
    assert device.receive(str(PROVIDER), answer) == WELCOME


def test_it_asks_again_with_the_same_application() -> None:
    device = applicant()
    first = asked(device, 0.0)
    assert device.poll_send(0.5) is None
    assert device.poll_timeout() == 1.0
    second = asked(device, 1.0)
    assert device.poll_timeout() == 3.0
    assert unwrap(Message.decode(first).payload) == unwrap(Message.decode(second).payload)


def test_a_lost_answer_is_given_again_until_there_was_a_session() -> None:
    provider, device = Provider(invitation()), applicant()
    provider.admit(asked(device))
    again = provider.admit(asked(device, 9.0))
    assert device.receive(str(PROVIDER), again) == WELCOME
    restarted = applicant(seed=77)  # the same identity in a new process
    assert restarted.receive(str(PROVIDER), provider.admit(asked(restarted))) == WELCOME
    assert provider.book.seal(str(DEVICE))
    assert refusal_of(provider.judge(asked(device, 99.0))).reason == Reason.USED


@pytest.mark.parametrize("reason", [Reason.USED, Reason.EXPIRED, Reason.REVOKED])
def test_who_has_a_token_is_told_why_it_is_worth_nothing(reason: Reason) -> None:
    provider, device = Provider(invitation()), applicant()
    wall = NOW
    if reason is Reason.USED:
        provider.admit(asked(applicant(identity=OTHER_IDENTITY, address=OTHER)), OTHER)
    elif reason is Reason.EXPIRED:
        wall = NOW + 3600
    else:
        provider.book.revoke("laptop", NOW)
    answer = provider.judge(asked(device), wall=wall)
    assert refusal_of(answer).reason == reason
    assert isinstance(answer, bytes)
    with pytest.raises(NotAdmitted, match={1: "used already", 2: "has expired", 3: "was revoked"}[reason]):
        device.receive(str(PROVIDER), answer)


def test_a_reason_of_a_later_version_is_a_refusal_too() -> None:
    provider, device = Provider(invitation()), applicant()
    admission = provider.judge(asked(device))
    assert isinstance(admission, Admission)
    keys, application = TokenKeys.of(TOKEN.secret), admission.application
    later = Refusal.sealed(keys.mac, str(DEVICE), str(PROVIDER), application, 99)  # type: ignore[arg-type]
    with pytest.raises(NotAdmitted, match="refused this invitation"):
        device.receive(str(PROVIDER), wrap(later, rng(1)(8)))


# Silence


def test_a_stranger_meets_silence() -> None:
    other_token = Token(PROVIDER, b"other-id", TOKEN.secret)
    wrong_secret = Token(PROVIDER, TOKEN.token_id, bytes(16))
    for token in (other_token, wrong_secret):
        assert Provider(invitation()).judge(asked(applicant(token))) is None
    assert Provider().judge(asked(applicant())) is None


def test_nobody_can_use_an_application_under_another_address() -> None:
    provider = Provider(invitation())
    payload = asked(applicant())
    assert provider.judge(payload, OTHER) is None
    assert provider.judge(payload, DEVICE.sub_client(0)) is None
    assert isinstance(provider.judge(payload), Admission)


def test_an_application_for_another_provider_is_worth_nothing_here() -> None:
    elsewhere = Token(OTHER, TOKEN.token_id, TOKEN.secret)
    assert Provider(invitation()).judge(asked(applicant(elsewhere))) is None


def test_a_token_holder_cannot_apply_with_anothers_key() -> None:
    """Its MAC is right, but the key in the Noise message is not the one in the address."""
    liar = applicant(identity=OTHER_IDENTITY, address=DEVICE)
    assert Provider(invitation()).judge(asked(liar)) is None


def test_a_device_that_is_up_applies_as_its_sub_client() -> None:
    """Under its own key, and it becomes a peer under its own address."""
    sub = DEVICE.sub_client(63)
    provider, device = Provider(invitation()), applicant(address=sub)
    application = asked(device)
    admission = provider.judge(application, sub)
    assert isinstance(admission, Admission)
    assert (admission.device, admission.dest) == (DEVICE, str(sub))
    assert device.receive(str(PROVIDER), provider.admit(application, sub)) == WELCOME
    # It may be asked again, also by the device itself when it is not up any more.
    assert isinstance(provider.judge(asked(applicant())), Admission)
    twice = sub.sub_client(63)
    assert Provider(invitation()).judge(asked(applicant(address=twice)), twice) is None


def test_one_token_buys_bounded_work() -> None:
    provider = Provider(invitation())
    payload = asked(applicant())
    answers = [provider.judge(payload, now=100.0) for _ in range(BURST + 3)]
    assert sum(answer is not None for answer in answers) == BURST
    assert provider.judge(payload, now=101.0) is not None
    assert provider.judge(payload, now=101.0) is None
    other = Token(PROVIDER, b"other-id", TOKEN.secret)
    provider.book.add(invitation(other, name="other"), NOW)
    assert provider.judge(asked(applicant(other)), now=101.0) is not None, (
        "each token has a bucket of its own"
    )


def test_a_wrong_mac_costs_the_token_nothing() -> None:
    provider = Provider(invitation())
    good = asked(applicant())
    forged = application_in(Message.decode(good).payload)
    assert forged is not None
    forged = dataclasses.replace(forged, mac=bytes(16))
    for _ in range(100):
        assert provider.registrar.judge(str(DEVICE), forged, provider.book, now=0.0, wall=NOW) is None
    assert provider.judge(good) is not None


@given(st.binary(max_size=200))
def test_any_bytes_are_judged(data: bytes) -> None:
    provider = Provider(invitation())
    assert application_in(data) is None
    for kind in (3, 4, 5):
        try:
            frame = unwrap(wrap_raw(b"nc\x01" + bytes([kind]) + TOKEN.token_id + data))
        except RemoteProtocolError:
            continue
        if isinstance(frame, Application):
            assert provider.registrar.judge(str(DEVICE), frame, provider.book, now=0.0, wall=NOW) is None


@given(st.binary(min_size=1, max_size=150))
def test_a_right_mac_over_any_noise_is_judged(noise: bytes) -> None:
    """A token's holder sends garbage in the right envelope."""
    keys = TokenKeys.of(TOKEN.secret)
    frame = Application.sealed(keys.mac, str(DEVICE), str(PROVIDER), TOKEN.token_id, noise)
    provider = Provider(invitation())
    assert provider.registrar.judge(str(DEVICE), frame, provider.book, now=0.0, wall=NOW) is None


def wrap_raw(data: bytes) -> bytes:
    from nconnect.wire.message import Payload, PayloadType

    return Payload(PayloadType.BINARY, message_id=bytes(8), data=data).encode()


@settings(max_examples=60)
@given(st.data())
def test_one_flipped_bit_in_an_application_is_silence(data: st.DataObject) -> None:
    payload = bytearray(asked(applicant()))
    frame = application_in(Message.decode(payload).payload)
    assert frame is not None
    start = payload.index(frame.encode())
    bit = data.draw(st.integers(start * 8, (start + len(frame.encode())) * 8 - 1))
    payload[bit // 8] ^= 1 << bit % 8
    assert Provider(invitation()).judge(bytes(payload)) is None


@settings(max_examples=60)
@given(st.data())
def test_one_flipped_bit_in_an_answer_is_no_answer_and_the_genuine_one_still_is(data: st.DataObject) -> None:
    provider, device = Provider(invitation()), applicant()
    answer = provider.admit(asked(device))
    frame = unwrap(Message.decode(answer).payload)
    assert isinstance(frame, Grant)
    start = answer.index(frame.noise)
    bit = data.draw(st.integers(start * 8, (start + len(frame.noise)) * 8 - 1))
    forged = bytearray(answer)
    forged[bit // 8] ^= 1 << bit % 8
    assert device.receive(str(PROVIDER), bytes(forged)) is None
    assert device.receive(str(OTHER), answer) is None, "only the provider is heard"
    assert device.receive(str(PROVIDER), answer) == WELCOME


@given(st.binary(max_size=200))
def test_any_bytes_from_the_provider_are_no_answer(data: bytes) -> None:
    device = applicant()
    asked(device)
    assert device.receive(str(PROVIDER), data) is None


def test_the_provider_is_heard_over_any_of_its_links() -> None:
    provider, device = Provider(invitation()), applicant()
    answer = provider.admit(asked(device))
    assert device.receive(str(PROVIDER.sub_client(2)), answer) == WELCOME


# What was overheard


def test_an_overheard_exchange_is_useless_even_with_the_token() -> None:
    """A node kept all of it, and somebody finds the token afterwards."""
    provider, device = Provider(invitation()), applicant()
    application = asked(device)
    grant = provider.admit(application)
    # Its answer opens for nobody else, token or not; not even with the device's own identity.
    for seed in (1, 2):
        assert (
            applicant(identity=OTHER_IDENTITY, address=OTHER, seed=seed).receive(str(PROVIDER), grant) is None
        )
    assert applicant(identity=DEVICE_IDENTITY, seed=5).receive(str(PROVIDER), grant) is None
    # Repeated from elsewhere: silence. As if from the device: what comes back opens for the device alone.
    assert provider.judge(application, OTHER) is None
    repeated = provider.judge(application)
    assert isinstance(repeated, Admission)
    # With the token under an own name: it has been used.
    thief = applicant(identity=OTHER_IDENTITY, address=OTHER)
    assert refusal_of(provider.judge(asked(thief), OTHER)).reason == Reason.USED
    # And after the first session also for the device's name.
    provider.book.seal(str(DEVICE))
    assert refusal_of(provider.judge(application, now=50.0)).reason == Reason.USED


def test_an_overheard_refusal_answers_nothing_else() -> None:
    provider = Provider(invitation())
    provider.book.revoke("laptop", NOW)
    first, second = applicant(seed=1), applicant(seed=2)
    refusal = provider.judge(asked(first))
    assert isinstance(refusal, bytes)
    asked(second)
    assert second.receive(str(PROVIDER), refusal) is None
    with pytest.raises(NotAdmitted):
        first.receive(str(PROVIDER), refusal)


def test_the_preshared_key_does_not_follow_from_the_token() -> None:
    """Two grants under one token differ in all but the token id, and hold what the provider drew."""
    provider, device = Provider(invitation()), applicant()
    payload = asked(device)
    one, two = provider.judge(payload), provider.judge(payload)
    assert isinstance(one, Admission)
    assert isinstance(two, Admission)
    assert one.grant(WELCOME, rng(3)) != two.grant(WELCOME, rng(3))


def test_a_grant_that_makes_no_sense_ends_it() -> None:
    provider, device = Provider(invitation()), applicant()
    admission = provider.judge(asked(device))
    assert isinstance(admission, Admission)
    empty = dataclasses.replace(WELCOME, addresses=())
    with pytest.raises(NotAdmitted, match="same version"):
        device.receive(str(PROVIDER), admission.grant(empty, rng(3)))


def test_the_provider_can_say_that_it_failed() -> None:
    provider, device = Provider(invitation()), applicant()
    admission = provider.judge(asked(device))
    assert isinstance(admission, Admission)
    with pytest.raises(NotAdmitted, match="could not add"):
        device.receive(str(PROVIDER), admission.refuse(PROVIDER, Reason.FAILED, rng(3)))


def test_an_empty_book_knows_nobody() -> None:
    assert len(Book()) == 0
    assert Book().get(TOKEN.token_id) is None
    assert not Book().seal(str(NknAddress("x", bytes(32))))
