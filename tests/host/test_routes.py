"""Networks that overlap the machine's own: which one keeps the addresses, and what is reported."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from nconnect.host.facts import HostFacts, LocalInterface, LocalNeighbour, LocalRoute
from nconnect.host.plan import HostPlan, plan
from nconnect.model import Config, Endpoint
from tests.host.examples import FACTS, PROVIDER, USER, peer, same

LAN = "192.168.50.0/24"


def at(network: str, interface: str = "docker0", *, facts: HostFacts = FACTS) -> HostFacts:
    """The facts, and an interface that is in another network too."""
    held = ip_interface(network)
    return replace(
        facts,
        interfaces=(*facts.interfaces, LocalInterface(interface, (held,), "bridge")),
        routes=(*facts.routes, LocalRoute(held.network, interface)),
    )


def wanting(*prefixes: str, config: Config = USER) -> Config:
    return replace(config, peers=(peer("p", 9, *prefixes),))


def routed(made: HostPlan) -> list[str]:
    return [str(route) for route in made.state.routes]


def skipped(made: HostPlan) -> dict[str, str]:
    return {str(entry.route): entry.why for entry in made.skipped_routes}


@pytest.mark.parametrize("prefix", [LAN, "192.168.50.10/32"])
def test_a_prefix_is_taken_out_of_a_wide_network_that_appears(prefix: str) -> None:
    made = plan(wanting(prefix), at("192.168.48.1/20"))
    assert routed(made) == [prefix]
    assert skipped(made) == {}
    (note,) = made.notes
    assert prefix in note
    assert "192.168.48.0/20 of docker0" in note


def test_a_server_in_the_users_own_network_is_reached_by_its_address() -> None:
    facts = at("192.168.50.77/24", "home0")
    assert routed(plan(wanting("192.168.50.10/32"), facts)) == ["192.168.50.10/32"]
    whole = plan(wanting(LAN), facts)
    assert routed(whole) == []
    assert skipped(whole)[LAN].startswith("it equals the network of home0; let its provider map it")


def neighbour(address: str, interface: str) -> LocalNeighbour:
    return LocalNeighbour(ip_address(address), interface)


def test_no_neighbour_is_hidden() -> None:
    facts = replace(at("192.168.48.1/20"), neighbours=(neighbour("192.168.50.7", "docker0"),))
    made = plan(wanting(LAN, "192.168.50.10/32"), facts)
    assert routed(made) == ["192.168.50.10/32"], "a longer prefix without it is"
    assert "holds the neighbour 192.168.50.7 in the network 192.168.48.0/20 of docker0" in skipped(made)[LAN]
    assert "let its provider map it" in skipped(made)[LAN]
    elsewhere = replace(facts, neighbours=(neighbour("192.168.50.7", "eth0"),))
    assert routed(plan(wanting(LAN), elsewhere)) == [LAN], "of another network, which is not hidden"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name_servers": (ip_address("192.168.50.53"),)}, "holds the name server 192.168.50.53"),
        (
            {"routes": (LocalRoute(ip_network("0.0.0.0/0"), "lan0", ip_address("192.168.50.254")),)},
            "holds the gateway 192.168.50.254 of lan0",
        ),
        (
            {"interfaces": (LocalInterface("lan0", (ip_interface("192.168.50.9/20"),)),)},
            "holds this machine's address 192.168.50.9",
        ),
    ],
)
def test_nothing_that_this_machine_needs_is_hidden(change: dict[str, object], why: str) -> None:
    facts = replace(at("192.168.63.1/20", "lan0"), **change)  # type: ignore[arg-type]
    made = plan(wanting(LAN), facts)
    assert routed(made) == []
    assert why in skipped(made)[LAN]


def test_a_name_server_that_only_the_tunnel_leads_to_is_no_reason() -> None:
    assert routed(plan(wanting(LAN), replace(FACTS, name_servers=(ip_address("192.168.50.53"),)))) == [LAN]


def test_of_a_wide_prefix_all_but_the_users_own_networks_is_routed() -> None:
    """The gateway and a neighbour are in them, and so are reached as before."""
    node = Endpoint(ip_address("192.168.1.9"), 30002)
    facts = replace(FACTS, neighbours=(neighbour("192.168.1.7", "eth0"),), endpoints=(node,))
    made = plan(wanting("192.168.0.0/16"), facts)
    assert routed(made) == ["192.168.0.0/16"]
    (why,) = skipped(made).values()
    assert list(skipped(made)) == ["192.168.1.0/24"]
    assert why.startswith(
        "it is the network of eth0, and only the rest of 192.168.0.0/16 goes into the tunnel"
    )
    assert 'subnets = ["192.168.0.0/16=10.99.0.0/16"]' in why
    assert made.state.bypasses == ()
    far = plan(
        wanting("192.168.0.0/16"), replace(facts, endpoints=(Endpoint(ip_address("192.168.7.9"), 30002),))
    )
    assert routed(far) == ["192.168.0.0/16"]
    assert list(map(str, far.state.bypasses)) == ["192.168.7.9 via 192.168.1.1 through eth0"]


def test_a_wide_prefix_around_what_this_machine_provides() -> None:
    config = replace(wanting("192.168.0.0/16", config=PROVIDER), provide=replace(
        PROVIDER.provide, subnets=(same(LAN),)))  # fmt: skip
    assert "provides" in skipped(plan(config, FACTS))["192.168.0.0/16"], "no network of its own leads there"
    made = plan(config, at("192.168.50.1/24", "lan0"))
    assert routed(made) == ["192.168.0.0/16"]
    assert (
        "provides"
        in skipped(plan(wanting("192.168.50.8/29", config=config), at("192.168.50.1/24")))["192.168.50.8/29"]
    )


def test_the_tunnels_network_in_a_wide_one() -> None:
    """10.0.0.0/8 at a hotel: the peers are reached as anywhere."""
    made = plan(USER, at("10.3.4.5/8", "wlan0"))
    assert made.state.addresses == USER.address
    assert skipped(made) == {}
    assert "10.0.0.0/8 of wlan0" in made.notes[0]


def test_the_tunnels_network_where_a_neighbour_has_an_address_of_it() -> None:
    """Peers are reached one by one, but the one whose address is in use: it needs another."""
    facts = replace(at("10.3.4.5/8", "wlan0"), neighbours=(neighbour("10.86.0.200", "wlan0"),))
    made = plan(USER, facts)
    assert made.state.addresses[0] == ip_interface("10.86.0.2/32")
    assert routed(made) == ["10.86.0.1/32", LAN, "fd50::/64"]
    used = replace(facts, neighbours=(neighbour("10.86.0.1", "wlan0"),))
    why = skipped(plan(USER, used))
    assert list(why) == ["10.86.0.0/24", "10.86.0.1/32"]
    assert all("; choose another network for the tunnel" in text for text in why.values())
    gateway = replace(facts, neighbours=(), routes=(
        *facts.routes, LocalRoute(ip_network("0.0.0.0/0"), "wlan0", ip_address("10.86.0.254"))))  # fmt: skip
    assert "holds the gateway 10.86.0.254" in skipped(plan(USER, gateway))["10.86.0.0/24"]


@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit", "throw"])
@pytest.mark.parametrize(("prefix", "metric"), [(LAN, 0), ("fd50::/64", 1024)])
def test_a_route_of_somebody_else_s_that_stops_a_prefix(kind: str, prefix: str, metric: int) -> None:
    """The kernel would refuse ours ("file exists"): the rest of the peer is reached all the same."""
    route = LocalRoute(ip_network(prefix), "#0", kind=kind, metric=metric)
    made = plan(USER, replace(FACTS, routes=(*FACTS.routes, route)))
    assert prefix not in routed(made)
    assert f"ip route del {kind} {prefix}" in skipped(made)[prefix]
    assert len(routed(made)) == 1
    behind = replace(route, metric=metric + 1)
    made = plan(USER, replace(FACTS, routes=(*FACTS.routes, behind)))
    assert prefix in routed(made), "one that holds only while ours is away"
