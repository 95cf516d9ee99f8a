"""One session's way in: puts data packets in order, and says what is to be acknowledged."""

from __future__ import annotations

from collections import deque

from nconnect.model import Buffer
from nconnect.ncp.memory import StreamMemory
from nconnect.ncp.sequence import from_wire, to_wire

MAX_HELD_PACKETS = 8192  # out of order; guessed: twice the official SDKs' window of 4,096 packets
_SMALL_BYTES = 4096  # pieces below this are joined, so that many tiny ones do not cost many times their size
MAX_RANGES_SENT = 128  # of acknowledgements in one packet; the official SDKs read any number


class NcpReceiver:
    """Counts (`sequence`) instead of sequence numbers. `data` is kept, not copied, unless it is small."""

    def __init__(self, who: str, *, window: int, mtu: int, memory: StreamMemory) -> None:
        """`who`: whose share of `memory` is used."""
        self.bytes_read = 0
        self.ready_bytes = 0
        self.received_bytes = 0  # in order, in all
        self.next = 0  # the packet that is missing
        self.end: int | None = None  # the packet behind which the stream ends
        self.duplicates = self.refused = 0
        self._who = who
        self._window = window
        self._mtu = mtu
        self._memory = memory
        self._held: dict[int, Buffer] = {}
        self._held_bytes = 0
        self._ready: deque[Buffer] = deque()
        self._to_ack: set[int] = set()
        self._closed = False

    @property
    def has_gap(self) -> bool:
        """Whether something came behind what is missing."""
        return bool(self._held)

    @property
    def at_end(self) -> bool:
        """Whether all of a stream whose end was told has come."""
        return self.end is not None and self.next > self.end

    @property
    def owes_ack(self) -> bool:
        return bool(self._to_ack)

    def receive(self, sequence: int, data: Buffer, end: bool) -> bool:
        """A data packet; whether it was new and was taken.

        What is dropped for want of room is not acknowledged, so that it comes again.
        """
        count = from_wire(sequence, self.next)
        if len(data) > self._mtu:
            self.refused += 1
            return False
        if count < self.next or count in self._held:
            self.duplicates += 1
            if len(self._to_ack) < MAX_HELD_PACKETS:
                self._to_ack.add(count)
            return False
        size = len(data)
        if self._closed:
            # What the program will not read is not acknowledged; that nothing follows may be.
            if size or not end or count != self.next:
                self.refused += 1
                return False
        elif (
            self._held_bytes + self.ready_bytes + size > self._window
            or (count > self.next and len(self._held) >= MAX_HELD_PACKETS)
            or (self.end is not None and count > self.end)
            or not self._memory.take(self._who, size, always=count == self.next and not self.ready_bytes)
        ):
            self.refused += 1
            return False
        if end:
            self.end = count
        self._to_ack.add(count)
        if count > self.next:
            self._held[count] = bytes(data) if size < _SMALL_BYTES else data
            self._held_bytes += size
            return True
        self._append(data)
        held = self._held
        while held and (more := held.pop(self.next, None)) is not None:
            self._held_bytes -= len(more)
            self._append(more)
        return True

    def read(self, most: int) -> bytes:
        """Take up to `most` bytes."""
        ready = self._ready
        if not ready:
            return b""
        parts: list[Buffer] = []
        size = 0
        while ready and size < most:
            piece = ready[0]
            if len(piece) <= most - size:
                parts.append(ready.popleft())
            else:
                view = memoryview(piece)
                parts.append(view[: most - size])
                ready[0] = view[most - size :]
            size += len(parts[-1])
        self.ready_bytes -= size
        self.bytes_read += size
        self._memory.give(self._who, size)
        return b"".join(parts)

    def acks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Starts and lengths of the ranges to be acknowledged, which count as sent; lengths () if all are 1.

        The rest, if there are more than `MAX_RANGES_SENT`, stays.
        """
        counts = sorted(self._to_ack)
        starts: list[int] = []
        lengths: list[int] = []
        last = None
        for place, count in enumerate(counts):
            if last is not None and count == last + 1:
                lengths[-1] += 1
            elif len(starts) == MAX_RANGES_SENT:
                self._to_ack = set(counts[place:])
                break
            else:
                starts.append(to_wire(count))
                lengths.append(1)
            last = count
        else:
            self._to_ack.clear()
        return tuple(starts), () if all(length == 1 for length in lengths) else tuple(lengths)

    def close(self, *, discard: bool) -> None:
        """Take nothing more; `discard`: also forget what was not read."""
        self._closed = True
        self._memory.give(self._who, self._held_bytes + (self.ready_bytes if discard else 0))
        self._held_bytes = 0
        self._held.clear()
        if discard:
            self._ready.clear()
            self.ready_bytes = 0

    def _append(self, data: Buffer) -> None:
        self.next += 1
        size = len(data)
        if not size:
            return
        self.ready_bytes += size
        self.received_bytes += size
        last = self._ready[-1] if self._ready else None
        if size >= _SMALL_BYTES:
            self._ready.append(data)
        elif isinstance(last, bytearray) and len(last) < _SMALL_BYTES:
            last += data
        else:
            self._ready.append(bytearray(data))
