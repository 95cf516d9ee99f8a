"""The reconnect schedule, in virtual time."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.nkn import backoff as module
from nconnect.nkn.backoff import Backoff


def attempts(seed: int, until: float, start: float = 1000.0) -> list[float]:
    """The times of all attempts when each fails at once."""
    schedule = Backoff(now=start, rng=random.Random(seed).randbytes)
    now, found = start, []
    while now < start + until:
        schedule.attempted(now)
        found.append(now - start)
        now += schedule.failed(now)
    return found


@given(st.integers(0, 2**32))
def test_first_retry_is_quick(seed: int) -> None:
    assert attempts(seed, 2.0)[1] < 0.3


@given(st.integers(0, 2**32))
def test_at_most_one_attempt_a_second_over_time(seed: int) -> None:
    times = attempts(seed, 300.0)
    for first in range(len(times)):
        for last in range(first + 1, len(times)):
            assert last - first + 1 <= module.BURST + (times[last] - times[first]) + 1e-6


@given(st.integers(0, 2**32))
def test_a_node_that_returns_within_two_minutes_is_tried_within_a_second(seed: int) -> None:
    times = attempts(seed, module.PATIENCE_S)
    assert max(b - a for a, b in pairwise(times)) <= 1.0 + 1e-6


def test_it_never_gives_up_and_never_waits_longer_than_the_ceiling() -> None:
    times = attempts(7, 3 * 24 * 3600.0)
    gaps = [b - a for a, b in pairwise(times)]
    assert max(gaps) <= module.CEILING_S
    assert times[-1] > 3 * 24 * 3600.0 - module.CEILING_S
    late = [gap for gap, at in zip(gaps, times, strict=False) if at > 600.0]
    assert 4.0 < sum(late) / len(late) < 6.0  # full jitter below ten seconds


@given(st.integers(0, 2**32))
def test_what_somebody_is_about_to_mend_is_tried_every_second_however_long_it_takes(seed: int) -> None:
    schedule = Backoff(now=0.0, rng=random.Random(seed).randbytes)
    now = 0.0
    while now < 3 * module.PATIENCE_S:
        schedule.attempted(now)
        wait_s = schedule.failed(now, soon=True)
        assert wait_s <= 1.0 + 1e-6
        now += wait_s


def test_two_clients_do_not_come_back_together() -> None:
    assert attempts(1, 60.0)[1:4] != attempts(2, 60.0)[1:4]


def test_a_link_that_was_up_for_a_while_starts_again() -> None:
    schedule = Backoff(now=0.0, rng=lambda n: b"\xff" * n)
    now = 0.0
    while now < 400.0:
        schedule.attempted(now)
        now += schedule.failed(now)
    assert schedule.failed(now) > 5.0
    assert not schedule.was_up(module.STABLE_S - 1.0)
    assert schedule.failed(now) > 5.0
    assert schedule.was_up(module.STABLE_S)
    assert schedule.failed(now + 60.0) < 0.3


def test_redirects_take_from_the_same_bucket() -> None:
    schedule = Backoff(now=0.0, rng=lambda n: b"\x00" * n)
    for _ in range(6):
        schedule.attempted(0.0)
    assert schedule.failed(0.0) == pytest.approx(4.0)
    assert schedule.earliest_s(2.0) == pytest.approx(2.0)


def test_a_clock_that_stands_still_or_steps_back_does_no_harm() -> None:
    schedule = Backoff(now=100.0, rng=lambda n: b"\x00" * n)
    schedule.attempted(100.0)
    assert schedule.failed(50.0) == 0.0
