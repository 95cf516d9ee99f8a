"""Batches on a single lane in order again, by their counters, where the path disturbs it. Pure.

Some nodes let messages of one pair overtake each other. Whether this one does is learnt: a batch that comes
after a later one is late by the time since that one came. Only while that happens does a batch that overtook
wait for what is missing: for twice the greatest lateness of late, and never beyond `MAX_WAIT_S`. So on a path
that keeps the order nothing ever waits, not even after a loss; and a batch that comes in its turn never does.
TCP never does either: it puts itself in order.
"""

from __future__ import annotations

from collections import deque
from math import inf

from nconnect.ip.packet import PROTOCOL_TCP, transport
from nconnect.tunnel.paths.reorder import ReorderBuffer
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES

MAX_WAIT_S = 0.030  # measured: docs/decisions/0011
FORGET_S = 10.0  # guessed: a path that has kept the order for so long keeps it
KEEP = 0.99  # of the greatest lateness, with each late batch
MAX_GAPS = 256  # remembered: what is later than that many later ones is late by as much as the oldest
SPAN = 1 << 32
BATCH_BYTES = 2048  # reckoned for a held batch beside its packets, so that small ones are bounded in number


class Order:
    """One peer's batches. Each packet list given to `put` is handed out once."""

    __slots__ = ("_gaps", "_highest", "_index", "_late_at", "_late_s", "_old_index", "_queue", "_turn")

    def __init__(self) -> None:
        self._index = self._old_index = 0  # of the keys
        self._highest = -1  # counter that came
        self._turn = 0  # the counter that passes at once; -1 while a batch is held
        self._queue = ReorderBuffer(0)
        self._gaps: deque[tuple[int, float]] = deque(
            maxlen=MAX_GAPS
        )  # (who left a gap before it, when it came)
        self._late_s = 0.0  # the greatest lateness of late
        self._late_at = -inf

    @property
    def held_bytes(self) -> int:
        return self._queue.held_bytes

    def passes(self, index: int, counter: int) -> bool:
        """Whether this batch comes in its turn while none waits: then that was all."""
        if index != self._index or counter != self._turn:
            return False
        self._highest = counter
        self._turn = counter + 1
        return True

    def wait_s(self, now: float) -> float:
        """How long a batch that overtakes waits now."""
        if self._late_s > MAX_WAIT_S or now - self._late_at > FORGET_S:
            return 0.0
        return min(2 * self._late_s, MAX_WAIT_S)

    def put(
        self, index: int, counter: int, packets: list[memoryview], size: int, now: float
    ) -> list[memoryview]:
        """Take a batch that `passes` did not; all packets that may pass now. What is to wait is copied."""
        if index == self._old_index:  # keys that were replaced: it has missed more than its turn
            return packets
        passed = self._begin(index) if index != self._index else []
        if self._turn >= 0:
            self._queue.jump(self._turn % SPAN)
        if counter < self._highest:
            self._note_late(counter, now)
        elif counter > self._highest + 1:
            self._gaps.append((counter, now))
        self._highest = max(self._highest, counter)
        wait_s = self.wait_s(now)
        number = counter % SPAN
        if not self._queue.is_next(number):
            if wait_s or self._queue:
                passed += [packet for packet in packets if _may_overtake(packet)]
                packets = [memoryview(bytes(packet)) for packet in packets if not _may_overtake(packet)]
            else:
                self._queue.jump(number)
        passed += self._queue.put(number, packets, size + BATCH_BYTES, wait_s, now)
        self._look_whose_turn()
        return passed

    def next_at(self) -> float:
        """When `expire` has something to do; infinite if never."""
        return self._queue.next_at()

    def expire(self, now: float) -> list[memoryview]:
        """Give up waiting for what is overdue: the packets that may pass now."""
        passed = self._queue.expire(now)
        self._look_whose_turn()
        return passed

    def _look_whose_turn(self) -> None:
        number = self._queue.expected
        if number is None:
            self._turn = -1
        else:
            self._turn = self._highest + 1 - (self._highest + 1 - number) % SPAN

    def _begin(self, index: int) -> list[memoryview]:
        """Other keys, with counters of their own: what waited under the old ones passes."""
        passed = self._queue.release()
        self._old_index, self._index = self._index, index
        self._highest = -1
        self._turn = 0
        self._queue = ReorderBuffer(0)
        self._gaps.clear()
        return passed

    def _note_late(self, counter: int, now: float) -> None:
        since = now
        for overtaker, at in reversed(self._gaps):
            if overtaker < counter:
                break
            since = at
        self._late_s = max(now - since, KEEP * self._late_s)
        self._late_at = now


def _may_overtake(record: memoryview) -> bool:
    """TCP puts itself in order, and each moment that it waits makes it slower."""
    return transport(record[VIRTIO_HEADER_BYTES:])[0] == PROTOCOL_TCP
