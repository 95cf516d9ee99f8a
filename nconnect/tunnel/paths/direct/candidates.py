"""Which addresses this device tells a peer, and which of a peer's it may probe.

A peer is authenticated, and still may not make this device send packets to whoever it likes: an address that
leads into a tunnel of ours, that is multicast, loopback or link-local, or that lies in a private network that
this device is no part of, is never probed. How much goes to the remaining ones is bounded by
`nconnect.tunnel.paths.direct.budget`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

from nconnect.model import Address, DirectMode, Endpoint, InterfaceAddress, Prefix
from nconnect.wire.direct import MAX_CANDIDATES, Candidate, CandidateKind, NatVerdict

PRIVATE = tuple(
    ip_network(prefix)
    for prefix in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
# Besides what `ipaddress` knows as multicast, loopback, link-local or unspecified: this network (RFC 1122),
# reserved and broadcast; IPv4 inside of IPv6: mapped, NAT64, Teredo, 6to4; deprecated site-local.
FORBIDDEN = tuple(
    ip_network(prefix)
    for prefix in (
        "0.0.0.0/8", "240.0.0.0/4", "::ffff:0:0/96", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32",
        "2002::/16", "fec0::/10",
    )
)  # fmt: skip
LEAST_PORT = 1024  # a peer must not make us talk to a service of somebody's (NATs give none: RFC 4787, REQ-3)
MAX_ROUTES_KNOWN = 256  # addresses whose route was looked up


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """An address of this device, with its prefix."""

    interface: InterfaceAddress
    is_tunnel: bool = False  # of a tunnel of ours
    is_bridge: bool = False  # between containers or virtual machines: told last
    is_deprecated: bool = False  # RFC 4862: not for new communication


@dataclass(frozen=True, slots=True)
class Route:
    """A route of this device; `is_tunnel`: it leads into a tunnel of ours."""

    prefix: Prefix
    is_tunnel: bool = False
    via: str = ""  # interface and gateway: another one is another route


@dataclass(frozen=True, slots=True)
class Network:
    """What the kernel says about this device's addresses and routes."""

    addresses: tuple[LocalAddress, ...] = ()
    routes: tuple[Route, ...] = ()  # of the main table
    policy: tuple[str, ...] = ()  # rules that choose another table, and the routes there
    # Where there is a policy: whether a packet to this address leaves at all, and by no tunnel of ours.
    leaves: Callable[[Address], bool] | None = field(default=None, repr=False, compare=False)
    _known: dict[Address, Route | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def route_to(self, address: Address) -> Route | None:
        """The route with the longest prefix; among equal ones one into a tunnel. None: unreachable.

        Where rules choose the table the kernel has the last word on whether it leads into a tunnel.
        """
        if address not in self._known:
            if len(self._known) >= MAX_ROUTES_KNOWN:
                self._known.clear()
            found = [route for route in self.routes if address in route.prefix]
            best = max(found, key=lambda route: (route.prefix.prefixlen, route.is_tunnel), default=None)
            if self.leaves is not None:
                whole = ip_network((bytes(address.max_prefixlen // 8), 0))
                is_tunnel = not self.leaves(address)
                best = replace(best, is_tunnel=is_tunnel) if best else Route(whole, is_tunnel=is_tunnel)
            self._known[address] = best
        return self._known[address]

    @property
    def whereabouts(self) -> tuple[frozenset[LocalAddress], frozenset[Route]]:
        """What differs once this device is somewhere else: nothing of bridges and tunnels."""
        bridged = {local.interface.network for local in self.addresses if local.is_bridge}
        own = (a for a in self.addresses if not (a.is_tunnel or a.is_bridge or a.is_deprecated))
        ways = (r for r in self.routes if not r.is_tunnel and r.prefix not in bridged)
        return frozenset(own), frozenset(ways)


def is_private(address: Address) -> bool:
    """RFC 1918, RFC 6598 (CGNAT) or a unique local IPv6 address."""
    return any(address in prefix for prefix in PRIVATE)


def is_forbidden(address: Address) -> bool:
    """Whether no honest peer tells such an address."""
    return (
        address.is_multicast
        or address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or any(address in prefix for prefix in FORBIDDEN)
    )


def own_candidates(
    network: Network,
    port: int,
    *,
    mode: DirectMode = "on",
    reflexive: Iterable[Endpoint] = (),
    mapped: Iterable[Endpoint] = (),
) -> tuple[Candidate, ...]:
    """What to tell a peer, the preferred ones first; at most `MAX_CANDIDATES`. `port` is our socket's."""
    if mode == "off":
        return ()
    outside = [Candidate(CandidateKind.MAPPED, endpoint) for endpoint in mapped]
    outside += [Candidate(CandidateKind.REFLEXIVE, endpoint) for endpoint in reflexive]
    outside += [Candidate(CandidateKind.FORWARDED, Endpoint(seen.address, port)) for seen in reflexive]
    found: dict[Endpoint, Candidate] = {}
    for candidate in outside:
        found.setdefault(candidate.endpoint, candidate)
    outside = list(found.values())[:MAX_CANDIDATES]
    if mode == "no-host":
        # A STUN server in this network sees an address that nobody outside does.
        own = {local.interface.ip for local in network.addresses if is_private(local.interface.ip)}
        return tuple(each for each in outside if each.endpoint.address not in own)
    hosts = [Candidate(CandidateKind.HOST, Endpoint(address, port)) for address in _host_addresses(network)]
    # A host's own address that is also the reflexive one needs to be told once, as what it is.
    hosts = hosts[: max(MAX_CANDIDATES - len(outside), 2)]
    told = {candidate.endpoint for candidate in hosts}
    return (*hosts, *(each for each in outside if each.endpoint not in told))[:MAX_CANDIDATES]


def _host_addresses(network: Network) -> list[Address]:
    """Global IPv6 ones first, bridges last; else in the kernel's order."""
    usable = [
        local
        for local in network.addresses
        if not local.is_tunnel and not local.is_deprecated and not is_forbidden(local.interface.ip)
    ]
    usable.sort(
        key=lambda local: (local.is_bridge, local.interface.version == 4, is_private(local.interface.ip))
    )
    return list(dict.fromkeys(local.interface.ip for local in usable))


def may_probe(network: Network, endpoint: Endpoint, *, same_nat: bool = False) -> bool:
    """Whether a probe may be sent there. `same_nat`: both sides have the same public address."""
    address = endpoint.address
    if endpoint.port < LEAST_PORT or is_forbidden(address) or _is_ours(network, address):
        return False
    route = network.route_to(address)
    if route is None or route.is_tunnel:
        return False
    if not is_private(address) or same_nat or route.prefix.prefixlen:
        return True
    return any(address in local.interface.network for local in network.addresses if not local.is_tunnel)


def _is_ours(network: Network, address: Address) -> bool:
    """An address of this device itself, or the broadcast address of one of its networks."""
    return any(
        address == local.interface.ip
        or (
            local.interface.version == 4
            and local.interface.network.prefixlen < 31
            and address == local.interface.network.broadcast_address
        )
        for local in network.addresses
    )


def to_probe(
    network: Network, told: Iterable[Candidate], *, own_reflexive: Iterable[Endpoint] = ()
) -> tuple[list[Candidate], int]:
    """(those of a peer's candidates that may be probed, how many no honest peer would have told).

    Private ones of networks that this device is no part of are left out, and not counted.
    """
    told = list(dict.fromkeys(told))
    public = {endpoint.address for endpoint in own_reflexive}
    same_nat = any(
        candidate.kind is CandidateKind.REFLEXIVE and candidate.endpoint.address in public
        for candidate in told
    )
    refused = sum(port < LEAST_PORT or is_forbidden(address) for _, (address, port) in told)
    usable = [each for each in told if may_probe(network, each.endpoint, same_nat=same_nat)]
    return sorted(usable, key=lambda candidate: candidate.kind), refused


def whereabouts(told: Iterable[Candidate], verdict: NatVerdict) -> frozenset[tuple[Address, int]]:
    """What must differ for a side to be somewhere else than before.

    Behind a hard NAT the ports are of no use to anybody, and differ each time a STUN server is asked.
    """
    hard = verdict is NatVerdict.HARD
    return frozenset((endpoint.address, 0 if hard else endpoint.port) for _, endpoint in told)
