"""The direct path's keys: derived as documented, one window each; only what the peer sealed opens."""

from __future__ import annotations

import hmac

import pytest

from nconnect.crypto.aead import CipherSuite
from nconnect.errors import DropReason
from nconnect.tunnel.paths.direct.keys import DIRECT_REPLAY_WINDOW, REJECT_FROM, DirectKeys, child_key
from nconnect.wire.direct import decode_header

A_TO_B, B_TO_A = b"\x01" * 32, b"\x02" * 32


def both(suite: CipherSuite) -> tuple[DirectKeys, DirectKeys]:
    a = DirectKeys.of_session(suite, local_index=0x1122AA, remote_index=0x3344BB, send=A_TO_B, receive=B_TO_A)
    b = DirectKeys.of_session(suite, local_index=0x3344BB, remote_index=0x1122AA, send=B_TO_A, receive=A_TO_B)
    return a, b


def opened(keys: DirectKeys, datagram: bytes) -> bytes | DropReason:
    return keys.open(decode_header(datagram)[1], datagram)


def test_the_child_key_is_rfc_5869_with_our_info() -> None:
    extracted = hmac.digest(bytes(32), A_TO_B, "sha256")
    assert child_key(A_TO_B) == hmac.digest(extracted, b"nconnect 1 direct\x01", "sha256")
    assert child_key(A_TO_B) not in (A_TO_B, child_key(B_TO_A))


@pytest.mark.parametrize("suite", CipherSuite)
def test_both_directions_open_once(suite: CipherSuite) -> None:
    a, b = both(suite)
    there, back = a.seal(b"to b"), b.seal(b"to a")
    assert decode_header(there) == (0x3344BB, 0)
    assert opened(b, there) == b"to b"
    assert opened(a, back) == b"to a"
    assert opened(b, there) is DropReason.REPLAYED
    assert opened(a, there) is DropReason.REPLAYED  # reflected: its counter was used by the genuine one
    assert decode_header(a.seal(b"")) == (0x3344BB, 1)
    assert b.newest == 0


def test_what_is_forged_does_not_open_and_uses_up_no_counter() -> None:
    a, b = both(CipherSuite.AES256GCM)
    genuine = a.seal(b"batch")
    for at in range(len(genuine)):
        forged = bytearray(genuine)
        forged[at] ^= 1
        assert opened(b, bytes(forged)) is DropReason.NOT_AUTHENTIC
    assert opened(a, genuine) is DropReason.NOT_AUTHENTIC  # reflected to its sender
    assert b.open(0, genuine[:23]) is DropReason.MALFORMED
    assert opened(b, genuine) == b"batch"


def test_a_datagram_may_be_late_by_the_window_and_no_more() -> None:
    a, b = both(CipherSuite.AES256GCM)
    late = [a.seal(b"late"), a.seal(b"late")]
    a.counter = DIRECT_REPLAY_WINDOW
    assert opened(b, a.seal(b"newest")) == b"newest"
    assert opened(b, late[0]) is DropReason.REPLAYED
    assert opened(b, late[1]) == b"late"


def test_a_counter_never_comes_round() -> None:
    a, _ = both(CipherSuite.AES256GCM)
    assert a.can_send()
    a.counter = REJECT_FROM
    assert not a.can_send()


@pytest.mark.parametrize("suite", CipherSuite)
def test_a_run_is_datagrams_like_others(suite: CipherSuite) -> None:
    a, b = both(suite)
    a.seal(b"one before")
    parts = a.seal_run([b"first", b"again", b"x"])
    datagrams = [parts[n] + parts[n + 1] for n in range(0, len(parts), 2)]
    assert a.counter == 4
    assert [decode_header(datagram) for datagram in datagrams] == [(0x3344BB, n) for n in (1, 2, 3)]
    assert opened(b, datagrams[1]) == b"again"
    run = memoryview(b"".join(datagrams))
    assert b.open_run(1, run, len(datagrams[0])) is None  # 2 has come already
    assert [opened(b, datagram) for datagram in datagrams] == [b"first", DropReason.REPLAYED, b"x"]


def test_a_run_opens_once_and_only_whole() -> None:
    a, b = both(CipherSuite.AES256GCM)
    run = bytearray(b"".join(a.seal_run([b"first", b"again", b"x"])))
    size = 8 + 5 + 16
    run[-1] ^= 1
    assert b.open_run(0, memoryview(run), size) is None
    run[-1] ^= 1
    assert b.open_run(0, memoryview(run), size) == [b"first", b"again", b"x"]
    assert b.open_run(0, memoryview(run), size) is None
    assert opened(b, bytes(run[:size])) is DropReason.REPLAYED
