"""Reaches IPv4 addresses from an IPv6-only network through its NAT64 (RFC 7050)."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from nconnect.io.net.listening import source_for
from nconnect.io.net.name_servers import AddressInfo
from nconnect.io.net.resolve import stream_addresses
from nconnect.ip import nat64

_LOOK_S = 2.0  # guessed: if the name server takes longer, we assume that there is no NAT64
_KEEP_S = 600.0  # how long a network's prefix is cached; a change of the network clears it


async def translated(addresses: list[AddressInfo]) -> list[AddressInfo]:
    """The IPv4 addresses among `addresses`, translated for this network's NAT64; [] if there is none."""
    wanted = [(IPv4Address(info[4][0]), info) for info in addresses if info[0] == socket.AF_INET]
    if not wanted or not _has_ipv6():
        return []
    prefix = await _prefix()
    return [_through(prefix, *one) for one in wanted if prefix and nat64.may_pass(prefix, one[0])]


async def _prefix() -> IPv6Network | None:
    try:
        async with asyncio.timeout(_LOOK_S):
            found = await stream_addresses(nat64.WELL_KNOWN_NAME, 0, keep_s=_KEEP_S)
    except (OSError, TimeoutError):
        return None
    return nat64.find_prefix(IPv6Address(info[4][0]) for info in found if info[0] == socket.AF_INET6)


def _through(prefix: IPv6Network, address: IPv4Address, info: AddressInfo) -> AddressInfo:
    _, kind, protocol, name, (_, port, *_) = info
    target = (str(nat64.synthesize(prefix, address)), port, 0, 0)
    return socket.AF_INET6, kind, protocol, name, target


def _has_ipv6() -> bool:
    """Whether there is an IPv6 route out. Sends nothing."""
    try:
        source_for(nat64.WELL_KNOWN_PREFIX[1])
    except OSError:
        return False
    return True
