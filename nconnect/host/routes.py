"""Which prefixes may be routed into the tunnel on this machine, and why the others may not."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from nconnect.host.facts import Address, Facts
from nconnect.model import Config, Prefix


def obstacle(prefix: Prefix, config: Config, facts: Facts) -> str | None:
    """Why a route to `prefix` through the tunnel must not be set; None when it may."""
    if prefix.prefixlen == 0:
        return "a default route through the tunnel would cut off the node that carries it"
    if prefix.is_multicast or prefix.is_loopback or prefix.is_link_local:
        return "loopback, link-local and multicast prefixes cannot be routed"
    why = own_network(prefix, config.interface, facts)
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


def own_network(prefix: Prefix, interface: str, facts: Facts) -> str | None:
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
            if within(network, prefix):
                return f"it covers the network {network} of {local.name}"
            if within(prefix, network):
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


def within(inner: Prefix, outer: Prefix) -> bool:
    return (
        inner.version == outer.version
        and inner.prefixlen >= outer.prefixlen
        and inner.network_address in outer
    )


def _overlap(one: Prefix, other: Prefix) -> bool:
    return within(one, other) or within(other, one)


def _holds(prefix: Prefix, address: Address) -> bool:
    return prefix.version == address.version and address in prefix


def _holds_only(prefix: Prefix, address: Address) -> bool:
    return prefix.prefixlen == prefix.max_prefixlen and prefix.network_address == address
