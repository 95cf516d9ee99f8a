"""What the daemon itself connects to, and host routes to it where a prefix that we route holds it. Pure.

A seed, a node or a proxy must be reached outside of the tunnel that it carries. One that lies in a peer's
prefix is refused (`nconnect.daemon.way_out`), unless the configuration names that very address: then a host
route leads to it as if the tunnel were not there, and the rest of the prefix stays routed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from nconnect.config.proxy import Proxies
from nconnect.host.facts import Facts, LocalRoute
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
    """Seeds and proxy, as far as the configuration (or the environment) names their addresses.

    Seeds that are reached by proxy are the proxy's to connect to.
    """
    found = []
    for seed in config.network.seed_rpc:
        url = urlsplit(seed)
        port = url.port or (443 if url.scheme == "https" else 80)
        if proxies.to(url.hostname or "", port) is None:
            found.append((url.hostname or "", port))
    if proxies.proxy is not None:
        found.append((proxies.proxy.host, proxies.proxy.port))
    return tuple(dict.fromkeys((a, port) for host, port in found if (a := _address(host)) is not None))


def is_named(address: Address, config: Config, proxies: Proxies) -> bool:
    """Whether it is one of these, or where our own node says that it is."""
    if config.node is not None and address == _address(config.node.advertise or config.node.listen):
        return True
    return any(address == other for other, _ in named(config, proxies))


def bypasses(
    endpoints: Iterable[Endpoint], routed: Iterable[Prefix], interface: str, facts: Facts
) -> tuple[HostRoute, ...]:
    """The host routes without which `routed` would lead the way to `endpoints` into the tunnel.

    An address to which no other route leads has none; neither has one of this machine's own.
    """
    routed = tuple(routed)
    own = {held.ip for local in facts.interfaces for held in local.addresses}
    found: dict[Address, HostRoute] = {}
    for address, _ in endpoints:
        ours = max((p.prefixlen for p in _holding(address, routed)), default=-1)
        others = [r for r in facts.routes if r.interface != interface]
        best = min(_leading_to(address, others), key=lambda r: (-r.prefix.prefixlen, r.metric), default=None)
        if best is None or best.kind:  # none, or a blackhole
            continue
        if best.prefix.prefixlen < ours and address not in own:
            found[address] = HostRoute(address, best.interface, best.gateway)
    return tuple(found.values())


def _holding(address: Address, prefixes: Iterable[Prefix]) -> Iterator[Prefix]:
    return (p for p in prefixes if p.version == address.version and address in p)


def _leading_to(address: Address, routes: Iterable[LocalRoute]) -> Iterator[LocalRoute]:
    return (r for r in routes if r.prefix.version == address.version and address in r.prefix)


def _address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
