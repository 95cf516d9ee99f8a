"""Key pairs, and how their epochs follow one another."""

from __future__ import annotations

import pytest

from nconnect.crypto.aead import TAG_BYTES, CipherSuite
from nconnect.errors import DropReason
from nconnect.tunnel.constants import (
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_S,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_RECEIVE_S,
    REKEY_AFTER_S,
)
from nconnect.tunnel.session import KeyPair, Session
from nconnect.tunnel.timers import NEVER
from nconnect.wire.tunnel import DATA_HEADER

OUT = memoryview(bytearray(2000))


def key_pair(index: int = 1, *, initiator: bool = True, now: float = 0.0) -> KeyPair:
    """One that would open what it seals itself."""
    keys = (b"k" * 32, b"k" * 32)
    return KeyPair(CipherSuite.AES256GCM, keys, index, index + 100, initiator=initiator, now=now)


def seal(pair: KeyPair, batch: bytes) -> tuple[bytes, bytes]:
    out = bytearray(len(batch) + TAG_BYTES)
    header, size = pair.seal_into(batch, memoryview(out))
    assert size == len(out)
    return header, bytes(out)


def test_each_batch_has_its_own_counter_and_opens_once() -> None:
    pair = key_pair()
    sealed = [seal(pair, bytes([n])) for n in range(3)]
    assert [DATA_HEADER.unpack(header)[3:] for header, _ in sealed] == [(101, 0), (101, 1), (101, 2)]
    for n in (2, 0, 1):
        assert pair.open_into(sealed[n][0], n, sealed[n][1], OUT, 0) == 1
        assert OUT[0] == n
        assert pair.open_into(sealed[n][0], n, sealed[n][1], OUT, 0) is DropReason.REPLAYED


def test_a_forged_batch_uses_up_no_counter() -> None:
    pair = key_pair()
    header, sealed = seal(pair, b"batch")
    assert pair.open_into(header, 0, sealed[:-1] + b"x", OUT, 0) is DropReason.NOT_AUTHENTIC
    assert pair.open_into(header[:-1] + b"x", 0, sealed, OUT, 0) is DropReason.NOT_AUTHENTIC
    far = 10**6
    assert pair.open_into(header, far, sealed, OUT, 0) is DropReason.NOT_AUTHENTIC
    assert pair.open_into(header, 0, sealed, OUT, 0) == 5


def test_keys_age() -> None:
    pair = key_pair(now=1000)
    header, sealed = seal(pair, b"batch")
    just_before = 1000 + REJECT_AFTER_S - 0.001
    assert pair.can_send(just_before)
    assert not pair.can_send(1000 + REJECT_AFTER_S)
    assert pair.open_into(header, 0, sealed, OUT, 1000 + REJECT_AFTER_S) is DropReason.KEY_EXPIRED
    assert pair.open_into(header, 0, sealed, OUT, just_before) == 5


@pytest.mark.parametrize("initiator", [True, False])
def test_only_the_initiator_renews_by_age(initiator: bool) -> None:
    pair = key_pair(initiator=initiator)
    assert pair.rekey_at == (REKEY_AFTER_S if initiator else NEVER)
    assert pair.rekey_on_receive_at == (REKEY_AFTER_RECEIVE_S if initiator else NEVER)


@pytest.mark.parametrize("initiator", [True, False])
def test_counters_run_out(initiator: bool) -> None:
    pair = key_pair(initiator=initiator)
    pair.counter = REKEY_AFTER_MESSAGES - 1
    seal(pair, b"before")
    assert pair.rekey_at > 0
    seal(pair, b"at")
    assert pair.rekey_at <= 0
    pair.counter = REJECT_AFTER_MESSAGES - 1
    assert pair.can_send(0)
    header, sealed = seal(pair, b"last")
    assert not pair.can_send(0)
    assert pair.open_into(header, REJECT_AFTER_MESSAGES - 1, sealed, OUT, 0) == 4
    header, sealed = seal(pair, b"over")
    assert pair.open_into(header, REJECT_AFTER_MESSAGES, sealed, OUT, 0) is DropReason.REPLAYED


def test_epochs_of_the_initiator() -> None:
    session, pairs = Session(), [key_pair(n) for n in range(3)]
    assert session.initiated(pairs[0]) == []
    assert session.initiated(pairs[1]) == []
    assert session.initiated(pairs[2]) == [pairs[0]]
    assert (session.previous, session.current, session.next) == (pairs[1], pairs[2], None)


def test_epochs_of_the_responder() -> None:
    session, pairs = Session(), [key_pair(n) for n in range(4)]
    assert session.responded(pairs[0]) == []
    assert session.current is None
    assert session.received_on(pairs[0]) == []
    assert session.current is pairs[0]
    assert session.responded(pairs[1]) == []
    assert session.responded(pairs[2]) == [pairs[1]]
    assert session.received_on(pairs[0]) == []  # still on its way under the current one
    assert session.received_on(pairs[2]) == []
    assert (session.previous, session.current, session.next) == (pairs[0], pairs[2], None)
    session.responded(pairs[3])
    assert session.received_on(pairs[3]) == [pairs[0]]


def test_after_crossed_handshakes_both_pairs_still_receive() -> None:
    session, pairs = Session(), [key_pair(n) for n in range(5)]
    session.initiated(pairs[0])
    session.responded(pairs[1])
    assert session.initiated(pairs[2]) == []
    assert (session.crossed, session.previous, session.current) == (pairs[1], pairs[0], pairs[2])
    assert session.next is None
    session.responded(pairs[3])
    assert session.received_on(pairs[3]) == [pairs[1], pairs[0]]
    assert session.initiated(pairs[4]) == [pairs[2]]
    assert (session.crossed, session.previous, session.current) == (None, pairs[3], pairs[4])


def test_erase_gives_back_everything_once() -> None:
    session, pairs = Session(), [key_pair(n) for n in range(4)]
    session.initiated(pairs[1])
    session.responded(pairs[0])
    session.initiated(pairs[2])
    session.responded(pairs[3])
    assert session.erase() == pairs
    assert session.erase() == []
    assert session.crossed is session.previous is session.current is session.next is None
