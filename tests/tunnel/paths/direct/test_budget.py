"""What is sent to an address that has not proved that it wants it, whatever peers do."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from nconnect.model import Endpoint
from nconnect.tunnel.paths.direct.budget import ProbeBudget
from nconnect.tunnel.paths.direct.constants import HOUR_BYTES, MAX_ADDRESSES, SEARCH_BYTES, VALID_S

VICTIM = Endpoint(ip_address("203.0.113.66"), 53)
PROBE = 64
ON_WIRE = 64 + 28


def spend(budget: ProbeBudget, search: int | None, now: float, endpoint: Endpoint = VICTIM) -> int:
    """As many probes as are allowed; their bytes."""
    spent = 0
    while budget.take(endpoint, PROBE, search, now):
        spent += PROBE + (28 if endpoint.address.version == 4 else 48)
        assert spent < 10 * HOUR_BYTES
    return spent


def test_a_search_and_an_hour_are_bounded_over_all_peers() -> None:
    budget = ProbeBudget()
    assert SEARCH_BYTES - ON_WIRE < spend(budget, 1, 0.0) <= SEARCH_BYTES
    total = sum(spend(budget, search, search * 60.0) for search in range(1, 50))
    assert HOUR_BYTES - SEARCH_BYTES - ON_WIRE < total <= HOUR_BYTES - 4900
    assert budget.refused > 0
    assert spend(budget, 60, 2 * 3600.0 + 100) > 0


def test_another_port_is_no_other_address_and_neither_is_an_ipv6_neighbour() -> None:
    budget = ProbeBudget()
    spend(budget, 1, 0.0)
    assert spend(budget, 1, 0.0, Endpoint(VICTIM.address, 54)) == 0
    assert spend(budget, 1, 0.0, Endpoint(ip_address("203.0.113.67"), 53)) > 0
    assert spend(budget, 1, 0.0, Endpoint(ip_address("2001:db8::1"), 1)) > 0
    assert spend(budget, 1, 0.0, Endpoint(ip_address("2001:db8::2"), 1)) == 0
    assert spend(budget, 1, 0.0, Endpoint(ip_address("2001:db8:0:1::1"), 1)) > 0


def test_who_was_heard_gets_three_times_what_came() -> None:
    budget = ProbeBudget()
    spend(budget, 1, 0.0)
    budget.heard(VICTIM, PROBE, 1.0)
    assert 2 * ON_WIRE < spend(budget, 1, 1.0) <= 3 * ON_WIRE
    assert spend(budget, 2, 1.0, Endpoint(VICTIM.address, 54)) <= SEARCH_BYTES, "only this port was heard"


def test_who_acknowledged_gets_all_and_not_for_ever() -> None:
    budget = ProbeBudget()
    spend(budget, 1, 0.0)
    budget.acknowledged(VICTIM, 1.0)
    assert all(budget.take(VICTIM, 1400, 1, 1.0) for _ in range(1000))
    budget.heard(VICTIM, PROBE, 300.0)
    assert budget.take(VICTIM, 1400, 1, 300.0 + VALID_S - 1)
    assert not budget.take(VICTIM, 1400, 1, 1 + 300.0 + VALID_S)


def test_a_peer_that_lists_many_addresses_fills_no_memory_and_harms_no_other() -> None:
    budget = ProbeBudget()
    budget.acknowledged(VICTIM, 0.0)
    for n in range(MAX_ADDRESSES + 100):
        budget.take(Endpoint(ip_address(0x0A000000 + n), 1), PROBE, 1, 0.0)
        budget.heard(Endpoint(ip_address(0x0B000000 + n), 1), PROBE, 0.0)
    assert len(budget._spent) == len(budget._credit) == MAX_ADDRESSES
    assert not budget.take(Endpoint(ip_address("198.51.100.1"), 1), PROBE, 1, 0.0)
    assert budget.take(VICTIM, PROBE, 1, 0.0)
    assert budget.take(Endpoint(ip_address("198.51.100.1"), 1), PROBE, 1, 3700.0)


def test_a_search_that_ended_is_forgotten() -> None:
    budget = ProbeBudget()
    spend(budget, 1, 0.0)
    budget.search_ended(1)
    assert not budget._searches


@given(
    st.lists(
        st.tuples(st.floats(0, 600), st.integers(1, 4), st.integers(56, 1500), st.booleans()), max_size=400
    )
)
def test_never_more_than_the_limits(steps: list[tuple[float, int, int, bool]]) -> None:
    """Any searches of any peers, at any time: the limits of an hour and of a search hold."""
    budget, now = ProbeBudget(), 0.0
    sent: list[tuple[float, int]] = []
    searches: dict[int, int] = {}
    for wait_s, search, size, ends in steps:
        now += wait_s
        for _ in range(8):
            if budget.take(VICTIM, size, search, now):
                sent.append((now, size + 28))
                searches[search] = searches.get(search, 0) + size + 28
        assert searches.get(search, 0) <= SEARCH_BYTES
        if ends:
            budget.search_ended(search)
            searches.pop(search, None)
    for at, _ in sent:
        assert sum(size for when, size in sent if at <= when < at + 3600) <= HOUR_BYTES
