"""What is planned for a host, and what is not."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from nconnect.config.proxy import Proxies
from nconnect.errors import HostError
from nconnect.host.facts import HostFacts, LocalInterface, LocalRoute
from nconnect.host.plan import HostPlan, plan, refuse_taken_addresses, shut_off
from nconnect.host.ruleset import Hook
from nconnect.model import Config, Endpoint, Exposed, ProvidedSubnet, Proxy
from tests.host.examples import FACTS, PROVIDER, USER, peer


def routes(made: HostPlan) -> list[str]:
    return [str(route) for route in made.state.routes]


def why_skipped(config: Config, facts: HostFacts, prefix: str) -> str | None:
    made = plan(replace(config, peers=(peer("p", 9, prefix),)), facts)
    reasons = [s.why for s in made.skipped_routes if s.route == ip_network(prefix)]
    assert bool(reasons) != (prefix in routes(made))
    return reasons[0] if reasons else None


def test_a_user_gets_routes_for_what_its_own_addresses_do_not_cover() -> None:
    made = plan(USER, FACTS)
    assert routes(made) == ["192.168.50.0/24", "fd50::/64"]
    assert made.state.addresses == USER.address
    assert made.skipped_routes == ()
    assert made.state.sysctls == ()  # a user's machine becomes no router


@pytest.mark.parametrize(
    ("prefix", "why"),
    [
        ("0.0.0.0/0", "default route"),
        ("::/0", "default route"),
        ("192.168.1.0/24", "equals the network of eth0"),
        ("192.168.1.20/32", "is an address of this machine"),
        ("172.16.0.0/16", "holds the gateway 172.16.9.9"),
        ("172.20.0.0/16", "routed through wg0 already"),
        ("203.0.113.7/32", "203.0.113.7 is a seed, node or proxy"),
        ("224.0.0.0/4", "cannot be routed"),
        ("fe80::/10", "cannot be routed"),
        ("127.5.0.0/16", "cannot be routed"),
    ],
)
def test_what_would_cut_the_machine_off_is_skipped(prefix: str, why: str) -> None:
    assert why in (why_skipped(USER, FACTS, prefix) or "")


def bypasses(prefix: str, facts: HostFacts = FACTS) -> list[str]:
    made = plan(replace(USER, peers=(peer("p", 9, prefix),)), facts)
    assert routes(made) == [prefix]
    return [str(route) for route in made.state.bypasses]


BY_PROXY = replace(FACTS, proxies=Proxies(Proxy("http", "100.64.2.1", 3128)))


def test_a_seed_in_a_prefix_keeps_its_way_and_the_rest_is_routed() -> None:
    assert bypasses("203.0.113.0/24") == ["203.0.113.7 via 192.168.1.1 through eth0"]
    assert bypasses("203.0.114.0/24") == []


def test_what_the_daemon_connects_to_besides_keeps_its_way_too() -> None:
    facts = replace(FACTS, endpoints=(Endpoint(ip_address("100.64.1.9"), 30002),))
    assert bypasses("100.64.1.0/24", facts) == ["100.64.1.9 via 192.168.1.1 through eth0"]


def test_with_a_proxy_the_way_to_it_stays_and_not_the_way_to_the_seeds() -> None:
    """The node and the seeds are the proxy's to reach, so they may lie behind the peer."""
    assert bypasses("203.0.113.0/24", BY_PROXY) == []
    assert bypasses("100.64.2.0/24", BY_PROXY) == ["100.64.2.1 via 192.168.1.1 through eth0"]
    assert bypasses("100.64.2.0/24") == []


def test_a_proxy_that_is_not_for_the_seeds_leaves_them_their_way() -> None:
    excepted = replace(FACTS, proxies=Proxies(Proxy("http", "proxy.example", 3128), ("203.0.113.0/24",)))
    assert bypasses("203.0.113.0/24", excepted) == ["203.0.113.7 via 192.168.1.1 through eth0"]


def test_no_host_route_where_another_route_is_longer_than_ours_or_none_is_there() -> None:
    longer = LocalRoute(ip_network("203.0.113.0/28"), "eth1", ip_address("192.168.9.1"))
    assert bypasses("203.0.113.0/24", replace(FACTS, routes=(*FACTS.routes, longer))) == []
    assert bypasses("203.0.113.0/24", replace(FACTS, routes=FACTS.routes[1:])) == []


def test_the_host_route_takes_the_way_of_the_lower_metric() -> None:
    wlan = LocalRoute(ip_network("0.0.0.0/0"), "wlan0", ip_address("192.168.7.1"), metric=600)
    eth = replace(FACTS.routes[0], metric=100)
    facts = replace(FACTS, routes=(wlan, eth))
    assert bypasses("203.0.113.0/24", facts) == ["203.0.113.7 via 192.168.1.1 through eth0"]


def test_an_address_of_this_machine_needs_no_host_route() -> None:
    node = LocalInterface("eth1", (ip_interface("203.0.113.7/32"),))
    assert bypasses("203.0.113.0/24", replace(FACTS, interfaces=(*FACTS.interfaces, node))) == []


CLOSED = ("closed4", "closed6")


def closed(config: Config, facts: HostFacts = FACTS) -> tuple[list[str], HostPlan]:
    made = plan(replace(config, fail_closed=True), facts)
    return [str(prefix) for prefix in made.closed], made


def test_fail_closed_closes_what_is_routed_and_what_is_not() -> None:
    config = replace(USER, peers=(peer("p", 9, "203.0.113.0/24", "192.168.1.0/24", "0.0.0.0/0"),))
    prefixes, made = closed(config)
    assert {"203.0.113.0/24", "192.168.1.0/24", "0.0.0.0/0"} <= set(prefixes)
    assert routes(made) == ["203.0.113.0/24"]
    assert [str(shut.route) for shut in shut_off(made)] == ["192.168.1.0/24", "0.0.0.0/0"]
    open_one = plan(config, FACTS)
    assert open_one.closed == shut_off(open_one) == ()


def test_the_closed_set_does_not_follow_networks_gateways_or_proxies() -> None:
    first = closed(USER)[1].state.ruleset
    home = LocalInterface("lan0", (ip_interface("192.168.50.77/24"),))
    gateway = LocalRoute(ip_network("0.0.0.0/0"), "lan0", ip_address("192.168.50.1"))
    for facts in (
        replace(FACTS, interfaces=(*FACTS.interfaces, home)),
        replace(FACTS, routes=(*FACTS.routes, gateway)),
        replace(FACTS, endpoints=(Endpoint(ip_address("192.168.50.10"), 30002),)),
        replace(FACTS, proxies=Proxies(Proxy("http", "192.168.50.10", 3128))),
    ):
        found = closed(USER, facts)[1].state.ruleset
        assert [found.sets[name] for name in CLOSED] == [first.sets[name] for name in CLOSED]


def test_of_a_closed_prefix_gateway_dhcp_and_the_daemons_endpoints_are_reached() -> None:
    gateway = LocalRoute(ip_network("0.0.0.0/0"), "lan0", ip_address("192.168.50.1"))
    facts = replace(
        FACTS, routes=(gateway,), endpoints=(Endpoint(ip_address("192.168.50.10"), 30002),), uid=999
    )
    rules = closed(USER, facts)[1].state.ruleset.chains["closed_here"].rules
    text = [json.dumps(rule) for rule in rules]
    assert [("192.168.50.1" in t, "icmp" in t) for t in text if '"192.168.50.1"' in t] == [(True, True)]
    (endpoint,) = [t for t in text if "192.168.50.10" in t]
    assert all(word in endpoint for word in ("30002", "skuid", "999"))
    assert sum('"sport"' in t for t in text) == 2
    assert "203.0.113.7" not in "".join(text), "it is not closed"


@pytest.mark.parametrize(
    "prefix", ["192.168.2.0/24", "172.20.5.0/24", "203.0.114.0/24", "fd50::/64", "10.0.0.0/8"]
)
def test_near_misses_are_routed(prefix: str) -> None:
    assert why_skipped(USER, FACTS, prefix) is None


@pytest.mark.parametrize(
    "prefix", ["192.168.50.0/24", "192.168.50.8/29", "192.168.48.0/20", "10.99.1.0/24", "10.99.0.0/16"]
)
def test_what_this_machine_provides_is_not_routed_to_a_peer(prefix: str) -> None:
    mapped = ProvidedSubnet(ip_network("192.168.50.0/24"), ip_network("10.99.1.0/24"))
    config = replace(PROVIDER, provide=replace(PROVIDER.provide, subnets=(mapped,)))
    assert "provides" in (why_skipped(config, FACTS, prefix) or "")


def test_a_prefix_that_is_skipped_is_no_source() -> None:
    """Nor is a network of the machine's that lies in one that is routed."""
    config = replace(USER, peers=(peer("p", 9, "10.86.0.1/32", "192.168.1.1/32", "172.16.0.0/12"),))
    found = plan(config, FACTS).state.ruleset.sets["sources4"].elements
    assert [str(at) for at in found] == ["10.86.0.1"], "172.16.0.0/12 holds a gateway"
    roomy = replace(FACTS, routes=(FACTS.routes[0], LocalRoute(ip_network("172.20.0.0/16"), "wg0")))
    found = plan(config, roomy).state.ruleset.sets["sources4"].elements
    assert [str(at) for at in found] == [
        "10.86.0.1",
        "172.16.0.0-172.19.255.255",
        "172.21.0.0-172.31.255.255",
    ]


def test_the_tunnels_own_interface_is_no_obstacle() -> None:
    """At a second `apply` the facts show what the first has done."""
    first = plan(USER, FACTS)
    interfaces = (*FACTS.interfaces[:2], replace(FACTS.interfaces[2], addresses=USER.address))
    own = tuple(replace(FACTS.routes[1], prefix=route, interface="nc0") for route in first.state.routes)
    assert plan(USER, replace(FACTS, interfaces=interfaces, routes=(*FACTS.routes, *own))) == first


def test_an_address_whose_network_is_in_use_comes_alone() -> None:
    made = plan(replace(USER, address=(ip_interface("192.168.1.99/24"),)), FACTS)
    assert made.state.addresses == (ip_interface("192.168.1.99/32"),)
    assert [str(s.route) for s in made.skipped_routes] == ["192.168.1.0/24"]
    assert "10.86.0.1/32" in routes(made)  # no longer covered by the interface's own network


def test_a_provider_forwards_and_keeps_its_router_advertisements() -> None:
    assert plan(PROVIDER, FACTS).state.sysctls == (
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/eth0/accept_ra", "2"),
        ("net/ipv6/conf/all/forwarding", "1"),
    )


def test_only_the_ip_versions_that_are_provided_are_forwarded() -> None:
    provide = replace(PROVIDER.provide, subnets=PROVIDER.provide.subnets[:1])
    assert plan(replace(PROVIDER, provide=provide), FACTS).state.sysctls == (("net/ipv4/ip_forward", "1"),)
    services_alone = replace(PROVIDER.provide, subnets=())
    assert plan(replace(PROVIDER, provide=services_alone), FACTS).state.sysctls == ()


def test_accept_ra_stays_where_forwarding_was_on_before() -> None:
    facts = replace(FACTS, sysctls={**FACTS.sysctls, "net/ipv6/conf/all/forwarding": "1"})
    assert [name for name, _ in plan(PROVIDER, facts).state.sysctls if "accept_ra" in name] == []


def test_a_machine_without_ipv6_is_told_so() -> None:
    made = plan(PROVIDER, replace(FACTS, sysctls={"net/ipv4/ip_forward": "0"}))
    assert made.state.sysctls == (("net/ipv4/ip_forward", "1"),)
    assert made.state.device_sysctls == ()
    assert any("IPv6 is switched off" in warning for warning in made.warnings)


def test_a_container_without_ipv6_has_the_rest_of_the_tunnel() -> None:
    """Docker's default: /proc/sys is read-only, and IPv6 is off."""
    off = {**FACTS.sysctls, "net/ipv6/conf/nc0/disable_ipv6": "1"}
    made = plan(USER, replace(FACTS, sysctls=off, sysctls_locked=True))
    assert made.state.addresses == USER.address[:1]
    assert routes(made) == ["192.168.50.0/24"]
    assert [str(s.route) for s in made.skipped_routes] == ["fd86::/64", "fd86::1/128", "fd50::/64"]
    assert all("--sysctl net.ipv6.conf.all.disable_ipv6=0" in s.why for s in made.skipped_routes)
    assert made.state.device_sysctls == ()
    made = plan(USER, replace(FACTS, sysctls=off))
    assert made.state.addresses == USER.address
    assert ("net/ipv6/conf/nc0/disable_ipv6", "0") in made.state.device_sysctls, "where it can be set, it is"


def test_only_what_is_truly_needed_is_asked_of_a_container() -> None:
    locked = replace(FACTS, sysctls_locked=True)
    assert plan(USER, locked).state.device_sysctls == ()
    assert plan(USER, locked).state.addresses == USER.address
    assert plan(PROVIDER, locked).state.sysctls == (
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
    )


def test_exposing_needs_route_localnet_on_the_tunnel_only() -> None:
    provide = replace(PROVIDER.provide, expose=(Exposed("127.0.0.1", 11434), Exposed("192.168.50.9", 80)))
    made = plan(replace(PROVIDER, provide=provide), FACTS)
    assert ("net/ipv4/conf/nc0/route_localnet", "1") in made.state.device_sysctls
    assert [w for w in made.warnings if "expose" in w] == [
        "expose 192.168.50.9:80 has no effect: it needs an IPv4 loopback address (127.0.0.1) and an IPv4"
        " tunnel address"
    ]
    assert all("route_localnet" not in name for name, _ in plan(PROVIDER, FACTS).state.device_sysctls)


def test_inbound_on_a_provider_is_warned_about() -> None:
    assert any("inbound" in w for w in plan(replace(PROVIDER, inbound=True), FACTS).warnings)
    assert plan(replace(USER, inbound=True), FACTS).warnings == ()


@pytest.mark.parametrize("taken", ["10.86.0.2/32", "10.86.0.2/16", "fd86::2/128"])
def test_an_address_that_another_interface_holds_is_refused(taken: str) -> None:
    held = ip_interface(taken)
    facts = replace(FACTS, interfaces=(*FACTS.interfaces, LocalInterface("eth9", (held,))))
    with pytest.raises(HostError) as caught:
        refuse_taken_addresses(USER, facts)
    assert f"address {held.ip} is already in use on this machine, by eth9" in str(caught.value)


def test_the_address_of_a_gateway_is_refused() -> None:
    """A hostile provider gives it, and this machine would talk to itself instead."""
    gateway = LocalRoute(ip_network("0.0.0.0/0"), "eth0", USER.address[0].ip)
    with pytest.raises(HostError, match=f"address {USER.address[0].ip} is the gateway of eth0"):
        refuse_taken_addresses(USER, replace(FACTS, routes=(*FACTS.routes, gateway)))


@pytest.mark.parametrize("near", ["10.86.0.1/24", "10.86.0.3/32", "fd86::3/64"])
def test_other_addresses_and_our_own_interfaces_are_no_reason(near: str) -> None:
    others = (LocalInterface("eth9", (ip_interface(near),)), LocalInterface("nc0", USER.address))
    refuse_taken_addresses(USER, replace(FACTS, interfaces=(*FACTS.interfaces[:2], *others)))


def test_with_one_address_no_route_has_a_source() -> None:
    made = plan(USER, FACTS)
    assert made.state.sources == ()
    assert "own_sources" not in made.state.ruleset.chains


def test_packets_to_a_provider_have_the_address_that_it_gave() -> None:
    """Also those of the provider that is entered by hand: the interface's own."""
    joined = replace(
        peer("other", 8, "10.99.0.1/32", "172.21.0.0/16"), local_address=(ip_interface("10.99.0.2/24"),)
    )
    config = replace(USER, address=(*USER.address, *joined.local_address), peers=(*USER.peers, joined))
    made = plan(config, FACTS)
    assert {str(route): str(source) for route, source in made.state.sources} == {
        "172.21.0.0/16": "10.99.0.2",
        "192.168.50.0/24": "10.86.0.2",
        "fd50::/64": "fd86::2",
    }
    chains = made.state.ruleset.chains
    assert chains["own_sources"].hook == Hook("nat", "postrouting", 99)
    said = {name: json.dumps(chain.rules) for name, chain in chains.items() if name.startswith("from_")}
    assert len(said) == 2
    assert any('"snat": {"family": "ip", "addr": "10.99.0.2"}' in rules for rules in said.values())
    (to_joined,) = [
        target
        for at, target in made.state.ruleset.maps["from4"].elements.items()
        if at.first <= int(ip_address("172.21.3.4")) <= at.last
    ]
    assert "10.99.0.2" in said[to_joined.removeprefix("jump ")]
