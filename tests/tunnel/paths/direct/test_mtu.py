"""The MTU search: against paths that pass what they pass, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.tunnel.paths.direct.constants import BASE_BYTES, MIN_STEP_BYTES, RAISE_S
from nconnect.tunnel.paths.direct.mtu import MtuSearch, MtuState

RTT_S = 0.05


def play(search: MtuSearch, path: int, until: float, now: float = 0.0) -> list[int]:
    """Let it search over a path whose largest datagram is `path`; the sizes of the probes."""
    probed = []
    while search.next_at <= until:
        now = max(now, search.next_at)
        size = search.due(now)
        if size is None:
            if search.next_at <= now:
                raise AssertionError("it turns in place")
            continue
        probed.append(size)
        if size <= path:
            now += RTT_S
            search.acknowledged(size, now)
    return probed


def new(limit: int = 1472, version: int = 4) -> MtuSearch:
    return MtuSearch(0.0, version=version, limit=limit, rtt_s=RTT_S)


def test_an_ethernet_path_takes_one_probe() -> None:
    search = new()
    assert play(search, 1472, 10) == [1472]
    assert (search.size, search.state) == (1472, MtuState.COMPLETE)
    assert search.next_at == float("inf"), "there is nothing larger to try"


@pytest.mark.parametrize("path", [1200, 1252, 1372, 1392, 1440, 1464, 1471, 1472])
@pytest.mark.parametrize("version", [4, 6])
def test_the_size_of_every_common_link_is_found(path: int, version: int) -> None:
    search = new(1472 if version == 4 else 1452, version)
    play(search, path, 60)
    assert path - MIN_STEP_BYTES <= search.size <= path
    assert search.state is MtuState.COMPLETE


@given(st.integers(BASE_BYTES, 9000), st.sampled_from([1200, 1452, 1472, 8972]), st.sampled_from([4, 6]))
def test_any_path_is_found_and_never_exceeded(path: int, limit: int, version: int) -> None:
    search = new(limit, version)
    probed = play(search, path, 120)
    assert search.size <= min(path, limit)
    assert search.size >= min(path, limit) - MIN_STEP_BYTES
    assert max(probed, default=0) <= limit
    assert len(probed) <= 40
    assert search.state is MtuState.COMPLETE


def test_a_smaller_size_is_tried_again_after_ten_minutes() -> None:
    search = new()
    play(search, 1372, 60)
    assert 60 < search.next_at <= 60 + RAISE_S
    play(search, 1472, 60 + RAISE_S + 10, 60)
    assert search.size == 1472


def test_a_lost_probe_is_sent_again() -> None:
    search = new()
    assert search.due(0.0) == 1472
    assert search.due(0.5) is None
    assert search.due(1.0) == 1472
    search.acknowledged(1472, 1.05)
    assert search.size == 1472


def test_a_black_hole_is_found_within_half_a_second() -> None:
    search = new()
    play(search, 1472, 5)
    search.doubt(10.0)
    assert search.is_doubted
    probed = play(search, 1300, 10.5, 10.0)
    assert probed[:3] == [1472] * 3
    assert search.size == BASE_BYTES
    play(search, 1300, 60, 10.5)
    assert 1300 - MIN_STEP_BYTES <= search.size <= 1300


def test_an_unfounded_doubt_changes_nothing() -> None:
    search = new()
    play(search, 1472, 5)
    search.doubt(10.0)
    assert play(search, 1472, 11, 10.0) == [1472]
    assert (search.size, search.state) == (1472, MtuState.COMPLETE)
    small = new(1200)
    small.doubt(0.0)
    assert not small.is_doubted, "nothing is smaller than the base"


def test_the_kernel_says_that_it_is_too_big() -> None:
    search = new()
    play(search, 1472, 5)
    search.too_big(1472, 6.0)
    assert search.size == BASE_BYTES
    play(search, 1392, 60, 6.0)
    assert 1392 - MIN_STEP_BYTES <= search.size <= 1392
    search.too_big(BASE_BYTES, 61.0)
    assert search.size > BASE_BYTES


def test_a_suspect_path_uses_the_base_size_until_larger_ones_pass() -> None:
    search = new()
    play(search, 1472, 5)
    search.fall_back(6.0)
    assert search.size == BASE_BYTES
    assert play(search, 1472, 7, 6.0) == [1472]
    assert search.size == 1472


def test_an_answer_to_a_probe_that_was_given_up_counts() -> None:
    search = new()
    for now in (0.0, 1.0, 2.0, 3.0):
        search.due(now)
    search.acknowledged(1472, 3.5)
    assert search.size == 1472
