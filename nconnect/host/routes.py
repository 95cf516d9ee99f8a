"""Which prefixes may be routed into the tunnel on this machine, and why the others may not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_network

from nconnect.host.facts import HostFacts, LocalInterface
from nconnect.model import Address, Config, Endpoint, Prefix, within

OWN_METRIC = {4: 0, 6: 1024}  # of the routes that we set: the kernel's defaults (IP6_RT_PRIO_USER)


def obstacle(
    prefix: Prefix, config: Config, facts: HostFacts, endpoints: Iterable[Endpoint] = ()
) -> str | None:
    """Why a route to `prefix` through the tunnel must not be set; None if it may.

    The kernel uses the longest prefix. So a network of this machine inside `prefix` stays reachable, and a
    network around `prefix` loses these addresses: that is allowed only if none of them is known to be in use
    there. `endpoints` carry the tunnel: `prefix` may contain one, but not be one.
    """
    if prefix.prefixlen == 0:
        return "a default route through the tunnel would cut off the node that carries it"
    if prefix.is_multicast or prefix.is_loopback or prefix.is_link_local:
        return "loopback, link-local and multicast prefixes cannot be routed"
    for subnet in config.provide.subnets:
        for own in dict.fromkeys((subnet.real, subnet.seen)):
            if _overlap(prefix, own) and not _is_reached_otherwise(own, prefix, config.interface, facts):
                return f"this machine provides {own} itself"
    for address, _ in endpoints:
        if _holds_only(prefix, address):
            return f"{address} is a seed, node or proxy that carries the tunnel"
    return taken(prefix, config.interface, facts) or hidden(prefix, config.interface, facts)


def taken(prefix: Prefix, interface: str, facts: HostFacts) -> str | None:
    """What already uses the addresses of `prefix` on this machine; None if nothing does."""
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
            if within(prefix, network):
                why = _in_use(prefix, local.name, address.ip, facts)
                if why is not None:
                    return f"{why} in the network {network} of {local.name}"
    for route in facts.routes:
        if route.interface == interface or route.prefix != prefix:
            continue
        if not route.kind:
            return f"it is routed through {route.interface} already"
        if route.metric <= OWN_METRIC[prefix.version]:
            return (
                f"a {route.kind} route for it is there already, which is not ours; find out who needs it, or"
                f" `ip route del {route.kind} {prefix}`"
            )
    return None


def hidden(prefix: Prefix, interface: str, facts: HostFacts) -> str | None:
    """The gateway of this machine that a route to `prefix` would hide, as a reason; None if none."""
    for route in facts.routes:
        if route.interface == interface or route.gateway is None or route.gateway not in prefix:
            continue
        if not _is_reached_otherwise(ip_network(route.gateway), prefix, interface, facts):
            return f"it holds the gateway {route.gateway} of {route.interface}"
    return None


def networks_inside(prefix: Prefix, interface: str, facts: HostFacts) -> Iterator[tuple[Prefix, str]]:
    """The networks of this machine inside `prefix`, so that only the rest goes into the tunnel.

    Each comes with its interface's name.
    """
    for local, network in _own_networks(interface, facts):
        if network != prefix and within(network, prefix):
            yield network, local.name


def networks_around(prefix: Prefix, interface: str, facts: HostFacts) -> Iterator[tuple[Prefix, str]]:
    """The networks of this machine around `prefix`, which lose addresses to it, with interfaces."""
    for local, network in _own_networks(interface, facts):
        if network != prefix and within(prefix, network):
            yield network, local.name


def _own_networks(interface: str, facts: HostFacts) -> Iterator[tuple[LocalInterface, Prefix]]:
    for local in facts.interfaces:
        for network in dict.fromkeys(address.network for address in local.addresses):
            if local.name != interface and network.prefixlen < network.max_prefixlen:
                yield local, network


def _in_use(prefix: Prefix, interface: str, own: Address, facts: HostFacts) -> str | None:
    """Which address of `prefix` is known to be used on an interface whose network holds `prefix`."""
    if own in prefix:
        return f"it holds this machine's address {own}"
    for neighbour in facts.neighbours:
        if neighbour.interface == interface and neighbour.address in prefix:
            return f"it holds the neighbour {neighbour.address}"
    for server in facts.name_servers:
        if server in prefix:
            return f"it holds the name server {server}"
    return None


def _is_reached_otherwise(wanted: Prefix, prefix: Prefix, interface: str, facts: HostFacts) -> bool:
    """Whether another interface has a longer prefix than `prefix` for all of `wanted`."""
    others = [network for _, network in _own_networks(interface, facts)]
    others += [route.prefix for route in facts.routes if route.interface != interface and not route.kind]
    return any(other.prefixlen > prefix.prefixlen and within(wanted, other) for other in others)


def _overlap(one: Prefix, other: Prefix) -> bool:
    return within(one, other) or within(other, one)


def _holds_only(prefix: Prefix, address: Address) -> bool:
    return prefix.prefixlen == prefix.max_prefixlen and prefix.network_address == address
