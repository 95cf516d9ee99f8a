"""Strangers at the port: few, not for long, and never in the way of who proves a key."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from nconnect.tunnel.paths.stream.door import (
    ALL_BURST,
    BURST,
    PLACES,
    PLACES_OF_ONE,
    PROVE_S,
    Door,
)


def test_one_source_has_a_few_places_and_its_oldest_leaves() -> None:
    door = Door()
    assert [door.enter(n, "192.0.2.1", 0.0) for n in range(PLACES_OF_ONE)] == [None] * PLACES_OF_ONE
    assert door.enter(99, "192.0.2.1", 0.0) == 0
    assert door.enter(100, "192.0.2.2", 0.0) is None, "another source is not affected"


def test_an_ipv6_site_is_one_source() -> None:
    door = Door()
    for n in range(PLACES_OF_ONE):
        assert door.enter(n, f"2001:db8::{n:x}", 0.0) is None
    assert door.enter(99, "2001:db8::ffff:1:2:3", 0.0) == 0
    assert door.enter(100, "2001:db8:0:1::1", 0.0) is None


def test_all_together_have_a_bounded_number_and_the_oldest_leaves() -> None:
    door = Door()
    for n in range(PLACES):
        assert door.enter(n, f"192.0.2.{n}", 0.0) is None
    assert door.enter(1000, "198.51.100.1", 0.0) == 0
    assert len(door) == PLACES


def test_who_leaves_makes_room() -> None:
    door = Door()
    for n in range(PLACES_OF_ONE):
        door.enter(n, "192.0.2.1", 0.0)
    door.leave(2)
    door.leave(2)
    assert door.enter(99, "192.0.2.1", 0.0) is None


def test_each_has_its_time() -> None:
    door = Door()
    assert door.next_at() == inf
    door.enter(1, "192.0.2.1", 10.0)
    door.enter(2, "192.0.2.2", 11.0)
    assert door.next_at() == 10.0 + PROVE_S
    assert door.overdue(10.0 + PROVE_S - 0.01) == []
    assert door.overdue(10.0 + PROVE_S) == [1]
    assert door.next_at() == 11.0 + PROVE_S
    assert door.overdue(99.0) == [2]
    assert (door.next_at(), len(door)) == (inf, 0)


def test_one_source_is_looked_at_now_and_then() -> None:
    door = Door()
    assert sum(door.admits("192.0.2.1", 0.0) for _ in range(1000)) == BURST
    assert door.admits("192.0.2.2", 0.0), "another one is"
    assert door.admits("192.0.2.1", 1.0), "and so is this one later"


def test_many_sources_are_bounded_too() -> None:
    door = Door()
    admitted = sum(door.admits(f"198.51.{n // 256}.{n % 256}", 0.0) for n in range(5000))
    assert admitted == ALL_BURST
    assert len(door._each) <= 1024


@given(
    st.lists(
        st.tuples(st.sampled_from(("enter", "leave", "wait")), st.integers(0, 40), st.integers(0, 9)),
        max_size=200,
    )
)
def test_the_bounds_hold_whatever_happens(steps: list[tuple[str, int, int]]) -> None:
    door, now, number = Door(), 0.0, 0
    inside: dict[int, tuple[str, float]] = {}
    for what, who, more in steps:
        if what == "enter":
            number += 1
            host = f"192.0.2.{who}"
            leaves = door.enter(number, host, now)
            if leaves is not None:
                del inside[leaves]
            inside[number] = host, now
        elif what == "leave" and inside:
            gone = sorted(inside)[who % len(inside)]
            door.leave(gone)
            del inside[gone]
        else:
            now += more / 4
            for late in door.overdue(now):
                assert now - inside.pop(late)[1] >= PROVE_S
        assert len(door) == len(inside) <= PLACES
        hosts = [host for host, _ in inside.values()]
        assert all(hosts.count(host) <= PLACES_OF_ONE for host in hosts)
