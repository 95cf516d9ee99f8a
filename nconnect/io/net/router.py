"""Does this network's router map ports? Asks it, and nobody else, by what changes nothing.

PCP is asked by ANNOUNCE, NAT-PMP and UPnP for the router's address outside; all at once.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import NamedTuple

from nconnect.errors import RemoteProtocolError
from nconnect.io.clock import boottime
from nconnect.io.net.listening import source_for
from nconnect.io.net.readiness import next_datagram, receive_datagram
from nconnect.io.net.upnp_calls import carry
from nconnect.io.system.netlink import Netlink
from nconnect.model import Address
from nconnect.nat.port_mapping import PortRequest, Router
from nconnect.nat.upnp_mapping import UpnpMapper
from nconnect.wire import pcp

_TRY_FOR_S = (0.2, 0.4)  # guessed: a router in one's own network answers within a few milliseconds
UPNP_S = 3.0  # for all its steps; a router's web server may be slow, and silence takes 1.75 s
MAX_REPLY_BYTES = 2048
MAX_IPV6_ADDRESSES = 4  # guessed: the stable one, and two temporary ones (RFC 8981) that overlap
_GLOBAL = ip_network("2000::/3")


class Ipv6Way(NamedTuple):
    """From one of this machine's global addresses to its router."""

    router: IPv6Address  # mostly a link-local one
    interface: int  # its index
    own: IPv6Address


def default_router(tunnel: str) -> IPv4Address | None:
    """The gateway of the IPv4 default route, not that of the interface `tunnel`. Blocks; raises OSError."""
    with Netlink() as netlink:
        routes = netlink.routes({link.index: link.name for link in netlink.links()})
    found = [
        (route.metric, route.gateway)
        for route in routes
        if isinstance(route.gateway, IPv4Address) and not route.prefix.prefixlen and route.interface != tunnel
    ]
    return min(found)[1] if found else None


def ipv6_ways(tunnel: str) -> frozenset[Ipv6Way]:
    """To the gateway of the IPv6 default route, not that of the interface `tunnel`, from each own address.

    Addresses that are no longer for new communication are left out. Blocks; empty where the kernel refuses.
    """
    try:
        with Netlink() as netlink:
            indices = {link.name: link.index for link in netlink.links()}
            routes = netlink.routes({index: name for name, index in indices.items()})
            found = [
                (route.metric, route.gateway, indices.get(route.interface, 0))
                for route in routes
                if isinstance(route.gateway, IPv6Address)
                and (route.prefix.version, route.prefix.prefixlen) == (6, 0)
                and route.interface != tunnel
            ]
            if not found:
                return frozenset()
            _, gateway, index = min(found)
            held = [one.address.ip for one in netlink.addresses(index) if not one.is_unusable]
    except OSError:
        return frozenset()
    usable = [ip for ip in held if isinstance(ip, IPv6Address) and ip in _GLOBAL][:MAX_IPV6_ADDRESSES]
    return frozenset(Ipv6Way(gateway, index, own) for own in usable)


async def look(router: IPv4Address) -> Router:
    """Ask it; takes 1.75 s where it is silent, and `UPNP_S` at most. Raises OSError without a route."""
    own = own_address(router)
    asked = {
        "PCP": _by_port_5351(router, pcp.announce(own), is_pcp=True),
        "NAT-PMP": _by_port_5351(router, pcp.pmp_address_request(), is_pcp=False),
        "UPnP": _by_upnp(router, own),
    }
    answers = dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))
    outside = next((answer for answer in answers.values() if isinstance(answer, Address)), None)
    return Router(router, tuple(name for name, answer in answers.items() if answer is not None), outside)


async def _by_port_5351(router: IPv4Address, request: bytes, *, is_pcp: bool) -> Address | bool | None:
    """The address outside, or True where none is told; None: it is silent, or refuses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect((str(router), pcp.SERVER_PORT))  # so that "port unreachable" is an error at once
        data = await _ask(sock, request)
    try:
        answer = pcp.decode(data) if data is not None else None
    except RemoteProtocolError:
        return None
    if not isinstance(answer, pcp.Told) or (data is not None and (data[0] == 2) != is_pcp):
        return None
    return answer.external_address or True


async def _by_upnp(router: IPv4Address, own: IPv4Address) -> Address | bool | None:
    """The address outside, or True where none is told; None: no service that maps ports answers."""
    mapper = UpnpMapper(PortRequest(router, own, 0, protocols=()), now=boottime(), rng=os.urandom)
    with socket_at(own) as sock, suppress(TimeoutError):
        async with asyncio.timeout(UPNP_S):
            while True:
                await carry(mapper, sock, router)
                if not mapper.is_asking:
                    break
                if (came := await next_datagram(sock, MAX_REPLY_BYTES, mapper)) is not None:
                    mapper.receive(came[0], came[1].address, boottime())
    return mapper.outside or mapper.is_answered or None


async def _ask(sock: socket.socket, request: bytes) -> bytes | None:
    """The first datagram at a connected socket, within two tries; None: nothing came, or an error."""
    for wait_s in _TRY_FOR_S:
        try:
            sock.send(request)
            async with asyncio.timeout(wait_s):
                return (await receive_datagram(sock, MAX_REPLY_BYTES))[0]
        except TimeoutError:
            continue
        except OSError:
            return None
    return None


def own_address(router: IPv4Address) -> IPv4Address:
    """The address of this machine that the router sees. Sends nothing; raises OSError without a route."""
    return IPv4Address(str(source_for(router, pcp.SERVER_PORT)))


def socket_at(own: Address) -> socket.socket:
    """A UDP socket that sends from this address. Raises OSError."""
    family = socket.AF_INET if own.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind((str(own), 0))
    except OSError:
        sock.close()
        raise
    return sock
