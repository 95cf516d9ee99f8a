from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nconnect.doctor.firewalls import legacy_obstacle, obstacles

Json = dict[str, Any]


def base(table: str, name: str, policy: str = "accept", family: str = "ip", hook: str = "forward") -> Json:
    return {"chain": {"family": family, "table": table, "name": name, "hook": hook, "policy": policy}}


def chain(table: str, name: str, family: str = "ip") -> Json:
    return {"chain": {"family": family, "table": table, "name": name}}


def rule(table: str, chain: str, *expr: Json, family: str = "ip") -> Json:
    return {"rule": {"family": family, "table": table, "chain": chain, "expr": list(expr)}}


def from_interface(name: str, op: str = "==") -> Json:
    return {"match": {"op": op, "left": {"meta": {"key": "iifname"}}, "right": name}}


ACCEPT: Json = {"accept": None}
REJECT: Json = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}
DOCKER = [base("filter", "FORWARD", "drop"), chain("filter", "DOCKER-USER"), chain("filter", "DOCKER")]
UFW = [base("filter", "FORWARD", "drop"), chain("filter", "ufw-user-forward")]
FIREWALLD = [
    base("firewalld", "filter_FORWARD", family="inet"),
    rule("firewalld", "filter_FORWARD", REJECT, family="inet"),
]


def find(*ruleset: Json) -> list[str]:
    return [o.owner for o in obstacles(ruleset, "nc0", "nconnect_")]


def test_who_stops_us() -> None:
    assert find(*DOCKER) == ["docker"]
    assert find(*UFW) == ["ufw"]
    assert find(*FIREWALLD) == ["firewalld"]
    assert find(base("mine", "fwd", "drop", family="inet")) == ["the table mine"]


def test_what_mends_it_names_the_interface() -> None:
    (docker,) = obstacles(DOCKER, "nc0", "nconnect_")
    assert docker.mend == (
        "iptables -I DOCKER-USER -i nc0 -j ACCEPT && iptables -I DOCKER-USER -o nc0 -j ACCEPT"
    )
    assert docker.safe
    assert docker.version == 4
    (ufw,) = obstacles(UFW, "nc0", "nconnect_")
    assert ufw.mend == "ufw route allow in on nc0 && ufw route allow out on nc0"
    assert not ufw.safe


def test_ipv6_is_mended_by_its_own_program() -> None:
    ruleset = [base("filter", "FORWARD", "drop", family="ip6"), chain("filter", "DOCKER-USER", family="ip6")]
    (docker,) = obstacles(ruleset, "nc0", "nconnect_")
    assert docker.commands[0][0] == "ip6tables"
    assert docker.version == 6


def test_what_lets_us_through_is_seen() -> None:
    assert find(*DOCKER, rule("filter", "DOCKER-USER", from_interface("nc0"), ACCEPT)) == []
    assert find(*DOCKER, rule("filter", "DOCKER-USER", from_interface("nc*"), ACCEPT)) == []
    trusted = {"goto": {"target": "filter_FWD_trusted"}}
    assert find(*FIREWALLD, rule("firewalld", "x", from_interface("nc0"), trusted, family="inet")) == []


def test_what_does_not_let_us_through_does_not_count() -> None:
    assert find(*DOCKER, rule("filter", "DOCKER-USER", from_interface("nc1"), ACCEPT)) == ["docker"]
    assert find(*DOCKER, rule("filter", "DOCKER-USER", from_interface("nc0", "!="), ACCEPT)) == ["docker"]
    assert find(*DOCKER, rule("filter", "DOCKER-USER", from_interface("nc0"), {"drop": None})) == ["docker"]
    assert find(*DOCKER, rule("nat", "POSTROUTING", from_interface("nc0"), ACCEPT)) == ["docker"]


def test_what_stops_nothing_is_passed_over() -> None:
    assert find(base("filter", "FORWARD", "accept")) == []
    assert find(base("filter", "INPUT", "drop", hook="input")) == []
    assert find(base("nconnect_nc0", "forward", "drop", family="inet")) == []
    assert find(base("bridge", "FORWARD", "drop", family="bridge")) == []
    conditional = rule("t", "f", from_interface("eth9"), {"drop": None})
    assert find(base("t", "f"), conditional) == []


def test_legacy_tables() -> None:
    text = "-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n"
    found = legacy_obstacle(text, "nc0")
    assert found is not None
    assert found.owner == "docker"
    assert legacy_obstacle(text + "-A DOCKER-USER -i nc0 -j ACCEPT\n", "nc0") is None
    assert legacy_obstacle(text + "-A DOCKER-USER -i nc01 -j ACCEPT\n", "nc0") is not None
    assert legacy_obstacle("-P FORWARD ACCEPT\n", "nc0") is None
    assert legacy_obstacle("", "nc0") is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["chain", "rule", "expr", "match", "left", "meta", "key", "hook", "family", "table", "goto"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(values, max_size=5))
def test_any_json_is_taken(ruleset: list[Any]) -> None:
    obstacles(ruleset, "nc0", "nconnect_")
