"""Striped batches in order again: numbers and times in, numbers out."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.tunnel.paths.reorder import HELD_BYTES_MOST, MISSING_WAIT_S, RESTART, ReorderBuffer

WRAP = 1 << 32


def batch(number: int) -> list[memoryview]:
    return [memoryview(number.to_bytes(4))]


def put(
    queue: ReorderBuffer, number: int, now: float = 0.0, wait_s: float = 0.1, size: int = 100
) -> list[int]:
    return names(queue.put(number % WRAP, batch(number % WRAP), size, wait_s, now))


def names(packets: list[memoryview]) -> list[int]:
    return [int.from_bytes(packet) for packet in packets]


def test_what_comes_in_its_turn_passes_at_once_and_is_not_copied() -> None:
    queue = ReorderBuffer()
    for number in (7, 8, 9):
        assert queue.is_next(number)
        assert put(queue, number) == [number]
    assert queue.next_at() == inf
    assert not queue.is_next(11)


def test_what_overtook_waits_for_what_is_missing() -> None:
    queue = ReorderBuffer()
    put(queue, 1)
    assert put(queue, 3) == put(queue, 4) == []
    assert queue.held_bytes == 200
    assert put(queue, 2) == [2, 3, 4]
    assert queue.held_bytes == 0


def test_a_gap_is_given_up_in_time_and_what_comes_later_passes() -> None:
    queue = ReorderBuffer()
    put(queue, 1)
    assert put(queue, 3, now=5.0) == []
    assert put(queue, 6, now=5.05) == []
    assert queue.next_at() == pytest.approx(5.1)
    assert queue.expire(5.09) == []
    assert names(queue.expire(5.11)) == [3]
    assert put(queue, 2) == [2], "late, but not lost"
    assert names(queue.expire(5.2)) == [6]
    assert put(queue, 7) == [7]


def test_no_sender_makes_anything_wait_for_long_or_take_much_memory() -> None:
    queue = ReorderBuffer()
    put(queue, 1)
    assert put(queue, 3, now=1.0, wait_s=60.0) == []
    assert queue.next_at() == pytest.approx(1.0 + MISSING_WAIT_S)
    assert put(queue, 4, size=HELD_BYTES_MOST) == [3, 4]
    assert queue.held_bytes == 0


def test_numbers_wrap_and_a_new_count_begins_anywhere() -> None:
    queue = ReorderBuffer()
    assert put(queue, WRAP - 1) == [WRAP - 1]
    assert put(queue, 1) == []
    assert put(queue, 0) == [0, 1]
    assert put(queue, 2 + 2 * RESTART) == [2 + 2 * RESTART], "the sender has started again"
    assert put(queue, 3 + 2 * RESTART) == [3 + 2 * RESTART]


@given(st.permutations(range(12)), st.integers(0, WRAP - 1))
def test_any_order_becomes_the_right_one(order: list[int], begin: int) -> None:
    queue = ReorderBuffer()
    passed = put(queue, begin)
    for offset in order:
        passed += put(queue, begin + 1 + offset)
    assert passed == [(begin + n) % WRAP for n in range(13)]


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 0.2)), max_size=60))
def test_everything_passes_exactly_once_whatever_is_lost(arrivals: list[tuple[int, float]]) -> None:
    queue, now, came, passed = ReorderBuffer(), 0.0, set[int](), list[int]()
    for number, pause in arrivals:
        now += pause
        passed += names(queue.expire(now))
        if number not in came:  # the replay window lets each pass once
            came.add(number)
            passed += put(queue, number, now=now)
    passed += names(queue.expire(now + 1))
    assert sorted(passed) == sorted(came)
    assert queue.held_bytes == 0
