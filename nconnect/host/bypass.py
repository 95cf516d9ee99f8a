"""The endpoints that the daemon connects to, and host routes to those inside a routed prefix. Pure.

Seeds, nodes and proxies must be reached outside the tunnel that they carry. One inside a peer's prefix is
refused (`nconnect.daemon.way_out`), unless the configuration names its address: then a host route leads to it
around the tunnel, and the rest of the prefix stays routed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from nconnect.config.proxy import Proxies
from nconnect.config.seed_url import place_of
from nconnect.host.facts import HostFacts
from nconnect.model import Address, Config, Endpoint, Prefix


@dataclass(frozen=True, slots=True)
class HostRoute:
    """To one address, through an interface that is not ours."""

    address: Address
    interface: str
    gateway: Address | None = None

    def __str__(self) -> str:
        via = f" via {self.gateway}" if self.gateway is not None else ""
        return f"{self.address}{via} through {self.interface}"


def named(config: Config, proxies: Proxies) -> tuple[Endpoint, ...]:
    """Seeds and proxy whose addresses the configuration (or the environment) names.

    Without seeds that are reached through the proxy: the proxy connects to them.
    """
    found = []
    for seed in config.network.seed_rpc:
        host, port = place_of(seed)
        if proxies.to(host, port) is None:
            found.append((host, port))
    if proxies.proxy is not None:
        found.append((proxies.proxy.host, proxies.proxy.port))
    return tuple(
        dict.fromkeys(Endpoint(a, port) for host, port in found if (a := _address(host)) is not None)
    )


def is_named(address: Address, config: Config, proxies: Proxies) -> bool:
    """Whether the address is one of `named`, or the address that our own node advertises."""
    if config.node is not None and address == _address(config.node.advertise or config.node.listen):
        return True
    return any(address == other for other, _ in named(config, proxies))


def bypasses(
    endpoints: Iterable[Endpoint], routed: Iterable[Prefix], interface: str, facts: HostFacts
) -> tuple[HostRoute, ...]:
    """The host routes without which the routes of `routed` would lead to `endpoints` through the tunnel.

    There is none for an address without another route, and none for this machine's own addresses.
    """
    routed = tuple(routed)
    own = {held.ip for local in facts.interfaces for held in local.addresses}
    found: dict[Address, HostRoute] = {}
    for address, _ in endpoints:
        ours = max((p.prefixlen for p in routed if address in p), default=-1)
        others = [r for r in facts.routes if r.interface != interface and address in r.prefix]
        best = min(others, key=lambda r: (-r.prefix.prefixlen, r.metric), default=None)
        if best is None or best.kind:  # none, or a blackhole
            continue
        if best.prefix.prefixlen < ours and address not in own:
            found[address] = HostRoute(address, best.interface, best.gateway)
    return tuple(found.values())


def _address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
