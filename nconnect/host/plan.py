"""The wanted host state, from a configuration and from what the kernel says now.

The plan never cuts the machine off: a route that equals one of its networks, hides a neighbour or a
gateway, or belongs to another program is skipped, with the reason (`host.routes`). With `fail_closed` its
prefix is closed nevertheless.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_interface, ip_network
from typing import NamedTuple

from nconnect.errors import HostError
from nconnect.host import flow_limits, nft
from nconnect.host.bypass import HostRoute, bypasses, named
from nconnect.host.closing import Closing
from nconnect.host.facts import HostFacts
from nconnect.host.forwarding import VIRTUAL_KINDS, Guard
from nconnect.host.offered import provides, reachable_exposed, sources
from nconnect.host.overlap import proposal
from nconnect.host.routes import hidden, networks_around, networks_inside, obstacle, taken
from nconnect.host.ruleset import Ruleset
from nconnect.model import Address, Config, Endpoint, InterfaceAddress, Prefix, join_addr, within

ROUTE_PROTOCOL = 0x6E  # marks our routes (rtm_protocol; "n"). Guessed free: see iproute2's rt_protos

IP_FORWARD = "net/ipv4/ip_forward"
IPV6_FORWARDING = "net/ipv6/conf/all/forwarding"
FORWARDING = frozenset({IP_FORWARD, IPV6_FORWARDING})

_OTHER_ADDRESS = "choose another network for the tunnel: [interface] address on both sides, and allowed_ips"


class PreferredSource(NamedTuple):
    """Of packets that this machine sends along a route, unless a program has chosen another address."""

    route: Prefix
    address: Address


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """All that one interface sets on its machine."""

    interface: str
    mtu: int
    addresses: tuple[InterfaceAddress, ...]
    routes: tuple[Prefix, ...]
    sources: tuple[PreferredSource, ...]  # of some of the routes
    bypasses: tuple[HostRoute, ...]  # around the tunnel
    device_sysctls: tuple[tuple[str, str], ...]  # of the interface itself: they vanish with it
    sysctls: tuple[tuple[str, str], ...]  # of the machine: remembered, and put back; in this order
    ruleset: Ruleset


@dataclass(frozen=True, slots=True)
class SkippedPrefix:
    route: Prefix
    why: str


@dataclass(frozen=True, slots=True)
class HostPlan:
    state: InterfaceState
    skipped_routes: tuple[SkippedPrefix, ...] = ()
    warnings: tuple[str, ...] = ()  # for the log: what of the configuration has no effect
    flow_limits: Mapping[str, int] = field(default_factory=dict)  # by peer; none where peers open nothing
    notes: tuple[str, ...] = ()  # what else a person may want to know, a sentence each
    closed: tuple[Prefix, ...] = ()  # by `fail_closed`
    elsewhere: tuple[Prefix, ...] = field(default=(), compare=False)  # what other interfaces lead to


def plan(config: Config, facts: HostFacts) -> HostPlan:
    """The host state that `config` asks for on a machine as `facts` describe it."""
    addresses, skipped = _addresses(config, facts)
    endpoints = tuple(dict.fromkeys((*named(config, facts.proxies), *facts.endpoints)))
    routes: list[Prefix] = []
    wanted = peers_prefixes(config)
    for prefix in wanted:
        if any(within(prefix, address.network) for address in addresses):
            continue  # the kernel's own route for the interface's address leads there
        why = no_ipv6(config.interface, facts) if prefix.version == 6 else None
        why = why or obstacle(prefix, config, facts, endpoints)
        if why is not None:
            skipped.append(SkippedPrefix(prefix, _with_advice(why, prefix, wanted, config, facts)))
            continue
        routes.append(prefix)
        for network, interface in networks_inside(prefix, config.interface, facts):
            why = f"it is the network of {interface}, and only the rest of {prefix} goes into the tunnel"
            skipped.append(SkippedPrefix(network, _with_advice(why, prefix, wanted, config, facts)))
    networks = [a.network for a in addresses if a.network.prefixlen < a.network.max_prefixlen]
    around = bypasses(endpoints, (*networks, *routes), config.interface, facts)
    closing = _closing(config, networks, endpoints, facts)
    elsewhere = tuple(_elsewhere(routes, skipped, around, config.interface, facts))
    notes = tuple(
        f"{prefix} goes into the tunnel, and is no part of the network {network} of {interface} meanwhile"
        for prefix in (*networks, *routes)
        for network, interface in networks_around(prefix, config.interface, facts)
    )
    limits = _flow_limits(config, facts)
    state = InterfaceState(
        interface=config.interface,
        mtu=config.mtu,
        addresses=tuple(addresses),
        routes=tuple(sorted(routes, key=lambda p: (p.version, p))),
        sources=tuple(_preferred(config, routes)),
        bypasses=around,
        device_sysctls=tuple(_device_sysctls(config, facts)),
        sysctls=tuple(_sysctls(config, facts)),
        ruleset=nft.ruleset(
            config, closing, _guard(config, facts), elsewhere, limits, taken_up_at=facts.taken_up_at
        ),
    )
    closed = closing.prefixes if closing is not None else ()
    return HostPlan(state, tuple(skipped), tuple(_warnings(config, facts)), limits, notes, closed, elsewhere)


def peers_prefixes(config: Config) -> tuple[Prefix, ...]:
    """All that is for the tunnel; `fail_closed` closes it, whichever routes are set."""
    return tuple(dict.fromkeys(prefix for peer in config.peers for prefix in peer.allowed_ips))


def shut_off(made: HostPlan) -> tuple[SkippedPrefix, ...]:
    """The prefixes that `fail_closed` makes unreachable on every interface, and why."""
    return tuple(
        skipped
        for skipped in made.skipped_routes
        if any(within(skipped.route, prefix) for prefix in made.closed)
    )


def _preferred(config: Config, routes: Iterable[Prefix]) -> Iterator[PreferredSource]:
    """Where several providers gave this device an address each, the one that the route's provider gave."""
    of_peer = sources(config)
    owners = {prefix: peer.name for peer in config.peers for prefix in peer.allowed_ips}
    for prefix in sorted(routes, key=lambda p: (p.version, p)):
        source = of_peer.get(owners[prefix], {}).get(prefix.version)
        if source is not None:
            yield PreferredSource(prefix, source)


def _flow_limits(config: Config, facts: HostFacts) -> dict[str, int]:
    """How many connections each peer may have open here; empty if peers may open none."""
    if not (provides(config) or config.inbound):
        return {}
    default = flow_limits.default_limit(facts.sysctls)
    return {peer.name: peer.max_flows or default for peer in config.peers}


def refuse_taken_addresses(config: Config, facts: HostFacts) -> None:
    """Raise `HostError` if an address for our interface belongs to another interface or to a gateway: this
    machine would then talk to itself instead.

    Only before the start: an address that is taken later is not a reason to refuse a change.
    """
    others = {route.gateway: f"the gateway of {route.interface}" for route in facts.routes if route.gateway}
    for address in config.address:
        if address.ip in others:
            raise HostError(
                f"the address {address.ip} is {others[address.ip]}:"
                f" give {config.interface} another one ([interface] address)"
            )
        for local in facts.interfaces:
            if local.name != config.interface and any(held.ip == address.ip for held in local.addresses):
                raise HostError(
                    f"the address {address.ip} is already in use on this machine, by {local.name}:"
                    f" give {config.interface} another one ([interface] address), or take it from there"
                )


def _addresses(config: Config, facts: HostFacts) -> tuple[list[InterfaceAddress], list[SkippedPrefix]]:
    """The addresses. If an address's network is already in use here, it is set without its network.

    The peers in that network are then routed one by one.
    """
    addresses: list[InterfaceAddress] = []
    skipped: list[SkippedPrefix] = []
    without = no_ipv6(config.interface, facts)
    for address in config.address:
        if address.version == 6 and without is not None:
            skipped.append(SkippedPrefix(address.network, without))
            continue
        why, network = None, address.network
        if network.prefixlen < network.max_prefixlen:
            why = taken(network, config.interface, facts) or hidden(network, config.interface, facts)
        if why is None:
            addresses.append(address)
        else:
            addresses.append(ip_interface(address.ip))
            advice = "" if "; " in why else f"; {_OTHER_ADDRESS}"
            skipped.append(SkippedPrefix(network, why + advice))
    return addresses, skipped


def _closing(
    config: Config, networks: Iterable[Prefix], endpoints: tuple[Endpoint, ...], facts: HostFacts
) -> Closing | None:
    if not config.fail_closed:
        return None
    gateways = {r.gateway for r in facts.routes if r.gateway is not None and r.interface != config.interface}
    return Closing(
        (*networks, *peers_prefixes(config)),
        tuple(sorted(gateways, key=lambda address: (address.version, address))),
        endpoints,
        facts.uid,
    )


def _with_advice(why: str, prefix: Prefix, wanted: Iterable[Prefix], config: Config, facts: HostFacts) -> str:
    """The reason, and what to do if addresses are used twice."""
    if "; " in why or why == no_ipv6(config.interface, facts):
        return why  # it says so itself, or there is none
    if any(within(prefix, address.network) for address in config.address):
        return f"{why}; {_OTHER_ADDRESS}"
    inside = any(networks_inside(prefix, config.interface, facts))
    if not prefix.prefixlen or not (inside or taken(prefix, config.interface, facts)):
        return why
    used = (*_known_prefixes("", facts), *wanted, *(address.network for address in config.address))
    line = proposal(prefix, used)
    return f"{why}; {line}" if line else why


def _elsewhere(
    routes: Iterable[Prefix],
    skipped: Iterable[SkippedPrefix],
    around: Iterable[HostRoute],
    interface: str,
    facts: HostFacts,
) -> Iterator[Prefix]:
    """The prefixes that this machine reaches by another way than the tunnel."""
    yield from (each.route for each in skipped)
    yield from (ip_network(each.address) for each in around)
    ours = set(routes)
    yield from (prefix for prefix in _known_prefixes(interface, facts) if prefix not in ours)


def _known_prefixes(interface: str, facts: HostFacts) -> Iterator[Prefix]:
    """What this machine reaches by other interfaces than `interface`; the default route is left out."""
    for local in facts.interfaces:
        if local.name != interface:
            yield from (address.network for address in local.addresses)
    for route in facts.routes:
        if route.prefix.prefixlen and route.interface != interface:
            yield route.prefix


def no_ipv6(interface: str, facts: HostFacts) -> str | None:
    """Why the tunnel interface can have no IPv6 address here; None if it can."""
    default = facts.sysctls.get("net/ipv6/conf/default/disable_ipv6")
    disabled = facts.sysctls.get(f"net/ipv6/conf/{interface}/disable_ipv6", default)
    if disabled is None:
        return "this kernel has no IPv6"
    if disabled != "0" and facts.sysctls_locked:
        return (
            "IPv6 is switched off here, and /proc/sys is read-only; start this container with --sysctl"
            " net.ipv6.conf.all.disable_ipv6=0"
        )
    return None


def _device_sysctls(config: Config, facts: HostFacts) -> Iterator[tuple[str, str]]:
    """Settings of the tunnel interface; first in the order in which they must be made."""
    name = config.interface
    ipv6 = f"net/ipv6/conf/{name}"
    if f"{ipv6}/disable_ipv6" in facts.sysctls and not facts.sysctls_locked:
        if any(address.version == 6 for address in config.address):
            yield f"{ipv6}/disable_ipv6", "0"
        yield f"{ipv6}/accept_ra", "0"  # no peer may send any: its link-local address is not allowed
    if reachable_exposed(config):
        yield f"net/ipv4/conf/{name}/route_localnet", "1"


def _sysctls(config: Config, facts: HostFacts) -> Iterator[tuple[str, str]]:
    """Settings of the whole machine, only if a provided subnet needs them.

    rp_filter needs no change: sources of peers are routed into the tunnel, so they pass even strict checking.
    """
    versions = {subnet.real.version for subnet in config.provide.subnets}
    if 4 in versions:
        yield IP_FORWARD, "1"
    if 6 in versions and IPV6_FORWARDING in facts.sysctls and no_ipv6(config.interface, facts) is None:
        # A router ignores router advertisements unless accept_ra is 2; raised first, or its own default
        # route would be lost (kernel: ip-sysctl, accept_ra).
        for name in sorted(facts.sysctls):
            scope, _, key = name.rpartition("/")
            interface = scope.removeprefix("net/ipv6/conf/")
            if (
                key == "accept_ra"
                and interface not in ("all", "lo", config.interface)
                and facts.sysctls[name] == "1"
                and not facts.sysctls_locked
                and facts.sysctls[IPV6_FORWARDING] == "0"
            ):
                yield name, "2"
        yield IPV6_FORWARDING, "1"


def _guard(config: Config, facts: HostFacts) -> Guard | None:
    """For which IP versions forwarding is, or will be, on only because of nconnect; None if for none."""
    versions = tuple(
        version
        for version, name in ((4, IP_FORWARD), (6, IPV6_FORWARDING))
        if name in facts.switched_on or facts.sysctls.get(name) == "0"
    )
    if not config.provide.subnets or not versions:
        return None
    here = [local for local in facts.interfaces if local.name != config.interface]
    later = {
        local.name
        for local in here
        if facts.there_before is not None
        and local.kind in VIRTUAL_KINDS
        and local.name not in facts.there_before
    }
    bridges = tuple(sorted(local.name for local in here if local.kind == "bridge"))
    return Guard(versions, tuple(sorted(later | set(facts.other_tunnels))), bridges)


def _warnings(config: Config, facts: HostFacts) -> Iterator[str]:
    reachable = reachable_exposed(config)
    for server in config.provide.expose:
        if server not in reachable:
            yield (
                f"expose {join_addr(server.host, server.port)} has no effect: it needs an IPv4 loopback"
                " address (127.0.0.1) and an IPv4 tunnel address"
            )
    if config.inbound and provides(config):
        yield (
            "inbound opens nothing of this machine itself while it provides something:"
            " name what peers may use in [provide] services"
        )
    versions = {subnet.real.version for subnet in config.provide.subnets}
    if 6 in versions and (IPV6_FORWARDING not in facts.sysctls or no_ipv6(config.interface, facts)):
        yield "an IPv6 subnet is provided, but IPv6 is switched off on this machine"


def tunnel_prefixes(state: InterfaceState) -> Iterable[Prefix]:
    """All that is routed into the tunnel, the interface's own networks included."""
    return (*(address.network for address in state.addresses), *state.routes)
