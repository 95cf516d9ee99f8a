"""Which lanes there are, which is the best, and when one is dead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.model import NknAddress
from nconnect.tunnel.paths.lanes import QUIET_S, SILENT_S, Lanes, pair_up
from nconnect.wire.tunnel import MAX_LINKS, decode_links, encode_links

ADDRESS = NknAddress("gpu", bytes(range(32)))
links = st.dictionaries(st.integers(0, MAX_LINKS - 1), st.integers(0, 5), min_size=1)


@pytest.mark.parametrize(
    ("ours", "theirs", "lanes"),
    [
        ({0: 0}, {0: 0}, [(0, 0)]),
        ({0: 5, 1: 6}, {0: 6, 1: 5}, [(0, 1), (1, 0)]),
        ({0: 5}, {0: 6, 1: 7}, [(0, 0), (0, 1)]),
        ({0: 5, 2: 6}, {3: 9}, [(0, 3), (2, 3)]),
        ({1: 0, 2: 0}, {1: 0, 2: 0}, [(1, 1), (2, 2)]),
    ],
)
def test_lanes_join_what_is_at_the_same_node_and_leave_no_link_out(
    ours: dict[int, int], theirs: dict[int, int], lanes: list[tuple[int, int]]
) -> None:
    assert sorted(pair_up(ours, theirs)) == lanes


@given(links, links)
def test_every_link_has_a_lane(ours: dict[int, int], theirs: dict[int, int]) -> None:
    pairs = pair_up(ours, theirs)
    assert {pair[0] for pair in pairs} == set(ours)
    assert {pair[1] for pair in pairs} == set(theirs)
    assert len(pairs) == len(set(pairs)) <= len(ours) + len(theirs)


@given(st.integers(0, 2**32 - 1), links)
def test_a_list_of_links_reads_back(revision: int, wanted: dict[int, int]) -> None:
    assert decode_links(encode_links(revision, wanted)) == (revision, wanted)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_list_of_links_or_refused(data: bytes) -> None:
    try:
        revision, found = decode_links(data)
    except RemoteProtocolError:
        return
    assert found
    assert all(0 <= number < MAX_LINKS for number in found)
    assert sorted(decode_links(encode_links(revision, found))[1]) == sorted(found)


def lanes(count: int) -> Lanes:
    made = Lanes(ADDRESS, 0.0)
    made.pair(dict.fromkeys(range(count), 0), dict.fromkeys(range(count), 0), 0.0)
    return made


def test_addresses_are_those_of_the_sub_clients_and_of_nobody_else() -> None:
    made = lanes(2)
    assert [lane.dest for lane in made.used] == [str(ADDRESS), f"__1__.{ADDRESS}"]
    assert made.dest_of(f"__7__.{ADDRESS}") == f"__7__.{ADDRESS}"
    for other in (f"__8__.{ADDRESS}", f"__x__.{ADDRESS}", "somebody"):
        assert made.dest_of(other) == str(ADDRESS)
    assert [made.dest_to_try(n) for n in range(3)] == [str(ADDRESS), f"__1__.{ADDRESS}", str(ADDRESS)]


def test_the_best_changes_only_for_one_that_is_much_quicker() -> None:
    made = lanes(3)
    for lane, rtt_s in zip(made.used, (0.050, 0.040, 0.060), strict=True):
        lane.took(rtt_s)
    made.best = made.used[0]
    made.choose()
    assert made.best is made.used[0]
    made.used[2].rtt_s = 0.020
    made.choose()
    assert made.best is made.used[2]


def test_a_lane_is_dead_when_it_is_silent_and_another_is_not() -> None:
    made = lanes(2)
    silent, other = made.used
    silent.sent_at = 10.0
    assert made.judge(10.0 + QUIET_S / 2)[1] == []
    ask, died = made.judge(10.0 + QUIET_S)
    assert set(ask) == {silent, other}
    assert died == []
    for lane in ask:
        made.asked(lane, 10.5)
    other.heard(10.6)
    assert made.judge(10.5 + SILENT_S / 2)[1] == []
    assert made.judge(10.51 + SILENT_S)[1] == [silent]
    assert made.best is other
    assert silent.heard(20.0), "it lives again"
    assert not silent.dead


def test_a_peer_that_is_away_kills_no_lane() -> None:
    made = lanes(2)
    for lane in made.used:
        lane.sent_at = 10.0
        made.asked(lane, 10.5)
    assert made.judge(30.0) == ([], [])


def test_lanes_that_are_in_use_no_more_are_named() -> None:
    made = lanes(2)
    first, second = made.used
    assert made.pair({1: 0}, {1: 0}, 1.0) == [first]
    assert made.used == [second]
    assert made.best is second
    assert made.pair({}, {0: 0}, 1.0) == [], "with no link up nothing changes"
