"""How many connections a peer may open: the rules as values, and what the daemon gives. Real kernels are in
netns_tests/test_many_flows.py."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.host.flow_limits import CONNTRACK_MAX, Budgets, default_limit, transaction
from nconnect.host.offered import peer_id
from nconnect.host.plan import plan
from nconnect.host.ruleset import transactions
from tests.host.examples import FACTS, PROVIDER, USER

ALICE, BOB, CARL = (peer_id(p) for p in PROVIDER.peers)


@pytest.mark.parametrize(
    ("tracked", "limit"), [("262144", 65536), ("16384", 4096), ("1024", 4096), ("", 4096), ("x", 4096)]
)
def test_the_default_is_a_quarter_of_what_the_kernel_tracks(tracked: str, limit: int) -> None:
    assert default_limit({CONNTRACK_MAX: tracked}) == limit


def test_each_peer_has_a_bound() -> None:
    config = replace(PROVIDER, peers=(replace(PROVIDER.peers[0], max_flows=7), *PROVIDER.peers[1:]))
    made = plan(config, replace(FACTS, sysctls={**FACTS.sysctls, CONNTRACK_MAX: "40000"}))
    assert made.flow_limits == {"alice": 7, "bob": 10_000, "carl": 10_000}
    rules = made.state.ruleset
    (rule,) = rules.chains[f"limit_{ALICE}"].rules
    assert rule == (
        {"limit": {"rate": 1, "per": "minute", "burst": 7, "inv": True}},
        {"counter": f"flow_limit_{ALICE}"},
        {"jump": {"target": "full"}},
    )
    assert {str(at): target for at, target in rules.maps["limit4"].elements.items()}["10.86.0.2"] == (
        f"jump limit_{ALICE}"
    )
    assert rules.counters[f"flow_limit_{BOB}"] == "bob"
    for name, hook in (("limit_in", "input"), ("limit_across", "forward")):
        chain = rules.chains[name]
        assert chain.hook is not None
        assert (chain.hook.hook, chain.hook.priority > 0) == (hook, True)
        assert all("confirmed" in json.dumps(rule[1]) for rule in chain.rules)


def test_where_nothing_may_be_opened_nothing_is_counted() -> None:
    made = plan(USER, FACTS)
    assert not made.flow_limits
    assert not any(
        name.startswith("limit") for name in (*made.state.ruleset.chains, *made.state.ruleset.maps)
    )
    assert plan(replace(USER, inbound=True), FACTS).flow_limits == {"provider": 4096}


def test_another_bound_changes_one_chain() -> None:
    before = plan(PROVIDER, FACTS).state.ruleset
    raised = replace(PROVIDER, peers=(replace(PROVIDER.peers[0], max_flows=7), *PROVIDER.peers[1:]))
    (switched,) = transactions(before, plan(raised, FACTS).state.ruleset)
    assert switched == transaction(before.table, {ALICE: 7})


def test_no_token_refuses_everything() -> None:
    """A burst of 0 would be the kernel's default, 5."""
    _, added = transaction("nconnect_nc0", {CARL: 0})
    assert added["add"]["rule"]["expr"][0] == {"counter": f"flow_limit_{CARL}"}


def test_who_cannot_have_used_half_of_it_is_not_counted() -> None:
    budgets = Budgets()
    assert budgets.due({"alice": 0, "bob": 1}) == ["bob"], "what the rules hold is not known"
    assert budgets.give(["bob"], {"bob": 100}, {"bob": 20}, {"bob": 1}) == {"bob": 80}
    assert budgets.due({"bob": 40}) == []
    assert budgets.due({"bob": 41}) == ["bob"]
    budgets.forget()
    assert budgets.due({"bob": 2}) == ["bob"]


def test_who_has_nothing_left_is_looked_at_until_something_has_ended() -> None:
    budgets = Budgets()
    assert budgets.give(["bob"], {"bob": 100}, {"bob": 120}, {"bob": 500}) == {"bob": 0}
    assert budgets.due({"bob": 500}) == ["bob"]
    assert budgets.give(["bob"], {"bob": 100}, {"bob": 99}, {"bob": 500}) == {"bob": 1}
    assert budgets.due({"bob": 500}) == []


def test_a_peer_whose_count_of_packets_begins_again_is_looked_at() -> None:
    budgets = Budgets()
    budgets.give(["bob"], {"bob": 100}, {}, {"bob": 500})
    assert budgets.due({"bob": 3}) == ["bob"]


def test_a_peer_that_has_no_bound_any_more_is_given_nothing() -> None:
    assert Budgets().give(["bob"], {"alice": 5}, {"bob": 1}, {"bob": 9}) == {}


@given(
    limit=st.integers(1, 200),
    turns=st.lists(
        st.tuples(st.integers(0, 300), st.floats(0, 1), st.integers(0, 300)), min_size=1, max_size=30
    ),
)
def test_the_bound_is_never_exceeded(limit: int, turns: list[tuple[int, float, int]]) -> None:
    """Against a kernel that spends tokens: in each turn a peer opens some, some end, others send packets."""
    budgets = Budgets()
    flows, received, tokens = 0, 0, limit
    for tries, ending, others in turns:
        opened = min(tries, tokens)
        tokens -= opened
        flows += opened
        received += tries + others
        assert flows <= limit
        flows -= int(flows * ending)
        if budgets.due({"bob": received}) == ["bob"]:
            tokens = budgets.give(["bob"], {"bob": limit}, {"bob": flows}, {"bob": received})["bob"]
