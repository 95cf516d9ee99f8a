from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from nconnect.host.policy import Cause, PolicyRule, Question, RouteAnswer, TableRoute, cause

LOCAL = PolicyRule(4, 0, "lookup", 255)
MAIN = PolicyRule(4, 32766, "lookup", 254)
OURS = TableRoute(ip_network("192.168.50.0/24"), interface="nc0", protocol=0x6E)
DEFAULT = TableRoute(ip_network("0.0.0.0/0"), interface="wan0", gateway=ip_address("203.0.113.1"))
ELSEWHERE = TableRoute(ip_network("0.0.0.0/0"), 100, interface="tun9")
PACKET = Question(ip_address("192.168.50.10"), ip_address("10.86.0.2"))
UNTOLD = RouteAnswer("error", errno=22)


def rule(priority: int = 100, action: str = "lookup", table: int = 100, **selectors: Any) -> PolicyRule:
    return PolicyRule(4, priority, action, table, **selectors)


def named(*rules: PolicyRule, routes: tuple[TableRoute, ...] = (OURS, DEFAULT, ELSEWHERE),
          packet: Question = PACKET, answer: RouteAnswer = UNTOLD) -> Cause | None:  # fmt: skip
    return cause(packet, answer, (MAIN, *rules, LOCAL), routes)


def test_the_longest_prefix_of_the_first_table_that_has_one() -> None:
    assert named() == Cause(MAIN, OURS)
    assert named(rule()) == Cause(rule(), ELSEWHERE)
    assert named(rule(table=7)) == Cause(MAIN, OURS)
    inside = TableRoute(ip_network("192.168.50.0/25"), kind="blackhole")
    assert named(routes=(OURS, inside)) == Cause(MAIN, inside)
    assert named(routes=(DEFAULT, TableRoute(OURS.prefix, interface="a", metric=9), OURS)) == Cause(
        MAIN, OURS
    )
    assert named(routes=()) is None


@pytest.mark.parametrize(
    ("selectors", "takes"),
    [
        ({}, True),
        ({"source": ip_network("10.86.0.0/24")}, True),
        ({"source": ip_network("10.87.0.0/24")}, False),
        ({"destination": ip_network("192.168.0.0/16")}, True),
        ({"destination": ip_network("192.168.0.0/24")}, False),
        ({"iif": "lo"}, True),
        ({"iif": "lan0"}, False),
        ({"oif": "wan0"}, False),
        ({"mark": 0xCA6C, "mask": 0xFFFFFFFF}, False),
        ({"mark": 0xCA6C, "mask": 0xFFFFFFFF, "inverted": True}, True),
        ({"mark": 0, "mask": 0xFF}, True),
        ({"unclear": True}, None),
        ({"unclear": True, "iif": "lan0"}, False),
        ({"unclear": True, "iif": "lan0", "inverted": True}, True),
    ],
)
def test_which_packets_a_rule_takes(selectors: dict[str, Any], takes: bool | None) -> None:
    assert rule(**selectors).takes(PACKET) is takes


def test_other_packets_and_other_versions() -> None:
    from_lan = Question(PACKET.destination, PACKET.source, "lan0")
    assert rule(iif="lan0").takes(from_lan) is True
    assert rule(iif="lo").takes(from_lan) is False
    assert rule(source=ip_network("0.0.0.0/0")).takes(Question(PACKET.destination)) is False
    assert PolicyRule(6, 1, "lookup").takes(PACKET) is False


def test_what_decides_nothing_is_passed_over() -> None:
    assert named(rule(shortest=0)) == Cause(MAIN, OURS), "suppress_prefixlength passes a default route over"
    throw = TableRoute(ip_network("192.168.0.0/16"), 100, "throw")
    assert named(rule(), routes=(OURS, ELSEWHERE, throw)) == Cause(MAIN, OURS)
    assert named(rule(action="")) == Cause(MAIN, OURS), "goto"
    assert named(rule(action="prohibit")) == Cause(rule(action="prohibit"))


def test_the_table_of_the_kernels_answer_tells_of_rules_that_are_unclear() -> None:
    unclear = rule(unclear=True)
    assert named(unclear) == Cause(MAIN, OURS)
    assert named(unclear, answer=RouteAnswer("unicast", "tun9", 100)) == Cause(unclear, ELSEWHERE)
    assert named(rule(), answer=RouteAnswer("unicast", "nc0", 254)) == Cause(MAIN, OURS)


def test_they_are_written_as_ip_writes_them() -> None:
    assert str(rule(source=ip_network("192.168.50.0/24"))) == "100: from 192.168.50.0/24 lookup 100"
    odd = rule(7, "prohibit", inverted=True, destination=OURS.prefix, mark=5, mask=255, iif="lo", oif="wan0")
    assert str(odd) == "7: not from all to 192.168.50.0/24 fwmark 0x5/0xff iif lo oif wan0 prohibit"
    assert str(MAIN) == "32766: from all lookup main"
    assert str(TableRoute(OURS.prefix, kind="blackhole", interface="lo")) == "blackhole 192.168.50.0/24"
    assert str(TableRoute(DEFAULT.prefix, 100, interface="wan0", gateway=DEFAULT.gateway)) == (
        "default via 203.0.113.1 dev wan0 table 100"
    )
