"""Which connections between other interfaces the rules stop, and when they stop none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nconnect.host.facts import HostFacts, LocalInterface
from nconnect.host.forwarding import NOT_FORWARDED_COUNTER
from nconnect.host.plan import IP_FORWARD, IPV6_FORWARDING, plan
from nconnect.host.ruleset import Rule
from nconnect.model import ProvideConfig
from tests.host.examples import FACTS, PROVIDER, USER

OFF = replace(FACTS, sysctls={IP_FORWARD: "0", IPV6_FORWARDING: "0"})
ON = {IP_FORWARD: "1", IPV6_FORWARDING: "1"}
DOCKER = LocalInterface("docker0", (), "bridge")
CABLE = LocalInterface("eth1", ())


def guard_rules(facts: HostFacts) -> list[Rule]:
    """The rules of the forward chain that are about other interfaces."""
    chain = plan(PROVIDER, facts).state.ruleset.chains["forward"].rules
    return [rule for rule in chain if "nc0" not in str(rule)]


def versions_stopped(facts: HostFacts) -> list[str]:
    return [version for version in ("ipv4", "ipv6") if any(version in str(r) for r in guard_rules(facts))]


def names_passed(facts: HostFacts) -> list[object]:
    return [rule[0]["match"]["right"] for rule in guard_rules(facts) if "set" in str(rule)]


@pytest.mark.parametrize(
    ("sysctls", "switched_on", "stopped"),
    [
        ({IP_FORWARD: "0", IPV6_FORWARDING: "0"}, (), ["ipv4", "ipv6"]),
        (ON, (IP_FORWARD, IPV6_FORWARDING), ["ipv4", "ipv6"]),
        (ON, (), []),  # a router before us
        (ON, (IP_FORWARD,), ["ipv4"]),
        ({IP_FORWARD: "1", IPV6_FORWARDING: "0"}, (), ["ipv6"]),
        ({IP_FORWARD: "0"}, (), ["ipv4"]),  # a kernel without IPv6
    ],
)
def test_it_is_stopped_where_nconnect_switched_forwarding_on(
    sysctls: dict[str, str], switched_on: tuple[str, ...], stopped: list[str]
) -> None:
    facts = replace(FACTS, sysctls=sysctls, switched_on=frozenset(switched_on))
    assert versions_stopped(facts) == stopped
    assert (NOT_FORWARDED_COUNTER in plan(PROVIDER, facts).state.ruleset.counters) is bool(stopped)


def test_the_plan_is_the_same_before_and_after_it_was_applied() -> None:
    there = frozenset(local.name for local in OFF.interfaces)
    after = replace(OFF, sysctls=ON, switched_on=frozenset(ON), there_before=there)
    assert plan(PROVIDER, after).state.ruleset == plan(PROVIDER, OFF).state.ruleset


def test_who_provides_no_subnet_stops_nothing() -> None:
    services_only = replace(PROVIDER, provide=ProvideConfig(services=PROVIDER.provide.services))
    for config in (USER, services_only):
        assert NOT_FORWARDED_COUNTER not in plan(config, OFF).state.ruleset.counters


def test_virtual_interfaces_that_came_later_pass_and_cables_do_not() -> None:
    facts = replace(
        OFF,
        sysctls=ON,
        switched_on=frozenset(ON),
        interfaces=(*OFF.interfaces, DOCKER, CABLE, LocalInterface("wg9", (), "wireguard")),
        there_before=frozenset({"lo", "eth0", "nc0"}),
    )
    assert names_passed(facts) == [{"set": ["docker0", "wg9"]}] * 2
    before = replace(facts, there_before=frozenset({"lo", "eth0", "nc0", "docker0", "wg9"}))
    assert names_passed(before) == []


def test_another_nconnects_tunnel_passes() -> None:
    assert names_passed(replace(OFF, other_tunnels=("nc1",))) == [{"set": ["nc1"]}] * 2


def test_what_is_bridged_is_not_forwarded() -> None:
    facts = replace(OFF, interfaces=(*OFF.interfaces, DOCKER))
    first = guard_rules(facts)[0]
    assert [part["match"]["right"] for part in first[:2]] == ["docker0", "docker0"]
    assert first[-1] == {"accept": None}
