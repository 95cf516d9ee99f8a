"""From a configuration and what the kernel says now, the host state that we want.

The plan never asks for what would cut the machine off: a route that covers, equals or lies in a network of
its own, holds a gateway, a node or a proxy, or is somebody else's already, is skipped, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from urllib.parse import urlsplit

from nconnect.config.proxy import DIRECT, Proxies
from nconnect.errors import HostError
from nconnect.host import nft
from nconnect.host.forwarding import VIRTUAL_KINDS, Guard
from nconnect.host.overlap import proposal
from nconnect.host.ruleset import Ruleset
from nconnect.model import Config, InterfaceAddress, Prefix, join_addr

Address = IPv4Address | IPv6Address

ROUTE_PROTOCOL = 0x6E  # marks our routes (rtm_protocol; "n"). Guessed free: see iproute2's rt_protos

IP_FORWARD = "net/ipv4/ip_forward"
IPV6_FORWARDING = "net/ipv6/conf/all/forwarding"
FORWARDING = frozenset({IP_FORWARD, IPV6_FORWARDING})


@dataclass(frozen=True, slots=True)
class LocalInterface:
    name: str
    addresses: tuple[InterfaceAddress, ...]
    kind: str = ""  # of a virtual one: "bridge", "tun" and so on, as IFLA_INFO_KIND has it


@dataclass(frozen=True, slots=True)
class LocalRoute:
    """A unicast route of the main table."""

    prefix: Prefix
    interface: str
    gateway: Address | None = None
    protocol: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What the kernel says. A sysctl that this kernel does not have is absent."""

    interfaces: tuple[LocalInterface, ...] = ()
    routes: tuple[LocalRoute, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    other_tunnels: tuple[str, ...] = ()  # interfaces of other running nconnect daemons
    nodes: tuple[Address, ...] = ()  # nodes or proxies in use: they must stay reachable outside of the tunnel
    proxies: Proxies = DIRECT  # by which seeds and nodes are reached
    # What nconnect (this daemon or another one) switched on, and which interfaces were there then.
    switched_on: frozenset[str] = frozenset()  # names of sysctls
    there_before: frozenset[str] | None = None  # None: nothing was switched on yet


@dataclass(frozen=True, slots=True)
class HostState:
    """All that one interface sets on its machine."""

    interface: str
    mtu: int
    addresses: tuple[InterfaceAddress, ...]
    routes: tuple[Prefix, ...]
    device_sysctls: tuple[tuple[str, str], ...]  # of the interface itself: they vanish with it
    sysctls: tuple[tuple[str, str], ...]  # of the machine: remembered, and put back; in this order
    ruleset: Ruleset


@dataclass(frozen=True, slots=True)
class SkippedRoute:
    route: Prefix
    why: str


@dataclass(frozen=True, slots=True)
class HostPlan:
    state: HostState
    skipped_routes: tuple[SkippedRoute, ...] = ()
    warnings: tuple[str, ...] = ()  # for the log: what of the configuration has no effect


def plan(config: Config, facts: Facts) -> HostPlan:
    """The host state that `config` asks for on a machine as `facts` describe it."""
    addresses, skipped = _addresses(config, facts)
    routes: list[Prefix] = []
    wanted = dict.fromkeys(prefix for peer in config.peers for prefix in peer.allowed_ips)
    for prefix in wanted:
        if any(_within(prefix, address.network) for address in addresses):
            continue  # the kernel's own route for the interface's address leads there
        why = _obstacle(prefix, config, facts)
        if why is None:
            routes.append(prefix)
            continue
        if _is_taken(prefix, config.interface, facts):
            taken = (*_known_prefixes(facts), *wanted, *(address.network for address in config.address))
            line = proposal(prefix, taken)
            why = f"{why}; {line}" if line else why
        skipped.append(SkippedRoute(prefix, why))
    # What was skipped is reached on another way, and stays so.
    networks = [a.network for a in addresses if a.network.prefixlen < a.network.max_prefixlen]
    closed = (*networks, *routes)
    state = HostState(
        interface=config.interface,
        mtu=config.mtu,
        addresses=tuple(addresses),
        routes=tuple(sorted(routes, key=lambda p: (p.version, p))),
        device_sysctls=tuple(_device_sysctls(config, facts)),
        sysctls=tuple(_sysctls(config, facts)),
        ruleset=nft.ruleset(config, closed if config.fail_closed else (), _guard(config, facts)),
    )
    return HostPlan(state, tuple(skipped), tuple(_warnings(config, facts)))


def refuse_taken_addresses(config: Config, facts: Facts) -> None:
    """Raise `HostError` when another interface of this machine holds an address that ours should have.

    Only before the start: an address that somebody takes later is no reason to refuse a change.
    """
    for address in config.address:
        for local in facts.interfaces:
            if local.name != config.interface and any(held.ip == address.ip for held in local.addresses):
                raise HostError(
                    f"the address {address.ip} is already in use on this machine, by {local.name}:"
                    f" give {config.interface} another one ([interface] address), or take it from there"
                )


def _addresses(config: Config, facts: Facts) -> tuple[list[InterfaceAddress], list[SkippedRoute]]:
    """The addresses; one whose network is in use here already comes alone, without its network."""
    addresses: list[InterfaceAddress] = []
    skipped: list[SkippedRoute] = []
    for address in config.address:
        why = None
        if address.network.prefixlen < address.network.max_prefixlen:
            why = _own_network(address.network, config.interface, facts)
        if why is None:
            addresses.append(address)
        else:
            addresses.append(ip_interface(address.ip))
            skipped.append(SkippedRoute(address.network, why))
    return addresses, skipped


def _obstacle(prefix: Prefix, config: Config, facts: Facts) -> str | None:
    """Why a route to `prefix` through the tunnel must not be set; None when it may."""
    if prefix.prefixlen == 0:
        return "a default route through the tunnel would cut off the node that carries it"
    if prefix.is_multicast or prefix.is_loopback or prefix.is_link_local:
        return "loopback, link-local and multicast prefixes cannot be routed"
    why = _own_network(prefix, config.interface, facts)
    if why is not None:
        return why
    for subnet in config.provide.subnets:
        for own in dict.fromkeys((subnet.real, subnet.seen)):
            if _overlap(prefix, own):
                return f"this machine provides {own} itself"
    for route in facts.routes:
        if route.interface == config.interface:
            continue
        if route.gateway is not None and _holds(prefix, route.gateway):
            return f"it holds the gateway {route.gateway} of {route.interface}"
        if route.prefix == prefix:
            return f"it is routed through {route.interface} already"
    for proxy in _proxy_address(facts):
        if _holds(prefix, proxy):
            return f"it holds the proxy {proxy} that leads out of here"
    for node in (*facts.nodes, *_seed_addresses(config, facts)):
        if _holds(prefix, node):
            what = "node" if facts.proxies.proxy is None else "node or proxy"
            return f"it holds the {what} {node} that carries the tunnel"
    return None


def _is_taken(prefix: Prefix, interface: str, facts: Facts) -> bool:
    """Whether the machine uses the same addresses otherwise, so that another name for the prefix helps."""
    return _own_network(prefix, interface, facts) is not None or any(
        route.prefix == prefix and route.interface != interface and prefix.prefixlen for route in facts.routes
    )


def _known_prefixes(facts: Facts) -> Iterator[Prefix]:
    for local in facts.interfaces:
        for address in local.addresses:
            yield address.network
    for route in facts.routes:
        if route.prefix.prefixlen:
            yield route.prefix


def _own_network(prefix: Prefix, interface: str, facts: Facts) -> str | None:
    """How `prefix` collides with a network that this machine is in, if it does."""
    for local in facts.interfaces:
        if local.name == interface:
            continue
        for address in local.addresses:
            network = address.network
            if _holds_only(prefix, address.ip):
                return f"{address.ip} is an address of this machine ({local.name})"
            if network.prefixlen == network.max_prefixlen:
                continue  # no neighbours there; the kernel always finds its own addresses first
            if prefix == network:
                return f"it equals the network of {local.name}"
            if _within(network, prefix):
                return f"it covers the network {network} of {local.name}"
            if _within(prefix, network):
                return f"it lies in the network {network} of {local.name}"
    return None


def _seed_addresses(config: Config, facts: Facts) -> Iterator[Address]:
    """The seeds that are named by address: they are asked again whenever a link is lost."""
    for seed in config.network.seed_rpc:
        url = urlsplit(seed)
        host = url.hostname or ""
        if facts.proxies.to(host, url.port or (443 if url.scheme == "https" else 80)) is not None:
            continue  # the proxy connects to it, wherever that is
        try:
            yield ip_address(host)
        except ValueError:
            continue  # a host name


def _proxy_address(facts: Facts) -> Iterator[Address]:
    try:
        yield ip_address(facts.proxies.proxy.host if facts.proxies.proxy else "")
    except ValueError:
        pass  # none, or a name: its address is among the nodes once it is in use


def _device_sysctls(config: Config, facts: Facts) -> Iterator[tuple[str, str]]:
    """Settings of the tunnel interface; first in the order in which they must be made."""
    name = config.interface
    ipv6 = f"net/ipv6/conf/{name}"
    if f"{ipv6}/disable_ipv6" in facts.sysctls:
        if any(address.version == 6 for address in config.address):
            yield f"{ipv6}/disable_ipv6", "0"
        # Nobody on the other side answers link-local addresses or router solicitations.
        yield f"{ipv6}/addr_gen_mode", "1"
        yield f"{ipv6}/accept_ra", "0"
    if nft.reachable_exposed(config):
        yield f"net/ipv4/conf/{name}/route_localnet", "1"


def _sysctls(config: Config, facts: Facts) -> Iterator[tuple[str, str]]:
    """Settings of the whole machine, only where a provided subnet needs them.

    rp_filter needs nothing: sources of peers are routed into the tunnel, so even strict checking passes them.
    """
    versions = {subnet.real.version for subnet in config.provide.subnets}
    if 4 in versions:
        yield IP_FORWARD, "1"
    if 6 in versions and IPV6_FORWARDING in facts.sysctls:
        # A router ignores router advertisements unless accept_ra is 2; raised first, or its own default
        # route would be lost (kernel: ip-sysctl, accept_ra).
        for name in sorted(facts.sysctls):
            scope, _, key = name.rpartition("/")
            interface = scope.removeprefix("net/ipv6/conf/")
            if (
                key == "accept_ra"
                and interface not in ("all", "lo", config.interface)
                and facts.sysctls[name] == "1"
                and facts.sysctls[IPV6_FORWARDING] == "0"
            ):
                yield name, "2"
        yield IPV6_FORWARDING, "1"


def _guard(config: Config, facts: Facts) -> Guard | None:
    """Where forwarding is on, or will be, because of nconnect alone; None where the machine was a router."""
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


def _warnings(config: Config, facts: Facts) -> Iterator[str]:
    reachable = nft.reachable_exposed(config)
    for server in config.provide.expose:
        if server not in reachable:
            yield (
                f"expose {join_addr(server.host, server.port)} has no effect: it needs an IPv4 loopback"
                " address (127.0.0.1) and an IPv4 tunnel address"
            )
    if config.inbound and nft.provides(config):
        yield (
            "inbound opens nothing of this machine itself while it provides something:"
            " name what peers may use in [provide] services"
        )
    versions = {subnet.real.version for subnet in config.provide.subnets}
    if 6 in versions and IPV6_FORWARDING not in facts.sysctls:
        yield "an IPv6 subnet is provided, but IPv6 is switched off on this machine"


def tunnel_prefixes(state: HostState) -> Iterable[Prefix]:
    """All that is routed into the tunnel, the interface's own networks included."""
    return (*(address.network for address in state.addresses), *state.routes)


def _within(inner: Prefix, outer: Prefix) -> bool:
    return (
        inner.version == outer.version
        and inner.prefixlen >= outer.prefixlen
        and inner.network_address in outer
    )


def _overlap(one: Prefix, other: Prefix) -> bool:
    return _within(one, other) or _within(other, one)


def _holds(prefix: Prefix, address: Address) -> bool:
    return prefix.version == address.version and address in prefix


def _holds_only(prefix: Prefix, address: Address) -> bool:
    return prefix.prefixlen == prefix.max_prefixlen and prefix.network_address == address
