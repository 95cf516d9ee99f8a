"""One search's schedule: when each address is probed, and with which TTL."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from nconnect.model import Endpoint
from nconnect.tunnel.paths.direct.constants import MAX_LOW_TTL_S, MAX_TARGETS, SEARCH_S
from nconnect.tunnel.paths.direct.search import Search

PUBLIC, PRIVATE = Endpoint(ip_address("203.0.113.1"), 1), Endpoint(ip_address("192.168.1.1"), 1)
V6 = Endpoint(ip_address("2001:db8::1"), 1)
FULL = [0.0, 0.05, 0.15, 0.35, 0.75, 1.75, 2.75, 3.75]
Sent = list[tuple[float, int | None]]


def play(search: Search, until: float = 100.0) -> Sent:
    """(when, TTL) of each probe."""
    sent: Sent = []
    while search.next_at() <= until:
        now = search.next_at()
        sent += [(round(now, 3), ttl) for _, ttl in search.due(now)]
    return sent


def after(start: float) -> Sent:
    return [(round(start + at, 3), None) for at in FULL]


def new(endpoint: Endpoint = PUBLIC, low_ttl_s: float = 0.15) -> Search:
    search = Search(1, 0.0, is_ours=True)
    search.add(endpoint, 0.0, low_ttl_s=low_ttl_s)
    return search


def test_a_public_address_is_spared_for_150_ms() -> None:
    assert play(new()) == [(0.0, 2), (0.05, 3), (0.1, 4), *after(0.15)]


@pytest.mark.parametrize("endpoint", [PRIVATE, V6])
def test_where_no_nat_is_between_the_full_ttl_comes_first(endpoint: Endpoint) -> None:
    assert play(new(endpoint)) == after(0.0)


def test_over_a_slow_relay_it_is_spared_for_longer() -> None:
    assert play(new(low_ttl_s=0.6)) == [(0.0, 2), (0.05, 3), (0.1, 4), *after(0.6)]


def test_a_probe_that_came_through_ends_that() -> None:
    search = new(low_ttl_s=0.6)
    play(search, 0.02)
    search.heard(PUBLIC, 0.02)
    search.heard(PRIVATE, 0.02)
    assert play(search) == after(0.02)


def test_the_other_side_gets_our_address_later() -> None:
    search = new()
    play(search, 0.06)
    search.knows_us_at(0.4, 0.07)
    assert play(search) == [(0.1, 4), *after(0.4)]
    late = new()
    late.knows_us_at(10.0, 0.0)
    assert play(late)[3:] == after(MAX_LOW_TTL_S)
    begun = new()
    sent = play(begun, 0.3)
    begun.knows_us_at(0.6, 0.3)
    assert sent + play(begun) == play(new()), "what has begun goes on"


def test_the_other_side_has_our_list() -> None:
    search = new(low_ttl_s=0.8)
    play(search, 0.3)
    search.answered(0.4)
    assert play(search) == after(0.4)
    early = new(low_ttl_s=0.8)
    early.answered(0.01)
    assert play(early) == play(new())


def test_who_is_late_sends_no_burst() -> None:
    search = new()
    assert search.due(3.0) == [(PUBLIC, 2)]
    assert play(search) == [(3.9, None)]


def test_an_address_is_probed_once_and_not_too_many_are() -> None:
    search = new()
    search.add(PUBLIC, 3.0)
    assert search.ends_at == SEARCH_S
    for number in range(100):
        search.add(Endpoint(PUBLIC.address, 2 + number), 1.0)
    assert len(search.targets) == MAX_TARGETS
    assert search.ends_at == 1.0 + SEARCH_S
