"""What other programs of this machine do with the tunnel's packets: the kernel's answers, read and judged.

Blocking: call it in a thread. Nothing is changed.
"""

from __future__ import annotations

from nconnect.doctor.routing import Detour, View, look
from nconnect.errors import HostError
from nconnect.host.plan import IP_FORWARD, IPV6_FORWARDING, ROUTE_PROTOCOL
from nconnect.host.policy import MAIN
from nconnect.host.routes import within
from nconnect.io import sysctl
from nconnect.io.errors import reason
from nconnect.io.netlink import Netlink
from nconnect.model import Config, Prefix


def detours(config: Config) -> tuple[list[Detour], dict[Prefix, str]]:
    """Which packets of the tunnel the kernel sends elsewhere, and the device to each provided subnet.

    Raises `HostError` when the kernel cannot be asked.
    """
    try:
        with Netlink() as netlink:
            names = {link.index: link.name for link in netlink.links()}
            view = _view(config, netlink, names)
            return look(view, lambda packet: netlink.where(packet, names))
    except OSError as error:
        raise HostError(f"cannot ask the kernel for its routes: {reason(error)}") from error


def _view(config: Config, netlink: Netlink, names: dict[int, str]) -> View:
    addresses = netlink.addresses()
    own = [held.address for held in addresses if names.get(held.index) == config.interface]
    routes = netlink.all_routes(names)
    networks = tuple(
        {address.network for address in own if address.network.prefixlen < address.max_prefixlen}
    )
    routed = {
        route.prefix
        for route in routes
        if (route.interface, route.protocol, route.table) == (config.interface, ROUTE_PROTOCOL, MAIN)
    }
    allowed = dict.fromkeys(prefix for peer in config.peers for prefix in peer.allowed_ips)
    switches = {4: IP_FORWARD, 6: IPV6_FORWARDING}
    return View(
        config.interface,
        tunnel=tuple(address.ip for address in own if not address.ip.is_link_local),
        peers=tuple(p for p in allowed if p in routed or any(within(p, n) for n in networks)),
        networks=networks,
        provided=tuple(subnet.real for subnet in config.provide.subnets),
        held=frozenset(held.address.ip for held in addresses),
        forwards=frozenset(v for v, name in switches.items() if sysctl.read(name) not in (None, "0")),
        rules=tuple(netlink.rules()),
        routes=tuple(routes),
    )
