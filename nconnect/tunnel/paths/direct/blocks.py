"""Blocks: packets that are sealed once, and sent in pieces, each piece in a datagram. Pure.

Sealing 64 KiB at once costs a fifth of sealing it in 45 datagrams, and next to no time in Python. But a lost
datagram costs its whole block, so a sender makes blocks only while nothing is lost (`LossWatch`). Nothing of
a block is acted on before all of it proved authentic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from math import inf

from nconnect.crypto.aead import TAG_BYTES, Aead
from nconnect.model import Buffer
from nconnect.tunnel.constants import MAX_BATCH_BYTES
from nconnect.wire.direct import BLOCK_HEAD, BLOCK_HEADER_BYTES, IN_BLOCK, MAX_PIECES
from nconnect.wire.tunnel import MAX_RECORD_BYTES, RECORD_HEADER, RECORD_HEADER_BYTES

MAX_PARTIAL = 64  # blocks of which some pieces have come
MAX_PARTIAL_BYTES = 4 << 20  # of their pieces; of all peers, since pieces are not authentic yet
MAX_SENDING_S = 0.002  # guessed: nothing of a block is delivered before its last piece has come
CLEAN_S = 1.0  # guessed: so long after a loss each datagram is sealed by itself
MAX_CLEAN_S = 60.0  # and so long where there is a loss again and again


def most_bytes(datagram_bytes: int) -> int:
    """The largest batch that makes one block, with datagrams of that size."""
    return MAX_PIECES * (datagram_bytes - BLOCK_HEADER_BYTES) - TAG_BYTES


def split_records(batch: memoryview, most: int) -> Iterator[memoryview]:
    """A batch as batches of at most `most` bytes; a longer one is a record that is longer."""
    start = at = 0
    end = len(batch)
    unpack = RECORD_HEADER.unpack_from
    while end - start > most and at < end:
        after: int = at + RECORD_HEADER_BYTES + (unpack(batch, at)[0] & MAX_RECORD_BYTES)
        if after - start > most and at > start:
            yield batch[start:at]
            start = at
        at = after
    yield batch[start:]


class BlockRoom:
    """Where a block is sealed before it is sent."""

    def __init__(self) -> None:
        self._sealed = memoryview(bytearray(MAX_BATCH_BYTES + TAG_BYTES))
        heads = self._heads = memoryview(bytearray(MAX_PIECES * BLOCK_HEADER_BYTES))
        self._each_head = [
            heads[at : at + BLOCK_HEADER_BYTES] for at in range(0, len(heads), BLOCK_HEADER_BYTES)
        ]
        self._size = 0
        self._parts: list[Buffer] = []  # headers and pieces of `_size` bytes in turn

    def seal(self, aead: Aead, index: int, counter: int, batch: Buffer, piece: int) -> tuple[Buffer, ...]:
        """The headers and pieces in turn, until the next call. `piece`: the size of each but the last."""
        size = len(batch) + TAG_BYTES
        number = -(-size // piece)
        head = BLOCK_HEAD.pack(IN_BLOCK | counter << 24 | index)
        heads = head.join(_tails(number))
        self._heads[: len(heads)] = heads
        aead.seal_into(counter, heads[:BLOCK_HEADER_BYTES], batch, self._sealed)
        if piece != self._size:
            self._size = piece
            pieces = [self._sealed[at : at + piece] for at in range(0, len(self._sealed), piece)]
            self._parts = [part for both in zip(self._each_head, pieces, strict=False) for part in both]
        return (*self._parts[: 2 * number - 1], self._sealed[(number - 1) * piece : size])


@lru_cache(maxsize=MAX_PIECES)
def _tails(number: int) -> list[bytes]:
    """What follows the common part of the headers, for `bytes.join`: place and number of pieces."""
    return [b"", *(bytes((place, number)) for place in range(number))]


@lru_cache(maxsize=512)
def places(segment: int, number: int) -> list[slice]:
    """Where the pieces are in a run of datagrams of `segment` bytes."""
    return [slice(at + BLOCK_HEADER_BYTES, at + segment) for at in range(0, number * segment, segment)]


class _Partial:
    """What has come of a block."""

    def __init__(self) -> None:
        self.pieces: dict[int, tuple[int, bytes]] = {}  # in a row, by the first's place: how many, all joined
        self.count = 0
        self.size = 0

    def put(self, place: int, count: int, joined: bytes) -> None:
        old_count, old = self.pieces.get(place, (0, b""))
        self.pieces[place] = count, joined
        self.count += count - old_count
        self.size += len(joined) - len(old)

    def joined(self, number: int) -> bytes | None:
        """All `number` pieces, if they are here."""
        if self.count < number:
            return None
        row = []
        at = 0
        while at in self.pieces:
            count, joined = self.pieces[at]
            row.append(joined)
            at += count
        return b"".join(row) if at == number else None


class Assembly:
    """Blocks whose pieces did not come all at once. All peers'."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[int, int, int], _Partial] = {}  # by index, counter, number of pieces
        self._bytes = 0

    def put(
        self, index: int, counter: int, number: int, place: int, count: int, joined: bytes
    ) -> bytes | None:
        """`count` pieces from `place` on; all of their block, if it is complete now. It may be forged."""
        key = index, counter, number
        block = self._blocks.setdefault(key, _Partial())
        self._bytes -= block.size
        block.put(place, count, joined)
        self._bytes += block.size
        whole = block.joined(number)
        if whole is not None:
            self._forget(key)
        while len(self._blocks) > MAX_PARTIAL or self._bytes > MAX_PARTIAL_BYTES:
            self._forget(self._oldest_of_most())
        return whole

    def _oldest_of_most(self) -> tuple[int, int, int]:
        """The oldest block of the keys that use most of the room, in number and bytes: a peer that sends
        pieces alone must not have the others' blocks forgotten."""
        used: Counter[int] = Counter()
        for (index, _, _), block in self._blocks.items():
            used[index] += block.size + MAX_PARTIAL_BYTES // MAX_PARTIAL
        ((most, _),) = used.most_common(1)
        return next(key for key in self._blocks if key[0] == most)

    def _forget(self, key: tuple[int, int, int]) -> None:
        self._bytes -= self._blocks.pop(key).size


class LossWatch:
    """Whether nothing of what was sent has been lost lately."""

    def __init__(self) -> None:
        self._missing = 0  # bytes of data that were sent and did not arrive, as the last report says
        self._clean_at = -inf
        self._wait_s = CLEAN_S

    def is_clean(self, now: float) -> bool:
        return now >= self._clean_at

    def reported(self, missing: int, now: float) -> None:
        """The peer has reported on all that was sent before some moment: `missing` bytes have not come."""
        if missing > self._missing:
            since_s = now - self._clean_at
            if since_s > 0:  # blocks were sent since the last time
                self._wait_s = CLEAN_S if since_s > self._wait_s else min(2 * self._wait_s, MAX_CLEAN_S)
            self._clean_at = now + self._wait_s
        self._missing = missing

    def restarted(self, missing: int) -> None:
        """The peer counts anew."""
        self._missing = missing
