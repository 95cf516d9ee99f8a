from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nconnect.queueing.fq_codel import FairQueue
from nconnect.queueing.histogram import BOUNDS_S, Histogram


def test_a_value_on_a_bound_belongs_below_it() -> None:
    counts = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0, -1e-9):
        counts.observe(value)
    assert counts.cumulative() == [3, 5, 6]
    assert counts.count == 6
    assert counts.sum == 14.0


@given(st.lists(st.floats(0, 10)))
def test_cumulative_is_what_counting_says(values: list[float]) -> None:
    counts = Histogram()
    for value in values:
        counts.observe(value)
    assert counts.cumulative() == [sum(v <= b for v in values) for b in (*BOUNDS_S, float("inf"))]


def test_a_queue_counts_how_long_items_stood() -> None:
    queue: FairQueue[str] = FairQueue(max_bytes=1000)
    queue.enqueue(1, "before", 10, 0.0)
    assert queue.dequeue(1.0) == "before"
    queue.delays = Histogram((0.5, 5.0))
    queue.enqueue(1, "a", 10, 2.0)
    queue.enqueue(2, "b", 10, 2.0)
    assert {queue.dequeue(2.25), queue.dequeue(4.0)} == {"a", "b"}
    assert queue.dequeue(5.0) is None
    assert queue.delays.cumulative() == [1, 2, 2]
    assert queue.delays.sum == 2.25
