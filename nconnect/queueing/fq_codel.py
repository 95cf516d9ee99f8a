"""Fair queueing with controlled delay: FQ-CoDel (RFC 8290) over CoDel (RFC 8289), for any kind of item.

Flows take turns by bytes (deficit round robin). A flow that was idle goes first, so that a sparse flow never
waits behind a bulk flow. Within a flow, CoDel drops (or marks) items at the head when every item that left
during `interval_s` had waited longer than `target_s`. When the queue exceeds `max_bytes`, the flow that holds
most loses its oldest items. So the queue is bounded in bytes by `max_bytes`, in memory by `max_flows`, and in
time by CoDel.

Differences from RFC 8290: only flows that hold items cost memory (their CoDel state is forgotten when they
go idle); at the bound, as little as needed is dropped from the largest flow, instead of half of it (rounded
up if there are many flows to search).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import sqrt
from operator import attrgetter
from typing import Generic, TypeVar

from nconnect.errors import DropReason
from nconnect.queueing.histogram import Histogram

_T = TypeVar("_T")

# RFC 8290, section 5.2: interval of the order of a worst-case round trip, target 5 to 10 % of it.
_INTERVAL_S = 0.100
TARGET_S = 0.005
QUANTUM_BYTES = 1514  # a full Ethernet frame; section 5.2.4
MAX_FLOWS = 1024  # section 5.2.6
# Measured. CoDel leaves a flow that holds no more than this alone, however long it waits for its turn: if
# many flows share a slow link, each needs at least this much.
FEW_QUANTA = 2

# With more flows than this, one search for the largest flow drops more than one item.
_FEW_FLOWS = 8


class FairQueue(Generic[_T]):
    """A queue of items of many flows, bounded by `max_bytes`.

    The queue owns an item from `enqueue` until it gives it to the caller of `dequeue` or to `on_drop`;
    exactly one of the two gets each item. Before CoDel drops an item it calls `mark`; if that returns True,
    the item has been marked "congestion experienced" and is delivered. Times are seconds of any monotonic
    clock. Neither callback may call the queue. If `target_s` is infinite, CoDel drops nothing.
    """

    __slots__ = (
        "_count", "_flows", "_interval_s", "_mark", "_max_flows", "_new", "_old", "_on_drop", "_quantum",
        "_target_s", "bytes_held", "delay_drops", "delays", "full_drops", "max_bytes",
    )  # fmt: skip

    def __init__(
        self,
        *,
        max_bytes: int,
        quantum_bytes: int = QUANTUM_BYTES,
        target_s: float = TARGET_S,
        interval_s: float = _INTERVAL_S,
        max_flows: int = MAX_FLOWS,
        mark: Callable[[_T], bool] | None = None,
        on_drop: Callable[[_T, DropReason], None] | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self.bytes_held = 0
        self.full_drops = 0  # DropReason.QUEUE_FULL
        self.delay_drops = 0  # DropReason.QUEUE_DELAY
        self.delays: Histogram | None = None  # how long delivered items waited; set it to have them counted
        self._quantum = quantum_bytes
        self._target_s = target_s
        self._interval_s = interval_s
        self._max_flows = max_flows
        self._mark = mark
        self._on_drop = on_drop
        self._count = 0
        self._flows: dict[int, _Flow[_T]] = {}  # those in _new or _old, by bucket
        self._new: deque[_Flow[_T]] = deque()
        self._old: deque[_Flow[_T]] = deque()

    def __len__(self) -> int:
        """How many items are held."""
        return self._count

    def enqueue(self, flow_id: int, item: _T, size_bytes: int, now: float) -> None:
        """Take an item of a flow (any integer; flows are told apart by it modulo `max_flows`).

        If the queue then exceeds its bound, the oldest items of the largest flow are dropped, maybe this one.
        """
        bucket = flow_id % self._max_flows
        flow = self._flows.get(bucket)
        if flow is None:
            if not self._count and self._flows:
                self._forget_idle_flows()
            flow = self._flows[bucket] = _Flow(bucket, self._quantum)
            self._new.append(flow)
        flow.items.append((item, size_bytes, now))
        flow.size_bytes += size_bytes
        self._count += 1
        self.bytes_held += size_bytes
        if self.bytes_held > self.max_bytes:
            self._shed()

    def dequeue(self, now: float) -> _T | None:
        """The next item to send, or None when the queue is empty (items may have been dropped meanwhile)."""
        new, old = self._new, self._old
        while self._count:
            turn = new or old
            flow = turn[0]
            if flow.deficit <= 0:
                flow.deficit += self._quantum
                old.append(turn.popleft())
                continue
            if not flow.items:  # it went idle
                turn.popleft()
                if turn is new and old:
                    old.append(flow)  # it must not become new again at once (RFC 8290, section 4.2)
                else:
                    del self._flows[flow.bucket]
                continue
            item, size_bytes, since = self._take(flow, now)
            if self.delays is not None:
                self.delays.observe(now - since)
            flow.deficit -= size_bytes
            return item
        if self._flows:
            self._forget_idle_flows()
        return None

    @property
    def flow_count(self) -> int:
        """The number of flows that take turns."""
        return len(self._flows)

    def flows(self) -> list[tuple[int, int]]:
        """(flow modulo `max_flows`, bytes held) of each flow that holds something."""
        return [(flow.bucket, flow.size_bytes) for flow in self._flows.values() if flow.items]

    def take_flow(self, flow_id: int) -> list[tuple[_T, int, float]]:
        """Remove all items of a flow, to be queued elsewhere: (item, size, arrival time), in order."""
        flow = self._flows.get(flow_id % self._max_flows)
        if flow is None:
            return []
        taken = []
        while flow.items:
            taken.append(self._pop(flow))
        return taken

    def shrink(self, max_bytes: int) -> None:
        """Drop the oldest items of the largest flows, once, until at most `max_bytes` are held."""
        usual, self.max_bytes = self.max_bytes, max(0, max_bytes)
        self._shed()
        self.max_bytes = usual

    def clear(self, reason: DropReason) -> None:
        """Drop everything for this reason. The caller counts the drops."""
        for flow in (*self._new, *self._old):
            for item, _, _ in flow.items:
                if self._on_drop is not None:
                    self._on_drop(item, reason)
        self._count = self.bytes_held = 0
        self._forget_idle_flows()

    def keep_newest(self, now: float, *, stale_s: float, dead_s: float) -> int:
        """Thin the queue after an outage. Returns the number of dropped items; the caller counts them.

        In each flow, items older than `stale_s` are dropped, except the newest, which is dropped when it is
        older than `dead_s`. The newest item is what lets its sender resume (a probe, a retransmission); the
        older ones it has given up or will send again.
        """
        dropped = 0
        for flow in self._flows.values():
            items = flow.items
            while items and now - items[0][2] > (stale_s if len(items) > 1 else dead_s):
                item = self._pop(flow)[0]
                dropped += 1
                if self._on_drop is not None:
                    self._on_drop(item, DropReason.QUEUE_DELAY)
            flow.above_since = None  # the items waited because of the outage, not because of a standing queue
            flow.dropping = False
        if not self._count:
            self._forget_idle_flows()
        return dropped

    def _forget_idle_flows(self) -> None:
        """Forget all flows. Call it only if none holds an item."""
        self._flows.clear()
        self._new.clear()
        self._old.clear()

    def _pop(self, flow: _Flow[_T]) -> tuple[_T, int, float]:
        taken = flow.items.popleft()
        flow.size_bytes -= taken[1]
        self._count -= 1
        self.bytes_held -= taken[1]
        return taken

    def _shed(self) -> None:
        """Drop from the heads of the fattest flows until the bound holds."""
        few = len(self._flows) <= _FEW_FLOWS
        goal = self.max_bytes if few else self.max_bytes - (self.max_bytes >> 6)
        while self.bytes_held > self.max_bytes:
            # Stop at half of its size: by then another flow may be the largest.
            ranked = sorted(self._flows.values(), key=attrgetter("size_bytes"), reverse=True)
            spared = ranked[0].size_bytes >> 1
            for flow in ranked:
                if flow.size_bytes <= spared or self.bytes_held <= goal:
                    break
                while self.bytes_held > goal and flow.size_bytes > spared:
                    self.full_drops += 1
                    item = self._pop(flow)[0]
                    if self._on_drop is not None:
                        self._on_drop(item, DropReason.QUEUE_FULL)

    def _take(self, flow: _Flow[_T], now: float) -> tuple[_T, int, float]:
        """CoDel's dequeue (RFC 8289, section 5.5) from a flow that holds something.

        An item counts as standing only if another is behind it, so after a drop there is always a next item.
        """
        taken = self._pop(flow)
        standing = self._is_standing(flow, taken, now)
        if flow.dropping:
            if not standing:
                flow.dropping = False
            while flow.dropping and now >= flow.drop_next_at:
                flow.count += 1
                flow.drop_next_at += self._interval_s / sqrt(flow.count)
                if self._drop_or_mark(taken):
                    return taken
                taken = self._pop(flow)
                flow.dropping = self._is_standing(flow, taken, now)
        elif standing:
            marked = self._drop_or_mark(taken)
            # It was dropping a short while ago: resume at about the rate that worked then.
            since = flow.count - flow.last_count
            recent = now - flow.drop_next_at < 16 * self._interval_s
            flow.count = flow.last_count = since if since > 1 and recent else 1
            flow.drop_next_at = now + self._interval_s / sqrt(flow.count)
            flow.dropping = True
            if not marked:
                taken = self._pop(flow)
                flow.dropping = self._is_standing(flow, taken, now)
        return taken

    def _is_standing(self, flow: _Flow[_T], taken: tuple[_T, int, float], now: float) -> bool:
        """Whether the flow has been above target for a whole interval (`ok_to_drop` of RFC 8289)."""
        if now - taken[2] < self._target_s or flow.size_bytes <= FEW_QUANTA * self._quantum:
            # It waited briefly, or little is left behind it: never drop the last item.
            flow.above_since = None
            return False
        if flow.above_since is None:
            flow.above_since = now
            return False
        return now - flow.above_since >= self._interval_s

    def _drop_or_mark(self, taken: tuple[_T, int, float]) -> bool:
        """True: the item is marked and is delivered. False: it is dropped."""
        if self._mark is not None and self._mark(taken[0]):
            return True
        self.delay_drops += 1
        if self._on_drop is not None:
            self._on_drop(taken[0], DropReason.QUEUE_DELAY)
        return False


class _Flow(Generic[_T]):
    """One bucket: its items (item, size, when), its turn's deficit, and CoDel's state."""

    __slots__ = (
        "above_since", "bucket", "count", "deficit", "drop_next_at", "dropping", "items", "last_count",
        "size_bytes",
    )  # fmt: skip

    def __init__(self, bucket: int, deficit: int) -> None:
        self.bucket = bucket
        self.deficit = deficit
        self.items: deque[tuple[_T, int, float]] = deque()
        self.size_bytes = 0
        self.above_since: float | None = None  # first_above_time - interval
        self.dropping = False
        self.drop_next_at = 0.0
        self.count = 0
        self.last_count = 0
