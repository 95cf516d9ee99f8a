"""Batches in order again: those striped over several lanes, and those of a single lane that disturbs them.

`ReorderBuffer` holds numbered batches that overtook others, until those are there or have been waited for
long enough. What comes after it was given up passes at once: nothing is ever dropped here.

Striped batches carry a number and how long one may wait for those before it, which the sender computes from
its lanes' round trips (record STRIPE; docs/protocol.md).

`Order` does the same for a single lane, by the counters of the batches. Some nodes let messages of one pair
overtake each other; whether this one does is learnt. A late batch's lateness is the time between the first
higher counter and this batch. While batches come late, one that overtook waits for what is missing: for twice
the greatest recent lateness, and at most `MAX_ORDER_WAIT_S`. So on a path that keeps the order nothing waits,
not even after a loss, and a batch in its turn never does. TCP segments never wait: TCP puts them in order.
"""

from __future__ import annotations

from collections import deque
from math import inf

from nconnect.ip.packet import PROTOCOL_TCP, transport
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES

MISSING_WAIT_S = 0.25  # of a striped batch, whatever the sender says; guessed: a TCP sends again by then
HELD_BYTES_MOST = 4 << 20  # 0.25 s at 134 Mbit/s
RESTART = 1 << 15  # a number that far from the expected one begins a new count

MAX_ORDER_WAIT_S = 0.030  # on a single lane; measured: docs/decisions/0011
FORGET_S = 10.0  # guessed: a path that has kept the order for so long keeps it
_KEEP = 0.99  # with each late batch, the greatest lateness fades to this part of it
MAX_GAPS = 256  # remembered: what is later than that many later ones is late by as much as the oldest
HELD_BATCH_BYTES = 2048  # counted for a held batch besides its packets: bounds how many small ones are held

_SPAN = 1 << 32  # of numbers


class ReorderBuffer:
    """The striped batches of one peer. A packet list given to `put` is handed out once, in order."""

    __slots__ = ("_held", "_next", "_until", "held_bytes")

    def __init__(self, first: int | None = None) -> None:
        """`first` is the number that is expected; None: whichever comes first."""
        self._next = first
        self._held: dict[int, tuple[list[memoryview], int, float]] = {}  # number -> packets, bytes, until
        self.held_bytes = 0
        self._until = inf  # no batch waits until before then

    def __bool__(self) -> bool:
        """Whether anything is held."""
        return bool(self._held)

    def is_next(self, number: int) -> bool:
        """Whether this batch is in its turn or past it, so that its packets may be used where they lie."""
        ahead = self._ahead(number)
        return ahead <= 0

    def put(
        self, number: int, packets: list[memoryview], size: int, wait_s: float, now: float
    ) -> list[memoryview]:
        """Take a batch; all packets that may pass now, in order. Held packets must stay valid."""
        ahead = self._ahead(number)
        if ahead < 0 or number in self._held:
            return packets
        if ahead > 0:
            until = now + min(wait_s, MISSING_WAIT_S)
            self._held[number] = (packets, size, until)
            self.held_bytes += size
            self._until = min(self._until, until)
            return self._skip() if self.held_bytes > HELD_BYTES_MOST else []
        self._next = (number + 1) % _SPAN
        return packets + self._run() if self._held else packets

    def next_at(self) -> float:
        """When `expire` is to be called, which may find that there is nothing to do; infinite if never."""
        return self._until if self._held else inf

    def expire(self, now: float) -> list[memoryview]:
        """Give up waiting for what is overdue: the packets that may pass now."""
        passed: list[memoryview] = []
        while self.next_at() <= now:
            self._until = min(until for _, _, until in self._held.values())
            if self._until <= now:
                passed += self._skip()
        return passed

    def release(self) -> list[memoryview]:
        """Wait for nothing any more: all that is held, in order."""
        passed: list[memoryview] = []
        while self._held:
            passed += self._skip()
        return passed

    def jump(self, number: int) -> None:
        """What is missing before this batch is not waited for."""
        self._next = number

    def _ahead(self, number: int) -> int:
        """How many batches are missing before this one; negative: its turn is over."""
        if self._next is None:
            self._next = number
        ahead = (number - self._next + _SPAN // 2) % _SPAN - _SPAN // 2
        if abs(ahead) > RESTART and not self._held:
            self._next, ahead = number, 0
        return ahead

    def _skip(self) -> list[memoryview]:
        """Go on behind the gap."""
        assert self._next is not None
        begin = self._next
        self._next = min(self._held, key=lambda number: (number - begin) % _SPAN)
        return self._run()

    def _run(self) -> list[memoryview]:
        passed: list[memoryview] = []
        assert self._next is not None
        while (entry := self._held.pop(self._next, None)) is not None:
            passed += entry[0]
            self.held_bytes -= entry[1]
            self._next = (self._next + 1) % _SPAN
        if not self._held:
            self._until = inf
        return passed


class Order:
    """One peer's batches on a single lane. Each packet list given to `put` is handed out once.

    A batch is in its turn, and need not be given to `put`, when it is the first after the highest counter
    that has come under its keys, the keys are those of `index`, and nothing `waits`.
    """

    __slots__ = ("_gaps", "_late_at", "_late_s", "_old_index", "_queue", "index", "waits")

    def __init__(self) -> None:
        self.index = self._old_index = 0  # of the keys
        self.waits = False  # whether a batch is held
        self._queue = ReorderBuffer(0)
        # (who left a gap before it, when it came)
        self._gaps: deque[tuple[int, float]] = deque(maxlen=MAX_GAPS)
        self._late_s = 0.0  # the greatest recent lateness
        self._late_at = -inf

    def wait_s(self, now: float) -> float:
        """How long a batch that overtakes waits now."""
        if self._late_s > MAX_ORDER_WAIT_S or now - self._late_at > FORGET_S:
            return 0.0
        return min(2 * self._late_s, MAX_ORDER_WAIT_S)

    def put(
        self, index: int, counter: int, newest: int, packets: list[memoryview], size: int, now: float
    ) -> list[memoryview]:
        """Take a batch that is not in its turn; all packets that may pass now. What has to wait is copied.

        `newest`: the highest counter that had come under these keys before, -1 if none.
        """
        if index == self._old_index:  # keys that were replaced: it has missed more than its turn
            return packets
        passed = self._begin(index) if index != self.index else []
        if not self.waits:
            self._queue.jump((newest + 1) % _SPAN)
        if counter < newest:
            self._note_late(counter, now)
        elif counter > newest + 1:
            self._gaps.append((counter, now))
        wait_s = self.wait_s(now)
        number = counter % _SPAN
        if not self._queue.is_next(number):
            if wait_s or self._queue:
                passed += [packet for packet in packets if may_overtake(packet)]
                packets = [memoryview(bytes(packet)) for packet in packets if not may_overtake(packet)]
            else:
                self._queue.jump(number)
        passed += self._queue.put(number, packets, size + HELD_BATCH_BYTES, wait_s, now)
        self.waits = bool(self._queue)
        return passed

    def next_at(self) -> float:
        """When `expire` has something to do; infinite if never."""
        return self._queue.next_at()

    def expire(self, now: float) -> list[memoryview]:
        """Give up waiting for what is overdue: the packets that may pass now."""
        passed = self._queue.expire(now)
        self.waits = bool(self._queue)
        return passed

    def _begin(self, index: int) -> list[memoryview]:
        """Other keys, with counters of their own: what waited under the old ones passes."""
        passed = self._queue.release()
        self._old_index, self.index = self.index, index
        self.waits = False
        self._queue = ReorderBuffer(0)
        self._gaps.clear()
        return passed

    def _note_late(self, counter: int, now: float) -> None:
        since = now
        for overtaker, at in reversed(self._gaps):
            if overtaker < counter:
                break
            since = at
        self._late_s = max(now - since, _KEEP * self._late_s)
        self._late_at = now


def may_overtake(record: memoryview) -> bool:
    """TCP puts itself in order, and each moment that it waits makes it slower."""
    return transport(record[VIRTIO_HEADER_BYTES:])[0] == PROTOCOL_TCP
