"""FairQueue: order and fairness, the bound, CoDel's law, and a model of all that can happen."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import DropReason
from nconnect.queueing.fq_codel import FairQueue

MTU = 1500


class Drops:
    """Remembers what a queue dropped, and why."""

    def __init__(self) -> None:
        self.items: list[tuple[Any, DropReason]] = []

    def __call__(self, item: object, reason: DropReason) -> None:
        self.items.append((item, reason))

    def count(self, reason: DropReason) -> int:
        return sum(1 for _, r in self.items if r is reason)


def drain(queue: FairQueue[str], now: float = 0.0) -> list[str]:
    taken = []
    while (item := queue.dequeue(now)) is not None:
        taken.append(item)
    return taken


def test_an_empty_queue_gives_nothing() -> None:
    queue = FairQueue[str](max_bytes=10_000)
    assert queue.dequeue(0.0) is None
    assert (len(queue), queue.bytes_held) == (0, 0)


def test_one_flow_is_first_in_first_out() -> None:
    queue = FairQueue[str](max_bytes=100_000)
    for name in "abcdef":
        queue.enqueue(7, name, MTU, 0.0)
    assert (len(queue), queue.bytes_held) == (6, 6 * MTU)
    assert drain(queue) == list("abcdef")
    assert (len(queue), queue.bytes_held) == (0, 0)


def test_a_sparse_flow_goes_before_what_stands() -> None:
    queue = FairQueue[str](max_bytes=1_000_000)
    for n in range(50):
        queue.enqueue(1, f"bulk{n}", MTU, 0.0)
    for _ in range(3):
        queue.dequeue(0.0)
    queue.enqueue(2, "token", 100, 0.0)
    assert queue.dequeue(0.0) == "token"


def test_a_flow_that_comes_back_at_once_does_not_keep_others_waiting() -> None:
    """A flow cannot stay "new" by emptying its queue and refilling it (RFC 8290, section 4.2)."""
    queue = FairQueue[str](max_bytes=1_000_000)
    for n in range(20):
        queue.enqueue(1, f"bulk{n}", MTU, 0.0)
    taken = Counter[str]()
    for _ in range(20):
        queue.enqueue(2, "greedy", MTU, 0.0)
        item = queue.dequeue(0.0)
        assert item is not None
        taken[item[:4]] += 1
    assert taken["bulk"] >= 8


@pytest.mark.parametrize("sizes", [(1500, 1500), (1500, 100), (64_000, 1500)])
def test_flows_share_bytes_not_packets(sizes: tuple[int, int]) -> None:
    queue = FairQueue[int](max_bytes=1 << 26)
    for flow, size in enumerate(sizes):
        for _ in range(2_000_000 // size):
            queue.enqueue(flow, flow, size, 0.0)
    sent = [0, 0]
    while sum(sent) < 2_000_000:
        taken = queue.dequeue(0.0)
        assert taken is not None
        sent[taken] += sizes[taken]
    assert abs(sent[0] - sent[1]) <= 2 * max(sizes)


def test_flow_ids_are_folded_into_buckets() -> None:
    queue = FairQueue[str](max_bytes=100_000, max_flows=4)
    queue.enqueue(1, "a", MTU, 0.0)
    queue.enqueue(5, "b", MTU, 0.0)
    queue.enqueue(-3, "c", MTU, 0.0)
    assert drain(queue) == ["a", "b", "c"]


def test_over_the_bound_the_fattest_loses_its_oldest() -> None:
    drops = Drops()
    queue = FairQueue[str](max_bytes=10 * MTU, on_drop=drops)
    queue.enqueue(2, "thin", MTU, 0.0)
    for n in range(12):
        queue.enqueue(1, f"fat{n}", MTU, 0.0)
    assert queue.bytes_held <= 10 * MTU
    assert drops.items == [(f"fat{n}", DropReason.QUEUE_FULL) for n in range(3)]
    assert queue.full_drops == 3
    assert "thin" in drain(queue)


def test_an_item_larger_than_the_bound_is_dropped() -> None:
    drops = Drops()
    queue = FairQueue[str](max_bytes=1000, on_drop=drops)
    queue.enqueue(1, "small", 400, 0.0)
    queue.enqueue(2, "huge", 5000, 0.0)
    assert drops.items == [("huge", DropReason.QUEUE_FULL)]
    assert drain(queue) == ["small"]


def test_a_flood_of_flows_stays_within_bytes_and_buckets() -> None:
    queue = FairQueue[int](max_bytes=100_000)
    for n in range(20_000):
        queue.enqueue(n * 2654435761, n, 100 + n % 1400, 0.0)
        assert queue.bytes_held <= 100_000
    assert len(queue._flows) <= 1024
    while queue.dequeue(0.0) is not None:
        pass
    assert not queue._flows  # an idle queue costs nothing
    assert not queue._new
    assert not queue._old


def test_clear_hands_every_item_back() -> None:
    drops = Drops()
    queue = FairQueue[str](max_bytes=100_000, on_drop=drops)
    for n in range(9):
        queue.enqueue(n % 3, str(n), MTU, 0.0)
    queue.clear(DropReason.LINK_DOWN)
    assert sorted(drops.items) == sorted((str(n), DropReason.LINK_DOWN) for n in range(9))
    assert (len(queue), queue.bytes_held, queue.dequeue(1.0)) == (0, 0, None)
    queue.enqueue(1, "next", MTU, 2.0)
    assert drain(queue, 2.0) == ["next"]


# CoDel


def test_a_short_standing_queue_is_left_alone() -> None:
    """Bursts that drain within an interval are not a standing queue."""
    drops = Drops()
    queue = FairQueue[int](max_bytes=1 << 20, on_drop=drops)
    now = 0.0
    for _ in range(20):
        for n in range(40):
            queue.enqueue(1, n, MTU, now)
        while queue.dequeue(now) is not None:
            now += 0.002  # the burst takes 80 ms
        now += 0.050
    assert drops.items == []


def overload(queue: FairQueue[int], *, seconds: float, service_s: float, arrivals: float) -> list[float]:
    """Feed `arrivals` times what is served; return the sojourns (item = arrival in microseconds)."""
    sojourns, now, due = [], 0.0, 0.0
    while now < seconds:
        while due <= now:
            queue.enqueue(1, int(due * 1e6), MTU, due)
            due += service_s / arrivals
        item = queue.dequeue(now)
        if item is not None:
            sojourns.append(now - item / 1e6)
        now += service_s
    return sojourns


def test_a_standing_queue_is_dropped_from_at_a_growing_rate() -> None:
    drops = Drops()
    queue = FairQueue[int](max_bytes=1 << 30, on_drop=drops)
    overload(queue, seconds=0.105, service_s=0.001, arrivals=1.2)
    assert drops.items == []  # not a whole interval above target yet
    queue = FairQueue[int](max_bytes=1 << 30, on_drop=drops)
    overload(queue, seconds=1.0, service_s=0.001, arrivals=1.2)
    in_one_second = queue.delay_drops
    assert 10 < in_one_second < 100
    assert drops.count(DropReason.QUEUE_DELAY) == in_one_second
    queue = FairQueue[int](max_bytes=1 << 30)
    overload(queue, seconds=2.0, service_s=0.001, arrivals=1.2)
    assert queue.delay_drops > 3 * in_one_second  # n drops take about interval * 2 * sqrt(n)


def test_the_control_law_spaces_drops_by_the_square_root() -> None:
    """With a queue far above target, drop n + 1 follows drop n after interval / sqrt(n)."""
    at: list[float] = []
    now = 0.0
    queue = FairQueue[int](max_bytes=1 << 30, on_drop=lambda item, why: at.append(now))
    for n in range(3000):
        queue.enqueue(1, n, MTU, 0.0)
    while now < 1.0:
        queue.dequeue(now)
        now += 0.0005
    gaps = [b - a for a, b in pairwise(at)]
    for n, gap in enumerate(gaps[:10], start=1):
        assert gap == pytest.approx(0.1 / n**0.5, abs=0.0011)


def test_what_takes_marks_is_marked_and_delivered() -> None:
    drops, marked = Drops(), []

    def mark(item: int) -> bool:
        marked.append(item)
        return True

    queue = FairQueue[int](max_bytes=1 << 30, mark=mark, on_drop=drops)
    delivered = len(overload(queue, seconds=1.0, service_s=0.001, arrivals=1.2))
    assert len(marked) > 10
    assert (drops.items, queue.delay_drops) == ([], 0)
    assert delivered == pytest.approx(1000, abs=2)


def test_what_refuses_marks_is_dropped() -> None:
    queue = FairQueue[int](max_bytes=1 << 30, mark=lambda item: False)
    overload(queue, seconds=1.0, service_s=0.001, arrivals=1.2)
    assert queue.delay_drops > 10


def test_the_last_item_is_never_dropped_however_late() -> None:
    queue = FairQueue[str](max_bytes=1 << 20)
    for when in range(0, 100, 10):
        queue.enqueue(1, "lone", 60_000, float(when))
        assert queue.dequeue(when + 9.0) == "lone"
    assert queue.delay_drops == 0


def test_many_flows_that_hold_little_each_are_left_alone_however_long_a_round_takes() -> None:
    drops = Drops()
    queue = FairQueue[str](max_bytes=1_000_000, on_drop=drops)
    flows = 64
    for held in (3, 4):  # packets that each flow keeps in the queue, of which one is leaving
        for flow in range(flows):
            while dict(queue.flows()).get(flow, 0) < held * MTU:
                queue.enqueue(flow, "", MTU, 0.0)
        now = 0.0
        for turn in range(20 * flows):
            now = turn * 0.001  # 12 Mbit/s: a round takes 64 ms
            flow = turn % flows
            assert queue.dequeue(now) is not None
            queue.enqueue(flow, "", MTU, now)
        assert bool(drops.items) is (held == 4)


def test_a_sparse_flow_loses_nothing_beside_a_bulk_one_that_is_dropped_from() -> None:
    drops = Drops()
    queue = FairQueue[tuple[str, float]](max_bytes=1 << 30, on_drop=drops)
    waits = []
    for step in range(5000):
        now = step / 1000
        queue.enqueue(1, ("bulk", now), MTU, now)
        queue.enqueue(1, ("bulk", now), MTU, now)
        if step % 40 == 0:
            queue.enqueue(2, ("token", now), 200, now)
        item = queue.dequeue(now)
        if item is not None and item[0] == "token":
            waits.append(now - item[1])
    assert len(waits) == 125
    assert max(waits) <= 0.0021  # at the start both flows are new: a quantum, rounded up
    assert max(waits[1:]) == 0
    assert queue.delay_drops > 0
    assert all(reason is DropReason.QUEUE_DELAY and item[0] == "bulk" for item, reason in drops.items)


# All that can happen


operations = st.lists(
    st.one_of(
        st.tuples(st.just("in"), st.integers(0, 5), st.integers(1, 70_000)),
        st.tuples(st.just("out"), st.just(0), st.integers(0, 200)),
    ),
    max_size=200,
)


@given(operations, st.integers(1, 200_000), st.booleans())
def test_each_item_leaves_exactly_once_and_in_order(
    script: list[tuple[str, int, int]], max_bytes: int, marks: bool
) -> None:
    dropped: list[tuple[int, int]] = []
    queue = FairQueue[tuple[int, int]](
        max_bytes=max_bytes,
        mark=lambda item: marks and item[1] % 2 == 0,
        on_drop=lambda item, why: dropped.append(item),
    )
    now, put, taken = 0.0, [], []
    sizes: dict[tuple[int, int], int] = {}
    for serial, (what, flow, number) in enumerate(script):
        if what == "in":
            item = (flow, serial)
            put.append(item)
            sizes[item] = number
            queue.enqueue(flow, item, number, now)
        else:
            now += number / 1000
            out = queue.dequeue(now)
            assert (out is None) <= (len(queue) == 0)
            if out is not None:
                taken.append(out)
        gone = {*taken, *dropped}
        assert queue.bytes_held == sum(sizes[item] for item in put if item not in gone) <= max_bytes
        assert len(queue) == len(put) - len(gone)
    while (out := queue.dequeue(now)) is not None:
        taken.append(out)
    assert sorted(put) == sorted(taken + dropped)
    assert len(dropped) == queue.full_drops + queue.delay_drops
    by_flow = defaultdict(list)
    for flow, serial in taken:
        by_flow[flow].append(serial)
    assert all(serials == sorted(serials) for serials in by_flow.values())


def test_after_an_outage_the_newest_of_each_flow_is_kept() -> None:
    queue: FairQueue[str] = FairQueue(max_bytes=1 << 20)
    for at, flow, item in (
        (0, 1, "a1"),
        (1, 2, "b1"),
        (5, 1, "a2"),
        (6, 3, "c1"),
        (9, 3, "c2"),
        (9, 3, "c3"),
    ):
        queue.enqueue(flow, item, 100, at)
    assert queue.keep_newest(10, stale_s=3, dead_s=60) == 2  # a1 and c1
    assert [queue.dequeue(10) for _ in range(6)] == ["a2", "b1", "c2", "c3", None, None]
    assert queue.bytes_held == 0


def test_what_is_dead_is_not_kept_even_if_it_is_the_newest() -> None:
    dropped: list[tuple[str, DropReason]] = []
    queue: FairQueue[str] = FairQueue(
        max_bytes=1 << 20, on_drop=lambda item, why: dropped.append((item, why))
    )
    queue.enqueue(1, "a", 100, 0)
    assert queue.keep_newest(59, stale_s=3, dead_s=60) == 0
    assert queue.keep_newest(61, stale_s=3, dead_s=60) == 1
    assert len(queue) == queue.bytes_held == 0
    assert dropped == [("a", DropReason.QUEUE_DELAY)]
    queue.enqueue(1, "b", 100, 62)
    assert queue.dequeue(62) == "b"
