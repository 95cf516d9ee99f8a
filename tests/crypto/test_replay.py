"""The replay window: a numbered script, and against a set."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nconnect.crypto.aead import ReplayWindow
from nconnect.tunnel.constants import REJECT_AFTER_MESSAGES, REPLAY_WINDOW

W = REPLAY_WINDOW
SCRIPT = [  # (counter, accepted?)
    (0, True), (1, True), (1, False), (9, True), (8, True), (7, True), (7, False), (0, False),
    (W, True), (W, False), (W - 1, True), (W - 1, False), (2, True), (2, False), (0, False), (1, False),
    (W + 2, True), (2, False), (3, True), (3, False),
    (W + 16, True), (3, False), (16, False), (17, True), (17, False),
    (4 * W, True), (4 * W - (W - 1), True), (10, False), (4 * W - W, False), (4 * W - (W + 1), False),
    (4 * W - (W - 2), True), (4 * W + 1 - W, False), (0, False),
    (REJECT_AFTER_MESSAGES, True), (REJECT_AFTER_MESSAGES - 1, True), (REJECT_AFTER_MESSAGES, False),
    (REJECT_AFTER_MESSAGES - 1, False), (REJECT_AFTER_MESSAGES - 2, True), (4 * W + 1, False), (0, False),
]  # fmt: skip


def take(window: ReplayWindow, counter: int) -> bool:
    fresh = window.is_fresh(counter)
    if fresh:
        window.mark(counter)
    return fresh


def test_a_window_of_another_size() -> None:
    window = ReplayWindow(2 * W)
    assert take(window, 0)
    assert take(window, 1)
    assert take(window, 2 * W)
    assert not window.is_fresh(0)
    assert not window.is_fresh(1)
    assert take(window, 2)
    assert not take(window, 2)


def test_script() -> None:
    window = ReplayWindow(REPLAY_WINDOW)
    assert [(counter, take(window, counter)) for counter, _ in SCRIPT] == SCRIPT


def test_asking_changes_nothing() -> None:
    window = ReplayWindow(REPLAY_WINDOW)
    take(window, 5)
    assert window.is_fresh(10**9)
    assert window.is_fresh(10**9)
    assert window.is_fresh(4)
    assert not window.is_fresh(5)


@pytest.mark.parametrize("order", ["up", "down"])
def test_the_whole_window_is_used(order: str) -> None:
    window = ReplayWindow(REPLAY_WINDOW)
    take(window, 10 * W)
    counters = range(9 * W + 1, 10 * W)
    for counter in counters if order == "up" else reversed(counters):
        assert take(window, counter)
    assert not any(window.is_fresh(counter) for counter in range(8 * W, 10 * W + 1))


STEP = st.one_of(
    st.integers(-3, 3),
    st.integers(-W - 3, W + 3),
    st.sampled_from([-W - 1, -W, -W + 1, W - 1, W, W + 1, 64, 63, 65, -64, -63, -65, W + 63, W + 64, W + 65]),
    st.integers(0, 20 * W),
)


@settings(max_examples=300)
@given(st.lists(STEP, max_size=60), st.sampled_from([0, 1, 63, W, 2**40, 2**63]))
def test_against_a_set(steps: list[int], start: int) -> None:
    """Counters near the newest, jumps of many windows included: accepted once, and none behind the window."""
    window, seen, newest = ReplayWindow(REPLAY_WINDOW), set[int](), -1
    counter = start
    for step in steps:
        counter = max(0, (newest if newest >= 0 else start) + step)
        expected = counter not in seen and counter > newest - W
        assert take(window, counter) is expected
        if expected:
            seen.add(counter)
            newest = max(newest, counter)


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 200)), max_size=20))
@settings(max_examples=50)
def test_a_run_is_remembered_as_its_counters_one_by_one(runs: list[tuple[int, int]]) -> None:
    one, other = ReplayWindow(256), ReplayWindow(256)
    for gap, count in runs:
        first = one.newest + gap
        one.mark_run(first, count)
        for counter in range(first, first + count):
            other.mark(counter)
    assert one.newest == other.newest
    every = range(max(0, one.newest - 300), one.newest + 2)
    assert [one.is_fresh(counter) for counter in every] == [other.is_fresh(counter) for counter in every]
