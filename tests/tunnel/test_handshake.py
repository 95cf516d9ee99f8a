"""The handshake by itself: who refuses what, and that a refusal leaves the attempt usable."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nconnect.crypto.aead import TAG_BYTES, CipherSuite
from nconnect.crypto.keys import Box, Identity
from nconnect.errors import RemoteProtocolError
from nconnect.model import NknAddress
from nconnect.tunnel.handshake import Attempt, boxed, prologue, read_initiation
from nconnect.tunnel.session import KeyPair
from nconnect.tunnel.timers import NEVER
from nconnect.wire.message import Message, Payload, PayloadType
from nconnect.wire.tunnel import Feature, HandshakeFrame, Hello, decode_handshake

RNG = random.Random(1).randbytes
ALICE, BOB = Identity(b"a" * 32), Identity(b"b" * 32)
ALICE_AT, BOB_AT = NknAddress("alice", ALICE.public_key), NknAddress("bob", BOB.public_key)
HELLO, ANSWER = Hello(7, Feature.ALL, 1, 1500, 1 << 18), Hello(0, Feature.CHECKSUM, 2, 1400, 1 << 17)
PSK = b"k" * 32


def attempt(
    suite: CipherSuite = CipherSuite.AES256GCM, psk: bytes | None = PSK, **changes: object
) -> Attempt:
    values: dict[str, object] = {
        "identity": ALICE, "address": ALICE_AT, "peer": BOB_AT, "peer_dh_key": BOB.dh_public,
        "preshared_key": psk, "suite": suite, "local_index": 11, "hello": HELLO,
        "started_at": 0.0, "rng": RNG,
    }  # fmt: skip
    return Attempt(**(values | changes))  # type: ignore[arg-type]


def answer(
    frame: HandshakeFrame, psk: bytes | None = PSK, **changes: object
) -> tuple[KeyPair, HandshakeFrame]:
    values: dict[str, object] = {
        "identity": BOB, "address": BOB_AT, "peer": ALICE_AT, "peer_dh_key": ALICE.dh_public, "rng": RNG,
    }  # fmt: skip
    initiation = read_initiation(frame, **(values | changes))  # type: ignore[arg-type]
    assert initiation.hello == HELLO
    pair, response = initiation.answer(preshared_key=psk, local_index=22, hello=ANSWER, now=5.0)
    return pair, decode_handshake(response)


def opens(sender: KeyPair, receiver: KeyPair) -> bool:
    out, opened = bytearray(5 + TAG_BYTES), bytearray(5)
    header, _ = sender.seal_into(b"batch", memoryview(out))
    return receiver.open_into(header, 0, out, memoryview(opened), 6.0) == 5 and opened == b"batch"


@pytest.mark.parametrize("suite", CipherSuite)
@pytest.mark.parametrize("psk", [None, PSK])
def test_both_sides_get_the_same_keys(suite: CipherSuite, psk: bytes | None) -> None:
    ours = attempt(suite, psk)
    theirs, response = answer(decode_handshake(ours.frame), psk)
    mine, hello = ours.finish(response, 6.0)
    assert hello == ANSWER
    assert (mine.local_index, mine.remote_index) == (11, 22) == (theirs.remote_index, theirs.local_index)
    assert mine.rekey_at < theirs.rekey_at == NEVER, "the initiator renews them"
    assert mine.cipher == theirs.cipher == suite.value
    assert opens(mine, theirs)
    assert opens(theirs, mine)


def test_own_messages_reflected_do_not_open() -> None:
    ours = attempt()
    theirs, response = answer(decode_handshake(ours.frame))
    mine, _ = ours.finish(response, 6.0)
    assert not opens(mine, mine)
    assert not opens(theirs, theirs)


def test_a_forged_response_leaves_the_attempt_usable() -> None:
    ours = attempt()
    _, response = answer(decode_handshake(ours.frame))
    other = CipherSuite.CHACHA20POLY1305.wire_id
    _, unrelated = answer(decode_handshake(attempt().frame))
    for forged in (
        dataclasses.replace(response, suite=other),
        dataclasses.replace(response, noise=b""),
        dataclasses.replace(response, noise=response.noise[:-1]),
        dataclasses.replace(response, noise=response.noise + b"x"),
        dataclasses.replace(response, noise=bytes(len(response.noise))),
        dataclasses.replace(response, noise=b"\x01" + bytes(31) + response.noise[32:]),
        unrelated,
    ):
        with pytest.raises(RemoteProtocolError):
            ours.finish(forged, 6.0)
    pair, _ = ours.finish(response, 6.0)
    assert pair.cipher == "aes256gcm"


@pytest.mark.parametrize("theirs", [None, b"x" * 32])
def test_another_preshared_key_is_refused_by_the_initiator(theirs: bytes | None) -> None:
    ours = attempt()
    _, response = answer(decode_handshake(ours.frame), theirs)
    with pytest.raises(RemoteProtocolError):
        ours.finish(response, 6.0)
    _, response = answer(decode_handshake(ours.frame))
    ours.finish(response, 6.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": ALICE},
        {"address": NknAddress("other", BOB.public_key)},
        {"address": ALICE_AT, "peer": BOB_AT},
        {"peer": NknAddress("", ALICE.public_key)},
        {"peer_dh_key": BOB.dh_public},
    ],
)
def test_an_initiation_for_or_from_somebody_else_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        answer(decode_handshake(attempt().frame), **changes)


def test_an_unknown_suite_is_refused() -> None:
    frame = dataclasses.replace(decode_handshake(attempt().frame), suite=0)
    with pytest.raises(RemoteProtocolError, match="suite 0"):
        answer(frame)


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_any_noise_is_refused(noise: bytes) -> None:
    ours = attempt()
    frame = decode_handshake(ours.frame)
    with pytest.raises(RemoteProtocolError):
        answer(dataclasses.replace(frame, noise=noise))
    with pytest.raises(RemoteProtocolError):
        ours.finish(dataclasses.replace(frame, noise=noise), 1.0)


def test_prologues_tell_everything_apart() -> None:
    short, long = NknAddress("", ALICE.public_key), NknAddress("x", ALICE.public_key)
    made = {prologue(a, b) for a in (short, long, BOB_AT) for b in (short, long, BOB_AT)}
    assert len(made) == 9


def test_a_boxed_frame_is_an_ordinary_nkn_message() -> None:
    message = Message.decode(boxed(Box(ALICE, BOB.public_key), b"frame", RNG))
    assert message.encrypted
    assert len(message.nonce) == 24
    plaintext = Box(BOB, ALICE.public_key).open(bytes(message.payload), message.nonce)
    assert plaintext is not None
    payload = Payload.decode(plaintext)
    assert (payload.type, bytes(payload.data), payload.no_reply) == (PayloadType.BINARY, b"frame", True)
    assert len(payload.message_id) == 8
