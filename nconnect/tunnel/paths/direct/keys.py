"""The keys of the direct path: children of a session's keys, with a counter and a replay window of their own.

A child for each direction is HKDF-SHA256 (RFC 5869) of the session's key of that direction, without a salt,
with the info `nconnect 1 direct`. So the relayed lanes and the direct path cannot disturb each other's replay
windows, and a datagram says nothing about how much goes by the relay.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from nconnect.crypto.aead import TAG_BYTES, Aead, CipherSuite, ReplayWindow
from nconnect.crypto.keys import KEY_BYTES
from nconnect.errors import DropReason
from nconnect.model import Buffer
from nconnect.tunnel.paths.direct.blocks import BlockRoom
from nconnect.wire.direct import (
    BLOCK_HEADER,
    BLOCK_HEADER_BYTES,
    HEADER_BYTES,
    IN_BLOCK,
    INDEX_MASK,
    MAX_COUNTER,
    encode_header,
)

INFO = b"nconnect 1 direct"
DIRECT_REPLAY_WINDOW = 16384  # a gigabit of full datagrams for 0.18 s; paths that reorder by more are rare
_PACK = Struct("<Q").pack  # `encode_header`'s
REJECT_FROM = MAX_COUNTER - DIRECT_REPLAY_WINDOW  # keys of 180 s never get there


def child_key(session_key: bytes) -> bytes:
    """The direct path's key for the direction that `session_key` (32 bytes) is for."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=INFO).derive(session_key)


class DirectKeys:
    """One epoch's keys of the direct path.

    `local_index` and `remote_index` are the session's; only their lower 24 bits are sent, so a side must not
    have two sessions at once whose indices agree in these.
    """

    __slots__ = ("_receive", "_send", "_window", "counter", "local_index", "remote_index")

    def __init__(self, *, local_index: int, remote_index: int, send: Aead, receive: Aead) -> None:
        self.local_index = local_index
        self.remote_index = remote_index
        self.counter = 0  # of the next datagram
        self._send = send
        self._receive = receive
        self._window = ReplayWindow(DIRECT_REPLAY_WINDOW)

    @classmethod
    def of_session(
        cls, suite: CipherSuite, *, local_index: int, remote_index: int, send: bytes, receive: bytes
    ) -> DirectKeys:
        """From the session's own keys, 32 bytes each."""
        return cls(
            local_index=local_index,
            remote_index=remote_index,
            send=suite.aead(child_key(send)),
            receive=suite.aead(child_key(receive)),
        )

    @property
    def newest(self) -> int:
        """The highest counter that arrived; -1 before the first."""
        return self._window.newest

    def is_fresh(self, counter: int) -> bool:
        """Whether no datagram with this counter has come, and it is not too old."""
        return self._window.is_fresh(counter)

    def can_send(self) -> bool:
        return self.counter < REJECT_FROM

    def seal(self, batch: Buffer) -> bytes:
        """A datagram with this batch. Only while `can_send`."""
        header = encode_header(self.remote_index, self.counter)
        sealed = self._send.seal(self.counter, header, batch)
        self.counter += 1
        return header + sealed

    def seal_run(self, batches: Sequence[Buffer]) -> tuple[bytes, ...]:
        """Datagrams with these batches, under counters that follow one another; each is two parts."""
        first, number = self.counter, len(batches)
        self.counter = first + number
        index = self.remote_index & INDEX_MASK
        headers = list(map(_PACK, range(first << 24 | index, first + number << 24 | index, 1 << 24)))
        parts = [b""] * (2 * number)
        parts[::2] = headers
        parts[1::2] = self._send.seal_run(first, headers, batches)
        return tuple(parts)

    def seal_one(self, batch: Buffer) -> tuple[bytes, bytes]:
        """The same as `seal`, in two parts: for a packet that is alone."""
        counter = self.counter
        self.counter = counter + 1
        header = _PACK(counter << 24 | self.remote_index & INDEX_MASK)
        return header, self._send.seal(counter, header, batch)

    def seal_block(self, batch: Buffer, datagram_bytes: int, room: BlockRoom) -> tuple[Buffer, ...]:
        """A block with this batch (`BlockRoom.seal`), which has at most `most_bytes(datagram_bytes)`."""
        counter, self.counter = self.counter, self.counter + 1
        index = self.remote_index & INDEX_MASK
        return room.seal(self._send, index, counter, batch, datagram_bytes - BLOCK_HEADER_BYTES)

    def open_block(self, counter: int, number: int, sealed: Buffer, out: memoryview) -> int | DropReason:
        """Open a block of `number` pieces into `out`; the size of its batch, or why not.

        A counter is used up by a genuine block only. `out` holds `len(sealed)` bytes.
        """
        if not self._window.is_fresh(counter):
            return DropReason.REPLAYED
        header = BLOCK_HEADER.pack(IN_BLOCK | counter << 24 | self.local_index & INDEX_MASK, 0, number)
        size = self._receive.open_into(counter, header, sealed, out)
        if size is None:
            return DropReason.NOT_AUTHENTIC
        self._window.mark(counter)
        return size

    def open_run(self, counter: int, run: memoryview, segment: int) -> list[bytes] | None:
        """The batches in datagrams of `segment` bytes (the last may be shorter), numbered from `counter` on.

        None if a counter is not above all that came, or one is not authentic: then try them one by one.
        """
        if counter <= self._window.newest:
            return None
        number = -(-len(run) // segment)
        at_headers, at_sealed = _places(segment, number)
        headers, sealed = map(run.__getitem__, at_headers), map(run.__getitem__, at_sealed)
        batches = self._receive.open_run(counter, headers, sealed)
        if batches is not None:
            self._window.mark_run(counter, number)
        return batches

    def open(self, counter: int, datagram: Buffer) -> bytes | DropReason:
        """The batch in a datagram whose header (`decode_header`) has `counter`; or why not.

        A counter is used up by a genuine datagram only.
        """
        window = self._window
        if counter <= window.newest and not window.is_fresh(counter):
            return DropReason.REPLAYED
        view = memoryview(datagram)
        if len(view) < HEADER_BYTES + TAG_BYTES:
            return DropReason.MALFORMED
        batch = self._receive.open(counter, bytes(view[:HEADER_BYTES]), view[HEADER_BYTES:])
        if batch is None:
            return DropReason.NOT_AUTHENTIC
        window.mark(counter)
        return batch


@lru_cache(maxsize=256)
def _places(segment: int, number: int) -> tuple[list[slice], list[slice]]:
    """Where the headers, and where the sealed batches are in a run."""
    starts = range(0, number * segment, segment)
    return (
        [slice(at, at + HEADER_BYTES) for at in starts],
        [slice(at + HEADER_BYTES, at + segment) for at in starts],
    )
