"""Blocks: sealed once, sent in pieces, opened whole or not at all; and when a sender makes them."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from nconnect.crypto.aead import CipherSuite
from nconnect.errors import DropReason
from nconnect.tunnel.paths.direct import blocks
from nconnect.tunnel.paths.direct.blocks import Assembly, BlockRoom, LossWatch, most_bytes, split_records
from nconnect.tunnel.paths.direct.keys import DirectKeys
from nconnect.wire.direct import BLOCK_HEADER, BLOCK_HEADER_BYTES, IN_BLOCK
from nconnect.wire.tunnel import RecordKind, control_batch
from tests.tunnel.paths.direct.test_keys import both, opened

DATAGRAM = 1200
BATCH = random.Random(1).randbytes(5000)


def block(keys: DirectKeys, batch: bytes = BATCH, room: BlockRoom | None = None) -> list[bytes]:
    """The datagrams of a block."""
    parts = keys.seal_block(batch, DATAGRAM, room or BlockRoom())
    return [bytes(parts[at]) + bytes(parts[at + 1]) for at in range(0, len(parts), 2)]


def opened_block(keys: DirectKeys, datagrams: list[bytes]) -> bytes | DropReason:
    header, _, number = BLOCK_HEADER.unpack_from(datagrams[0])
    sealed = b"".join(datagram[BLOCK_HEADER_BYTES:] for datagram in datagrams)
    out = memoryview(bytearray(len(sealed)))
    size = keys.open_block((header ^ IN_BLOCK) >> 24, number, sealed, out)
    return size if isinstance(size, DropReason) else bytes(out[:size])


@pytest.mark.parametrize("suite", CipherSuite)
def test_a_block_opens_once_and_uses_one_counter(suite: CipherSuite) -> None:
    a, b = both(suite)
    a.seal(b"one before")
    room = BlockRoom()
    for counter, size in enumerate((1200, 5000, 1190 * 255 - 16, 1175, 5001, 1189 * 3 - 16), 1):
        batch = BATCH[:1] * size
        datagrams = block(a, batch, room)
        header = IN_BLOCK | counter << 24 | 0x3344BB
        assert [BLOCK_HEADER.unpack_from(datagram) for datagram in datagrams] == [
            (header, place, len(datagrams)) for place in range(len(datagrams))
        ]
        assert {len(datagram) for datagram in datagrams[:-1]} <= {DATAGRAM}
        assert BLOCK_HEADER_BYTES < len(datagrams[-1]) <= DATAGRAM
        assert opened_block(b, datagrams) == batch
        assert opened_block(b, datagrams) is DropReason.REPLAYED
    assert a.counter == counter + 1
    assert opened(b, a.seal(b"one after")) == b"one after"


def test_the_largest_batch_fills_all_pieces() -> None:
    a, b = both(CipherSuite.AES256GCM)
    datagrams = block(a, bytes(most_bytes(DATAGRAM)))
    assert [len(datagram) for datagram in datagrams] == [DATAGRAM] * 255
    assert opened_block(b, datagrams) == bytes(most_bytes(DATAGRAM))


def test_of_a_forged_block_nothing_opens_and_no_counter_is_used_up() -> None:
    a, b = both(CipherSuite.AES256GCM)
    genuine = block(a)
    for number in range(len(genuine)):
        for at in (BLOCK_HEADER_BYTES, 200, len(genuine[number]) - 1):
            forged = [bytearray(datagram) for datagram in genuine]
            forged[number][at] ^= 1
            assert opened_block(b, [bytes(each) for each in forged]) is DropReason.NOT_AUTHENTIC
    first, second, *rest = genuine
    assert (
        opened_block(b, [first[:10] + second[10:], second[:10] + first[10:], *rest])
        is DropReason.NOT_AUTHENTIC
    )
    assert opened_block(b, [first[:9] + b"\x06" + first[10:], second, *rest]) is DropReason.NOT_AUTHENTIC
    assert opened_block(b, genuine[:-1]) is DropReason.NOT_AUTHENTIC
    assert opened_block(b, genuine) == BATCH


def test_a_block_does_not_open_as_a_datagram_nor_a_datagram_as_a_block() -> None:
    a, b = both(CipherSuite.AES256GCM)
    single = a.seal(b"x" * 50)
    as_block = (int.from_bytes(single[:8], "little") | IN_BLOCK).to_bytes(8, "little") + b"\0\1" + single[8:]
    assert opened_block(b, [as_block]) is DropReason.NOT_AUTHENTIC
    (one,) = block(a, b"y" * 50)
    assert b.open(1, (1 << 24 | 0x3344BB).to_bytes(8, "little") + one[10:]) is DropReason.NOT_AUTHENTIC
    assert opened(b, single) == b"x" * 50
    assert opened_block(b, [one]) == b"y" * 50


def test_batches_are_split_between_records() -> None:
    records = [(RecordKind.PACKET, bytes(size)) for size in (100, 200, 5000, 300, 50, 60)]
    batch = control_batch(*records)
    for most in (10, 54, 360, 1000, 5004, 5005, len(batch), len(batch) + 1):
        found = list(map(bytes, split_records(memoryview(batch), most)))
        assert b"".join(found) == batch
        whole = {control_batch(*records[i:j]) for i in range(6) for j in range(i + 1, 7)}
        assert set(found) <= whole
        assert all(
            len(each) <= most or each in {control_batch(record) for record in records} for each in found
        )
        assert all(len(one) + len(two) > most or most < 54 for one, two in pairwise(found))


def test_pieces_are_joined_in_any_order() -> None:
    assembly = Assembly()
    pieces = [bytes([n]) * 3 for n in range(20)]
    order = list(range(20))
    random.Random(2).shuffle(order)
    for n in order[:-1]:
        assert assembly.put(1, 7, 20, n, 1, pieces[n]) is None
        assert assembly.put(1, 7, 20, n, 1, pieces[n]) is None, "twice is once"
    last = order[-1]
    assert assembly.put(2, 7, 20, last, 1, pieces[last]) is None, "another peer's"
    assert assembly.put(1, 8, 20, last, 1, pieces[last]) is None, "another block's"
    assert assembly.put(1, 7, 21, last, 1, pieces[last]) is None, "of another number"
    assert assembly.put(1, 7, 20, last, 1, pieces[last]) == b"".join(pieces)
    assert assembly.put(1, 7, 20, last, 1, pieces[last]) is None, "it is forgotten"


def test_runs_of_pieces_that_overlap_or_leave_a_gap_are_no_block() -> None:
    assembly = Assembly()
    assert assembly.put(1, 7, 6, 0, 3, b"abc") is None
    assert assembly.put(1, 7, 6, 2, 3, b"cde") is None
    assert assembly.put(1, 7, 6, 3, 3, b"def") == b"abcdef"
    assert assembly.put(1, 8, 6, 1, 5, b"bcdef") is None
    assert assembly.put(1, 8, 6, 2, 4, b"cdef") is None


def test_what_waits_for_pieces_is_bounded() -> None:
    """The pieces are not authentic yet: anybody who has seen a datagram can make some up."""
    assembly = Assembly()
    for counter in range(3 * blocks.MAX_PARTIAL):
        assert assembly.put(1, counter, 2, 0, 1, b"x") is None
    assert assembly.put(1, 2 * blocks.MAX_PARTIAL - 1, 2, 1, 1, b"y") is None, "the oldest are forgotten"
    assert assembly.put(1, 3 * blocks.MAX_PARTIAL - 1, 2, 1, 1, b"y") == b"xy"
    large = bytes(blocks.MAX_PARTIAL_BYTES // 4)
    for counter in range(6):
        assert assembly.put(2, counter, 2, 0, 1, large) is None
    assert assembly.put(2, 1, 2, 1, 1, b"y") is None
    assert assembly.put(2, 5, 2, 1, 1, b"y") == large + b"y"


def test_a_peer_that_sends_pieces_alone_has_no_other_peers_block_forgotten() -> None:
    assembly = Assembly()
    assert assembly.put(1, 7, 2, 0, 1, b"a") is None
    for counter in range(3 * blocks.MAX_PARTIAL):
        assert assembly.put(2, counter, 2, 0, 1, b"x") is None
    for counter in range(8):
        assert assembly.put(3, counter, 2, 0, 1, bytes(blocks.MAX_PARTIAL_BYTES // 4)) is None
    assert assembly.put(1, 7, 2, 1, 1, b"b") == b"ab"


def test_after_a_loss_no_blocks_for_a_while_and_for_longer_when_it_comes_again() -> None:
    watch = LossWatch()
    assert watch.is_clean(0.0)
    watch.reported(0, 0.0)
    watch.reported(1400, 1.0)
    assert not watch.is_clean(1.0 + blocks.CLEAN_S - 0.1)
    assert watch.is_clean(1.0 + blocks.CLEAN_S)
    watch.reported(1400, 2.0)
    assert watch.is_clean(2.0), "nothing more was lost"
    watch.reported(64_000, 2.1)
    assert not watch.is_clean(2.1 + 2 * blocks.CLEAN_S - 0.1)
    watch.reported(65_400, 2.2)  # a loss without blocks: not held against them
    assert watch.is_clean(2.2 + 2 * blocks.CLEAN_S)
    watch.reported(66_000, 100.0)
    assert watch.is_clean(100.0 + blocks.CLEAN_S), "it was clean for long"
    now = 101.1
    for number in range(10):
        watch.reported(70_000 * (number + 1), now)
        while not watch.is_clean(now):
            now += 0.5
    assert now < 101.1 + 10 * (blocks.MAX_CLEAN_S + 0.5)


def test_what_came_late_or_is_counted_anew_is_no_loss() -> None:
    watch = LossWatch()
    watch.reported(5000, 1.0)
    watch.reported(0, 3.0)
    watch.restarted(1 << 20)
    watch.reported(1 << 20, 3.1)
    assert watch.is_clean(3.1)
    watch.reported((1 << 20) + 1, 3.2)
    assert not watch.is_clean(3.2)
