"""What a firewall does with a packet: hand-written chains, and random ones against a naive interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.doctor.netfilter import (
    UNCLEAR,
    Condition,
    FirewallChain,
    FirewallRule,
    Packet,
    RuleVerdict,
    Span,
    Table,
    addresses,
    follow,
)

PACKET: Packet = {
    "version": 4,
    "saddr": ip_address("10.86.0.2"),
    "daddr": ip_address("192.168.50.10"),
    "iifname": "nc0",
    "oifname": "lan0",
    "state": "new",
    "mark": 0,
    "dport": 80,
}
DROP = FirewallRule((), RuleVerdict.DROP)
ACCEPT = FirewallRule((), RuleVerdict.ACCEPT)


def table(*chains: FirewallChain, family: str = "inet", name: str = "t") -> Table:
    return Table(family, name, "nft", {chain.name: chain for chain in chains})


def base(*rules: FirewallRule, drops: bool = False, hook: str = "forward", **more: Any) -> FirewallChain:
    return FirewallChain("base", [*rules], hook=hook, drops=drops, **more)


def stops(*tables: Table, hook: str = "forward", packet: Packet = PACKET) -> list[str]:
    return [stop.chain for stop in follow(tables, [(hook, packet)])]


@pytest.mark.parametrize(
    ("field", "wanted", "holds"),
    [
        ("iifname", ("nc0",), True),
        ("iifname", ("nc*",), True),
        ("iifname", ("eth*", "lo"), False),
        ("daddr", (ip_network("192.168.50.0/24"),), True),
        ("daddr", (ip_network("192.168.51.0/24"),), False),
        ("daddr", (ip_network("fd50::/64"),), False),
        ("dport", (22, Span(79, 81)), True),
        ("dport", (Span(81, 90),), False),
        ("sport", (Span(81, 90),), None),
        ("", (), None),
    ],
)
def test_a_condition(field: str, wanted: tuple[Any, ...], holds: bool | None) -> None:
    assert Condition(field, wanted).holds(PACKET) is holds
    assert Condition(field, wanted, negated=True).holds(PACKET) is (None if holds is None else not holds)


def test_policy_and_rules() -> None:
    assert stops(table(base())) == []
    assert stops(table(base(drops=True))) == ["base"]
    assert stops(table(base(ACCEPT, drops=True))) == []
    assert stops(table(base(DROP))) == ["base"]
    assert stops(table(base(FirewallRule((Condition("iifname", ("nc0",)),), RuleVerdict.ACCEPT), DROP))) == []
    assert stops(table(base(FirewallRule((Condition("iifname", ("nc1",)),), RuleVerdict.ACCEPT), DROP))) == [
        "base"
    ]
    assert stops(table(base(DROP, hook="input"))) == []
    assert stops(table(base(DROP), family="ip6")) == []
    assert stops(table(base(DROP), family="ip")) == ["base"]


def test_what_is_unclear_never_shouts() -> None:
    assert stops(table(base(FirewallRule((UNCLEAR,), RuleVerdict.DROP)))) == []
    assert stops(table(base(FirewallRule((UNCLEAR,), RuleVerdict.ACCEPT), DROP))) == []
    assert stops(table(base(FirewallRule((), RuleVerdict.UNCLEAR), drops=True))) == []
    assert stops(table(base(FirewallRule((UNCLEAR,), RuleVerdict.DROP), DROP))) == ["base"], (
        "it is dropped either way"
    )
    assert stops(
        table(base(FirewallRule((UNCLEAR, Condition("iifname", ("x",))), RuleVerdict.ACCEPT), DROP))
    ) == ["base"]


def test_jumps_gotos_and_returns() -> None:
    jump, goto = FirewallRule((), RuleVerdict.JUMP, "other"), FirewallRule((), RuleVerdict.GOTO, "other")
    back = FirewallRule((), RuleVerdict.RETURN)

    def through(
        first: FirewallRule, other: list[FirewallRule], *after: FirewallRule, drops: bool = False
    ) -> list[str]:
        return stops(table(base(first, *after, drops=drops), FirewallChain("other", other)))

    assert through(jump, [DROP]) == ["other"]
    assert through(jump, [ACCEPT], drops=True) == []
    assert through(jump, [back, ACCEPT], DROP) == ["base"]
    assert through(jump, [], ACCEPT, drops=True) == []
    assert through(goto, [], ACCEPT, drops=True) == ["base"], "a goto does not come back here"
    assert through(jump, [FirewallRule((UNCLEAR,), RuleVerdict.ACCEPT)], drops=True) == []
    assert stops(table(base(back, ACCEPT, drops=True))) == ["base"], "return ends a base chain by its policy"
    assert stops(table(base(jump, drops=True))) == [], "a chain that is not listed may do anything"
    assert through(jump, [jump], drops=True) == [], "so may one that calls itself"


def test_an_accept_in_one_table_does_not_help_against_another() -> None:
    one, other = table(base(ACCEPT)), table(base(DROP), name="u")
    assert stops(one, other) == ["base"]
    assert [stop.table.name for stop in follow([one, other, table(base(drops=True), name="v")],
                                               [("forward", PACKET)])] == ["u", "v"]  # fmt: skip


def test_after_another_destination_nothing_is_known() -> None:
    there = FirewallRule((), RuleVerdict.ALTER)
    nat = table(base(there, hook="prerouting", translates=True), name="nat")
    steps = [("prerouting", PACKET), ("forward", PACKET)]
    assert [*follow([nat, table(base(DROP))], steps)] == []
    elsewhere = FirewallRule((Condition("dport", (8080,)),), RuleVerdict.ALTER)
    nat = table(base(elsewhere, hook="prerouting", translates=True), name="nat")
    assert len([*follow([nat, table(base(DROP))], steps)]) == 1
    answer = {**PACKET, "state": "established"}
    nat = table(base(DROP, hook="prerouting", translates=True), name="nat")
    assert stops(nat, hook="prerouting") == ["base"]
    assert stops(nat, hook="prerouting", packet=answer) == [], "it sees first packets only"


def test_a_mark_that_somebody_sets_is_not_known() -> None:
    by_mark = base(FirewallRule((Condition("mark", (0,)),), RuleVerdict.DROP))
    assert stops(table(by_mark)) == ["base"]
    setter = table(FirewallChain("x", [FirewallRule((), RuleVerdict.NONE, sets_mark=True)]), name="u")
    assert stops(table(by_mark), setter) == []


def test_before_connection_tracking_no_packet_has_a_state() -> None:
    new = FirewallRule((Condition("state", ("new",)),), RuleVerdict.DROP)
    assert stops(table(base(new, priority=-150, hook="prerouting")), hook="prerouting") == ["base"]
    assert stops(table(base(new, priority=-300, hook="prerouting")), hook="prerouting") == []


def test_ingress_and_egress_belong_to_their_device() -> None:
    at = table(base(DROP, hook="ingress", device=("nc0",)), family="netdev")
    assert stops(at, hook="ingress") == ["base"]
    assert stops(at, hook="ingress", packet={**PACKET, "iifname": "lan0"}) == []


def test_which_prefixes_the_rules_tell_apart() -> None:
    lan = ip_network("192.168.50.0/25")
    assert [
        *addresses([table(base(FirewallRule((Condition("daddr", (lan, "x", 5)),), RuleVerdict.DROP)))])
    ] == [lan]


# Random rule sets, whose unclear conditions are tried as true and as false.


@dataclass
class Naive:
    """Follows one packet through one table, with an answer for each unclear condition."""

    chains: dict[str, FirewallChain]
    answers: Iterator[bool]

    def run(self, chain: FirewallChain) -> bool:
        """Whether the packet is accepted."""
        verdict = self._walk(chain)
        return not chain.drops if verdict is None else verdict

    def _walk(self, chain: FirewallChain) -> bool | None:
        for rule in chain.rules:
            taken = all(self._holds(condition) for condition in rule.conditions)
            if not taken or rule.verdict is RuleVerdict.NONE:
                continue
            if rule.verdict in (RuleVerdict.ACCEPT, RuleVerdict.DROP):
                return rule.verdict is RuleVerdict.ACCEPT
            if rule.verdict is RuleVerdict.RETURN:
                return None
            verdict = self._walk(self.chains[rule.target])
            if verdict is not None or rule.verdict is RuleVerdict.GOTO:
                return verdict
        return None

    def _holds(self, condition: Condition) -> bool:
        return next(self.answers) if condition == UNCLEAR else bool(condition.holds(PACKET))


conditions = st.sampled_from(
    [
        Condition("iifname", ("nc0",)),
        Condition("iifname", ("lan0",)),
        Condition("dport", (80,), True),
        UNCLEAR,
    ]
)
LEVELS = ("base", "one", "two")


def rules(level: int) -> st.SearchStrategy[FirewallRule]:
    calls = [
        (verdict, name) for verdict in (RuleVerdict.JUMP, RuleVerdict.GOTO) for name in LEVELS[level + 1 :]
    ]
    ends = [
        (verdict, "")
        for verdict in (RuleVerdict.ACCEPT, RuleVerdict.DROP, RuleVerdict.RETURN, RuleVerdict.NONE)
    ]
    return st.builds(
        lambda found, end: FirewallRule(tuple(found), end[0], end[1]),
        st.lists(conditions, max_size=1),
        st.sampled_from(ends + calls),
    )


@given(
    st.tuples(*(st.lists(rules(level), max_size=3) for level in range(3))),
    st.booleans(),
)
def test_it_stops_what_is_dropped_whatever_the_unclear_conditions_are(
    parts: tuple[list[FirewallRule], ...], drops: bool
) -> None:
    chains = {name: FirewallChain(name, part) for name, part in zip(LEVELS, parts, strict=True)}
    chains["base"].hook, chains["base"].drops = "forward", drops
    # Each look at an unclear condition has an answer of its own: no more of them than this are reached.
    looks = 8
    accepted = {
        Naive(chains, iter([*answers, *[False] * 1000])).run(chains["base"])
        for answers in product((False, True), repeat=looks)
    }
    said = stops(table(*chains.values()))
    if said:
        assert accepted == {False}
    elif sum(UNCLEAR in rule.conditions for part in parts for rule in part) <= 3:
        assert True in accepted, "nothing else than a drop is possible, and it is not said"
