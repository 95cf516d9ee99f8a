"""This machine's addresses and routes, as direct paths need them. Blocks: call it in a thread.

Only the main table is read. Where rules (`ip rule`) send packets by other tables the kernel is asked for each
address that matters, which takes 0.1 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from nconnect.host.facts import LocalRoute
from nconnect.host.policy import DEFAULT, LOCAL, MAIN, PolicyRule, Question
from nconnect.io.errors import as_host_error
from nconnect.io.system.netlink import LinkAddress, Netlink, NetworkInterface
from nconnect.model import Address
from nconnect.tunnel.paths.direct.candidates import LocalAddress, Network, Route

# IFLA_INFO_KIND of links whose packets travel inside of others.
_TUNNELS = frozenset(("tun", "wireguard", "ipip", "sit", "ip6tnl", "gre", "ip6gre", "vti", "vti6", "xfrm"))
_HEADER_BYTES = 28  # of IPv4 and UDP
_ETHERNET_BYTES = 1500


def read(own: str) -> tuple[Network, int]:
    """The network, and the largest UDP payload that an interface takes. `own`: our tunnel's interface.

    Raises `HostError`.
    """
    with as_host_error("cannot read this machine's addresses"), Netlink() as netlink:
        links = netlink.links()
        names = {link.index: link.name for link in links}
        network, largest = of(links, netlink.addresses(), netlink.routes(names), own)
        rules = [rule for rule in netlink.rules() if not _is_usual(rule)]
        if rules:
            others = (route for route in netlink.all_routes(names) if route.table not in (MAIN, DEFAULT))
            policy = (*map(str, rules), *map(str, others))
            network = replace(network, policy=policy, leaves=_asker(names, own))
        return network, largest


def _is_usual(rule: PolicyRule) -> bool:
    """Whether the kernel has made it: all packets, by the tables that every machine has."""
    usual = PolicyRule(rule.version, rule.priority, "lookup", rule.table)
    return rule == usual and rule.table in (LOCAL, MAIN, DEFAULT)


def _asker(names: dict[int, str], own: str) -> Callable[[Address], bool]:
    def leaves(address: Address) -> bool:
        try:
            with Netlink() as netlink:
                answer = netlink.where(Question(address), names)
        except OSError:
            return False  # such an address is not sent to: the relay carries
        return answer.kind == "unicast" and answer.interface != own

    return leaves


def own_addresses() -> frozenset[Address]:
    """All addresses of this machine. Raises `HostError`."""
    with as_host_error("cannot read this machine's addresses"), Netlink() as netlink:
        return frozenset(held.address.ip for held in netlink.addresses())


def of(
    links: Iterable[NetworkInterface], held: Iterable[LinkAddress], routes: Iterable[LocalRoute], own: str
) -> tuple[Network, int]:
    """As `read`, of what the kernel said.

    An address in another program's tunnel is not told, and nothing is sent by such a tunnel's own routes; but
    its default route is this machine's way out like any other.
    """
    used = {link.index: link for link in links if link.up and link.name != "lo"}
    tunnels = {link.name for link in used.values() if link.name == own or link.kind in _TUNNELS}
    addresses = tuple(
        LocalAddress(
            one.address,
            is_tunnel=used[one.index].name in tunnels,
            is_bridge=used[one.index].kind == "bridge",
            is_deprecated=one.is_unusable,
        )
        for one in held
        if one.index in used
    )
    found = tuple(
        Route(
            route.prefix,
            is_tunnel=_is_closed(route, tunnels, own),
            via=f"{route.interface} {route.gateway or ''}".rstrip(),
        )
        for route in routes
    )
    outside = [used[one.index] for one in held if one.index in used and used[one.index].name not in tunnels]
    mtu = max((link.mtu for link in outside), default=_ETHERNET_BYTES)
    return Network(addresses, found), mtu - _HEADER_BYTES


def _is_closed(route: LocalRoute, tunnels: set[str], own: str) -> bool:
    if route.kind:
        return True  # a blackhole, or another that leads nowhere
    return route.interface == own or (bool(route.prefix.prefixlen) and route.interface in tunnels)
