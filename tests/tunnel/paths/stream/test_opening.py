"""Opening a stream: the bytes, both proofs, and that nobody without the keys gets a byte or a stream."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import DropReason
from nconnect.tunnel.paths.direct.keys import child_key
from nconnect.tunnel.paths.stream.keys import StreamKeys, stream_key
from nconnect.tunnel.paths.stream.opening import Answering, Dialling
from nconnect.wire.stream import ANSWER_BYTES, CONFIRM_BYTES, MAX_NUMBER, OPEN_BYTES
from tests.tunnel.paths.stream.pairs import A_INDEX, A_TO_B, B_INDEX, B_TO_A, PEER, Pair, sent


def test_the_keys_are_rfc_5869_with_our_info() -> None:
    extracted = hmac.digest(bytes(32), A_TO_B, "sha256")
    assert stream_key(A_TO_B) == hmac.digest(extracted, b"nconnect 1 stream\x01", "sha256")
    assert len({A_TO_B, stream_key(A_TO_B), stream_key(B_TO_A), child_key(A_TO_B)}) == 4


def test_the_bytes_of_an_opening() -> None:
    """Written down once more, from docs/protocol.md."""
    pair = Pair()
    dialling, answering = pair.dial(), pair.listen()
    there, back = stream_key(A_TO_B), stream_key(B_TO_A)

    head = B_INDEX.to_bytes(4, "little") + (1).to_bytes(4, "little") + b"n" * 16
    proved = b"\x01" + head[:4] + A_INDEX.to_bytes(4, "little") + head[4:]
    opened = head + hmac.new(there, proved, hashlib.sha256).digest()
    assert dialling.first == opened

    answer = b"m" * 16 + hmac.new(back, b"\x02" + opened + b"m" * 16, hashlib.sha256).digest()
    assert answering.receive(opened) == answer

    confirm = hmac.new(there, b"\x03" + opened + answer, hashlib.sha256).digest()
    assert dialling.receive(answer) == confirm
    assert dialling.is_open
    assert answering.receive(confirm) == b""
    assert answering.is_open
    assert answering.peer == PEER
    assert (
        (len(opened), len(answer), len(confirm)) == (OPEN_BYTES, ANSWER_BYTES, CONFIRM_BYTES) == (56, 48, 32)
    )


def test_the_recorded_bytes_of_an_opening() -> None:
    """They must never change: the other side may be another version."""
    pair = Pair()
    dialling, answering = pair.dial(), pair.listen()
    answer = sent(answering.receive(dialling.first))
    assert (dialling.first + answer + sent(dialling.receive(answer))).hex() == VECTOR


VECTOR = (
    "0b0b0b0b010000006e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6e8f6d00eec592b2fc6b907fef6458d7372fca3227916a88d6"
    "f4f1e5e603c5ac666d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d9c9d9f8fec1f30ae10aa0f82efafb2465b3147a5a9c412aa"
    "ab7924f69cfc21d329334b20e63f852b68b53362ec3108d0b5baa40f21e4d9a3dfbe228f1722eb25"
)


@given(st.lists(st.integers(1, 60), max_size=12), st.binary(max_size=100))
def test_pieces_of_any_size_open_it_and_what_follows_is_kept(cuts: list[int], early: bytes) -> None:
    pair = Pair()
    dialling, answering = pair.dial(), pair.listen()
    answer = b"".join(sent(answering.receive(piece)) for piece in pieces(dialling.first, cuts))
    confirm = b"".join(sent(dialling.receive(piece)) for piece in pieces(answer, cuts))
    assert dialling.is_open
    assert answering.receive(confirm + early) == b""
    assert answering.is_open
    assert answering.early == early


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    found = []
    for cut in cuts:
        if len(data) > cut:
            found.append(data[:cut])
            data = data[cut:]
    return [*found, data]


# --- Who gets nothing ---


@given(st.binary(max_size=3 * OPEN_BYTES))
def test_a_stranger_gets_no_byte(data: bytes) -> None:
    answering = Pair().listen()
    for chunk in (data[:7], data[7:OPEN_BYTES], data[OPEN_BYTES:]):
        if chunk:
            result = answering.receive(chunk)
            assert not result or isinstance(result, DropReason)
            if isinstance(result, DropReason):
                break
    assert not answering.is_open


@pytest.mark.parametrize("at", range(OPEN_BYTES))
def test_a_changed_open_is_refused_and_uses_up_no_number(at: int) -> None:
    pair = Pair()
    dialling = pair.dial()
    changed = bytearray(dialling.first)
    changed[at] ^= 1
    refused = pair.listen().receive(bytes(changed))
    expected = DropReason.NO_SESSION if at < 4 else DropReason.NOT_AUTHENTIC
    # Number 1 with its lowest bit changed is number 0, which nobody uses.
    assert refused is (DropReason.REPLAYED if at == 4 else expected)
    assert pair.b.newest == 0
    assert sent(pair.listen().receive(dialling.first))


@pytest.mark.parametrize("at", range(ANSWER_BYTES))
def test_a_changed_answer_is_refused(at: int) -> None:
    pair = Pair()
    dialling, answering = pair.dial(), pair.listen()
    changed = bytearray(sent(answering.receive(dialling.first)))
    changed[at] ^= 1
    assert dialling.receive(bytes(changed)) is DropReason.NOT_AUTHENTIC
    assert not dialling.is_open


@pytest.mark.parametrize("at", range(CONFIRM_BYTES))
def test_a_changed_confirm_is_refused(at: int) -> None:
    pair = Pair()
    dialling, answering = pair.dial(), pair.listen()
    changed = bytearray(sent(dialling.receive(sent(answering.receive(dialling.first)))))
    changed[at] ^= 1
    assert answering.receive(bytes(changed)) is DropReason.NOT_AUTHENTIC
    assert not answering.is_open


def test_a_recorded_open_is_refused() -> None:
    pair = Pair()
    first = pair.dial().first
    assert sent(pair.listen().receive(first))
    assert pair.listen().receive(first) is DropReason.REPLAYED
    assert sent(pair.listen().receive(pair.dial().first)), "a later one is not"


def test_an_open_that_was_overtaken_is_refused() -> None:
    pair = Pair()
    early, late = pair.dial(), pair.dial()
    assert sent(pair.listen().receive(late.first))
    assert pair.listen().receive(early.first) is DropReason.REPLAYED


def test_who_delays_a_genuine_open_gets_no_stream() -> None:
    """It is answered; without the key nothing follows, whatever was recorded of other openings."""
    pair = Pair()
    recorded, listener = pair.dial(), pair.listen(b"1" * 16)
    confirm = sent(recorded.receive(sent(listener.receive(recorded.first))))
    kept_back, delayed = pair.dial(), pair.listen(b"2" * 16)
    assert sent(delayed.receive(kept_back.first))
    assert delayed.receive(confirm) is DropReason.NOT_AUTHENTIC


def test_a_reflected_message_opens_nothing() -> None:
    pair = Pair()
    dialling = pair.dial()
    a_listens = Answering({A_INDEX: ("b", pair.a), B_INDEX: ("b", pair.a)}.get, b"r" * 16)
    assert a_listens.receive(dialling.first) is DropReason.NOT_AUTHENTIC
    assert dialling.receive(dialling.first[:ANSWER_BYTES]) is DropReason.NOT_AUTHENTIC


def test_an_answer_of_another_connection_is_refused() -> None:
    pair = Pair()
    one, other = pair.dial(b"1" * 16), pair.dial(b"2" * 16)
    answer = sent(pair.listen().receive(one.first))
    assert other.receive(answer) is DropReason.NOT_AUTHENTIC


def test_other_keys_of_the_same_index_are_refused() -> None:
    pair = Pair()
    stranger = StreamKeys((b"\x03" * 32, B_TO_A), A_INDEX, B_INDEX)
    assert pair.listen().receive(Dialling(stranger, 1, b"n" * 16).first) is DropReason.NOT_AUTHENTIC


def test_bytes_behind_an_open_are_refused() -> None:
    """Who has not seen the answer has nothing to say."""
    pair = Pair()
    assert pair.listen().receive(pair.dial().first + b"x") is DropReason.MALFORMED
    assert pair.b.newest == 0


def test_a_session_that_ends_meanwhile_opens_nothing() -> None:
    pair = Pair()
    dialling, answering = pair.dial(), pair.listen()
    confirm = sent(dialling.receive(sent(answering.receive(dialling.first))))
    pair.known.clear()
    assert answering.receive(confirm) is DropReason.NO_SESSION
    assert not answering.is_open


def test_a_stranger_is_read_no_further_than_one_message() -> None:
    pair = Pair()
    dialling, answering = pair.dial(), pair.listen()
    assert answering.wants == OPEN_BYTES
    answering.receive(dialling.first[:10])
    assert answering.wants == OPEN_BYTES - 10
    answering.receive(dialling.first[10:])
    assert answering.wants == CONFIRM_BYTES


def test_numbers_come_to_an_end() -> None:
    keys = Pair().a
    assert keys.take_number() == 1
    keys._next = MAX_NUMBER
    assert keys.take_number() == MAX_NUMBER
    assert keys.take_number() is None
