"""What the doctor asks the kernel, which is a function here, and what it says about the answers."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.doctor.routing import (
    MAX_RANGES,
    Detour,
    View,
    find_detours,
    folded,
    is_detour,
    samples,
)
from nconnect.host.policy import PolicyRule, Question, RouteAnswer, TableRoute

LAN = ip_network("192.168.50.0/24")
NETWORK = ip_network("10.86.0.0/24")
LAPTOP = ip_network("10.86.0.2/32")
LOCAL, MAIN = PolicyRule(4, 0, "lookup", 255), PolicyRule(4, 32766, "lookup")
OURS = TableRoute(LAN, interface="nc0", protocol=0x6E)
INTO, AWAY = RouteAnswer("unicast", "nc0", 254), RouteAnswer("unicast", "wan0", 100)
USER = View("nc0", (ip_address("10.86.0.2"),), (LAN,), rules=(LOCAL, MAIN), routes=(OURS,))
PROVIDER = View(
    "nc0",
    (ip_address("10.86.0.1"),),
    (LAPTOP,),
    (NETWORK,),
    provided=(LAN,),
    held=frozenset(map(ip_address, ("10.86.0.1", "192.168.50.1"))),
    forwards=frozenset({4}),
    rules=(LOCAL, MAIN),
    routes=(TableRoute(LAN, interface="lan0"), TableRoute(NETWORK, interface="nc0")),
)


def with_(view: View, rule: PolicyRule | None = None, *routes: TableRoute) -> View:
    return replace(view, rules=(*view.rules, *([rule] if rule else [])), routes=(*view.routes, *routes))


def kernel(**astray: RouteAnswer) -> Callable[[Question], RouteAnswer]:
    """All is right, but for packets of which a word is true."""

    def answer(packet: Question) -> RouteAnswer:
        words = {
            "from_lan": packet.source is not None and packet.source in LAN,
            "forwarded": packet.iif == "lan0",
            "unbound": packet.source is None,
            "inward": packet.iif == "nc0",
            "low": packet.destination in ip_network("192.168.50.0/25"),
            "all": True,
        }
        for word, answer in astray.items():
            if words[word]:
                return answer
        return RouteAnswer("unicast", "lan0", 254) if packet.iif == "nc0" else INTO

    return answer


def said(view: View, **astray: RouteAnswer) -> list[str]:
    found, _ = find_detours(view, kernel(**astray))
    for detour in found:
        assert is_detour(detour.problem)
    return [detour.problem for detour in found]


def test_where_all_is_right_nothing_is_said() -> None:
    assert said(USER) == []
    assert find_detours(PROVIDER, kernel()) == ([], {LAN: "lan0"})


def test_another_vpns_rule_before_main() -> None:
    rule = PolicyRule(4, 5270, "lookup", 100)
    view = with_(USER, rule, TableRoute(ip_network("0.0.0.0/0"), 100, interface="wan0"))
    assert said(view, all=AWAY) == [
        "the kernel sends packets to 192.168.50.0/24 through wan0 instead of nc0 (rule 5270: from all lookup"
        " 100, route default dev wan0 table 100): `ip rule add to 192.168.50.0/24 lookup main priority 5269`"
    ]


def test_a_rule_for_answers_from_a_subnet() -> None:
    rule = PolicyRule(4, 100, "lookup", 100, source=LAN)
    view = with_(PROVIDER, rule, TableRoute(ip_network("0.0.0.0/0"), 100, interface="wan0"))
    expected = [
        "the kernel sends answers from 192.168.50.0/24 to 10.86.0.0/24 through wan0 instead of nc0 (rule 100:"
        " from 192.168.50.0/24 lookup 100, route default dev wan0 table 100):"
        " `ip rule add to 10.86.0.0/24 lookup main priority 99`"
    ]
    assert said(view, from_lan=AWAY) == expected, "forwarded, and of this machine's own address there: once"
    assert said(view, forwarded=AWAY) == expected


@pytest.mark.parametrize("text", ["blackhole 192.168.50.0/25", "192.168.50.0/25 via 198.51.100.7 dev wan0"])
def test_a_route_inside_a_peers_prefix(text: str) -> None:
    refused = text.startswith("blackhole")
    gateway = None if refused else ip_address("198.51.100.7")
    kind, device = ("blackhole", "") if refused else ("unicast", "wan0")
    route = TableRoute(ip_network("192.168.50.0/25"), 254, kind, device, gateway)
    answer = RouteAnswer("error", why="Invalid argument", errno=errno.EINVAL) if refused else (
        RouteAnswer("unicast", "wan0", 254))  # fmt: skip
    (problem,) = said(with_(USER, None, route), low=answer)
    verb, device = ("drops", "") if refused else ("sends", " through wan0 instead of nc0")
    assert problem.startswith(f"the kernel {verb} packets to 192.168.50.0/25{device} (")
    assert problem.endswith(f"(route {text}): `ip route del {text}`")


def test_what_is_inside_is_asked_for_although_the_rest_is_right() -> None:
    asked: list[Any] = []

    def ask(packet: Question) -> RouteAnswer:
        asked.append(packet.destination)
        return INTO

    route = TableRoute(ip_network("192.168.50.64/26"), kind="blackhole")
    find_detours(
        with_(USER, PolicyRule(4, 9, "lookup", 7, destination=ip_network("192.168.50.200/32")), route), ask
    )
    assert {ip_address("192.168.50.200"), ip_address("192.168.50.65")} < set(asked)
    assert len(set(asked)) == 5, "and between them"


def test_a_route_that_holds_no_peer_is_nobodys_detour() -> None:
    """In the tunnel's own network, beside the peers' addresses."""
    for text, asked_for in (("10.86.0.64/26", False), ("10.86.0.0/29", True), ("10.86.0.2/32", True)):
        asked: list[Any] = []

        def ask(packet: Question, asked: list[Any] = asked) -> RouteAnswer:
            asked.append(packet.destination)
            return INTO

        prefix = ip_network(text)
        find_detours(with_(replace(PROVIDER, provided=()), None, TableRoute(prefix, kind="blackhole")), ask)
        assert any(address in prefix for address in asked) is asked_for


def test_a_provided_subnet_may_lie_anywhere_but_behind_us() -> None:
    anywhere = kernel(inward=RouteAnswer("unicast", "wan0", 254))
    assert find_detours(PROVIDER, anywhere) == ([], {LAN: "wan0"})
    assert said(PROVIDER, inward=INTO)[0].startswith(
        "the kernel sends what peers send to 192.168.50.0/24 back through nc0"
    )
    nowhere = RouteAnswer("error", why="Network is unreachable", errno=errno.ENETUNREACH)
    assert find_detours(PROVIDER, kernel(inward=nowhere))[1] == {}
    assert "the kernel drops what peers send to 192.168.50.0/24" in said(PROVIDER, inward=nowhere)[0]


def test_without_forwarding_only_what_leaves_by_itself_is_asked_about() -> None:
    assert (
        said(
            replace(PROVIDER, forwards=frozenset()),
            inward=RouteAnswer("error"),
            forwarded=RouteAnswer("error"),
        )
        == []
    )


def test_reverse_path_filtering_and_what_has_no_name() -> None:
    (problem,) = said(PROVIDER, forwarded=RouteAnswer("error", errno=errno.EXDEV))
    assert problem.endswith("(rp_filter): `sysctl -w net.ipv4.conf.lan0.rp_filter=2`")
    (problem,) = said(USER, all=RouteAnswer("unicast", "tun9", 77))
    assert problem.endswith("; look at `ip route get 192.168.50.1` and `ip rule`")


def test_an_own_address_in_a_peers_prefix_is_nobodys_detour() -> None:
    assert said(USER, all=RouteAnswer("local", "lo", 255)) == []


def test_a_network_of_this_machine_in_a_wider_prefix_is_left_alone() -> None:
    own = TableRoute(ip_network("192.168.50.0/25"), interface="eth0", protocol=2)
    astray = RouteAnswer("unicast", "eth0", 254)
    assert said(with_(USER, None, own), low=astray) == []
    assert said(with_(USER, None, replace(own, protocol=3)), low=astray) != []


def test_ipv6_is_mended_by_its_own_rules() -> None:
    wide = ip_network("fd50::/64")
    view = View("nc0", (), (wide,), rules=(PolicyRule(6, 1, "prohibit"),))
    (problem,) = said(view, all=RouteAnswer("prohibit"))
    assert problem.endswith(
        "(rule 1: from all prohibit): `ip -6 rule add to fd50::/64 lookup main priority 0`"
    )


def test_a_thousand_peers_are_few_questions_and_a_short_sentence() -> None:
    asked = 0

    def ask(packet: Question) -> RouteAnswer:
        nonlocal asked
        asked += 1
        return AWAY

    many = tuple(ip_network(f"10.{n >> 8}.{n & 255}.8/32") for n in range(1000))
    away = TableRoute(ip_network("0.0.0.0/0"), 100, interface="wan0")
    view = View("nc0", (), many, rules=(PolicyRule(4, 5, "lookup", 100),), routes=(away,))
    (detour,) = find_detours(view, ask)[0]
    assert asked == MAX_RANGES
    assert "and 509 more" in detour.sentence
    assert len(detour.commands) == 3
    asked = 0
    inside = tuple(ip_network(f"10.86.{n >> 8}.{n & 255}/32") for n in range(2, 1000))
    find_detours(View("nc0", (), inside, (ip_network("10.86.0.0/16"),)), ask)
    assert asked == 1


def test_advice_and_commands() -> None:
    assert Detour("the kernel drops x", advice="see y").problem == "the kernel drops x; see y"
    assert Detour("the kernel drops x", (("a", "b"), ("c",))).mend == "a b && c"
    assert folded([LAPTOP, LAN, LAPTOP], [NETWORK]) == (NETWORK, LAN)


prefixes = st.builds(
    lambda number, length: IPv4Network((number, length), strict=False),
    st.integers(0, 255).map(lambda n: 0x0A000000 + n),
    st.integers(24, 32),
)


@given(st.lists(prefixes, max_size=6), st.lists(prefixes, max_size=8))
def test_no_part_that_a_prefix_tells_apart_goes_unasked(whole: list[Any], foreign: list[Any]) -> None:
    """Every address is asked about by one that all prefixes hold, or none, just as itself."""
    found = samples(whole, foreign, frozenset())
    assert len(found) <= len({*whole, *foreign}) * 2 + 1
    kinds = [_kind(sample.address, whole, foreign) for sample in found]
    for sample in found:
        assert sample.address in sample.prefix
        assert sample.prefix in whole
    for number in range(256):
        address = ip_address(0x0A000000 + number)
        edges = {end for p in (*whole, *foreign) if p.num_addresses > 2 for end in (p[0], p[-1])}
        if address not in edges and any(address in prefix for prefix in whole):
            assert _kind(address, whole, foreign) in kinds


def _kind(address: Any, whole: list[Any], foreign: list[Any]) -> frozenset[Any]:
    """The foreign prefixes inside ours that hold the address."""
    inside = {p for p in foreign if any(p.subnet_of(w) for w in whole)}
    return frozenset(p for p in inside - set(whole) if address in p)
