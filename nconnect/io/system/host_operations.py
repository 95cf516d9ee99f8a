"""The single operations on this machine's network that `Host` does and undoes, and their words."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from ipaddress import ip_network

from nconnect.errors import HostError
from nconnect.host.diff import (
    AddAddress,
    AddBypass,
    AddRoute,
    DeleteAddress,
    DeleteBypass,
    DeleteRoute,
    LoadRuleset,
    Operation,
    SetLink,
    SetRouteSource,
    SetSysctl,
    setting,
)
from nconnect.host.plan import ROUTE_PROTOCOL
from nconnect.io.errors import reason
from nconnect.io.system import sysctl
from nconnect.io.system.firewall import Firewall
from nconnect.io.system.netlink import Netlink, NetworkInterface
from nconnect.io.system.netlink_socket import NetlinkError


@contextlib.contextmanager
def asking(purpose: str) -> Iterator[None]:
    """Turn the kernel's refusal into one line."""
    try:
        yield
    except OSError as error:
        hint = ": run it as root" if error.errno in (errno.EPERM, errno.EACCES) else ""
        raise HostError(f"cannot {purpose}: {reason(error)}{hint}") from error


@contextlib.contextmanager
def ignoring(code: int) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.errno != code:
            raise


def perform(netlink: Netlink, link: NetworkInterface, operation: Operation, firewall: Firewall) -> None:
    """Raises `NetlinkError` or `HostError`."""
    match operation:
        case SetLink(_, mtu, up):
            if up:  # nobody on the other side answers link-local addresses, so none is needed
                with contextlib.suppress(NetlinkError):  # a kernel without IPv6
                    netlink.no_link_local(link.index)
            netlink.set_link(link.index, mtu=mtu, up=up)
        case AddAddress(_, address):
            netlink.add_address(link.index, address)
        case DeleteAddress(_, address):
            netlink.delete_address(link.index, address)
        case AddRoute(_, prefix, source):
            netlink.add_route(link.index, prefix, ROUTE_PROTOCOL, source=source)
        case DeleteRoute(_, prefix):
            netlink.delete_route(link.index, prefix, ROUTE_PROTOCOL)
        case SetRouteSource(_, prefix, _, source):
            netlink.add_route(link.index, prefix, ROUTE_PROTOCOL, source=source, replaces=True)
        case AddBypass() | DeleteBypass():
            set_bypass(netlink, operation)
        case SetSysctl(name, _, value):
            sysctl.write(name, value)
        case LoadRuleset():
            firewall.load(operation)


def set_bypass(netlink: Netlink, operation: AddBypass | DeleteBypass) -> None:
    route = operation.route
    index = next((link.index for link in netlink.links() if link.name == route.interface), 0)
    how = (index, ip_network(route.address), ROUTE_PROTOCOL, route.gateway)
    if isinstance(operation, AddBypass):
        netlink.add_route(*how)
    else:
        with ignoring(errno.ESRCH):
            netlink.delete_route(*how)


def why_refused(operation: Operation, error: NetlinkError) -> str:
    hints = {
        errno.EPERM: "run it as root",
        errno.EEXIST: "something else has set it already: see `ip route` and `ip address`",
        errno.EINVAL: "the kernel does not take this value",
    }
    hint = hints.get(error.errno or 0)
    return f"cannot set {described(operation)}: {reason(error)}" + (f"; {hint}" if hint else "")


def described(operation: Operation) -> str:
    match operation:
        case SetLink(interface, mtu, _):
            return f"link {interface} up with MTU {mtu}"
        case AddAddress(interface, address) | DeleteAddress(interface, address):
            return f"address {address} on {interface}"
        case AddRoute(interface, prefix, source) | DeleteRoute(interface, prefix, source):
            return f"route {prefix} through {interface}" + (f" from {source}" if source else "")
        case SetRouteSource(interface, prefix, _, source):
            return f"route {prefix} through {interface}" + (f" from {source}" if source else "")
        case AddBypass(route) | DeleteBypass(route):
            return f"route {route}"
        case SetSysctl(name, _, value):
            return setting(name, value)
        case LoadRuleset(table):
            return f"nftables table {table}"
