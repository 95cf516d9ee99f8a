"""Does this network's router map ports? Asks it, and nobody else, by what changes nothing.

PCP is asked by ANNOUNCE, NAT-PMP and UPnP for the router's address outside; all at once.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from ipaddress import IPv4Address

from nconnect.errors import NconnectError, RemoteProtocolError
from nconnect.io.http import http_client
from nconnect.io.net.listening import source_for
from nconnect.io.net.readiness import receive_datagram
from nconnect.io.system.netlink import Netlink
from nconnect.model import Address
from nconnect.nat.port_mapping import Router
from nconnect.wire import pcp, upnp

_TRY_FOR_S = (0.2, 0.4)  # guessed: a router in one's own network answers within a few milliseconds
UPNP_S = 3.0  # for all its steps; a router's web server may be slow
MAX_REPLY_BYTES = 2048


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


async def look(router: IPv4Address) -> Router:
    """Ask it; takes a second where it is silent, and `UPNP_S` at most. Raises OSError without a route."""
    own = own_address(router)
    asked = {
        "PCP": _by_port_5351(router, pcp.announce(own), is_pcp=True),
        "NAT-PMP": _by_port_5351(router, pcp.pmp_address_request(), is_pcp=False),
        "UPnP": _by_upnp(router),
    }
    answers = dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))
    outside = next((answer for answer in answers.values() if isinstance(answer, Address)), None)
    return Router(router, tuple(name for name, answer in answers.items() if answer is not None), outside)


async def _by_port_5351(router: IPv4Address, request: bytes, *, is_pcp: bool) -> Address | bool | None:
    """The address outside, or True where none is told; None: it is silent, or refuses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect((str(router), pcp.SERVER_PORT))  # so that "port unreachable" is an error at once
        data = await _ask(sock, request, None)
    try:
        answer = pcp.decode(data) if data is not None else None
    except RemoteProtocolError:
        return None
    if not isinstance(answer, pcp.Told) or (data is not None and (data[0] == 2) != is_pcp):
        return None
    return answer.external_address or True


async def _by_upnp(router: IPv4Address) -> Address | bool | None:
    try:
        async with asyncio.timeout(UPNP_S):
            service = await find_service(router)
            return None if service is None else await _external_address(service)
    except (TimeoutError, NconnectError):
        return None


async def find_service(router: IPv4Address) -> upnp.UpnpService | None:
    """The router's service that maps ports; None if it is silent. Raises `NconnectError`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        data = await _ask(sock, upnp.search_request(router), (str(router), upnp.SSDP_PORT))
    if data is None:
        return None
    url = upnp.description_url(data, router)
    response = await http_client.request("GET", url, timeout_s=UPNP_S, max_body_bytes=upnp.MAX_DOCUMENT_BYTES)
    return upnp.find_service(response.body, url, router)


async def _external_address(service: upnp.UpnpService) -> Address | bool:
    action = "GetExternalIPAddress"
    headers, body = upnp.call(service, action, {})
    response = await http_client.request(
        "POST",
        service.url,
        body=body,
        headers=headers.items(),
        timeout_s=UPNP_S,
        max_body_bytes=upnp.MAX_DOCUMENT_BYTES,
    )
    answer = upnp.result(response.body, action)
    if isinstance(answer, upnp.Fault):
        return True  # a router without a connection of its own, say
    with suppress(RemoteProtocolError):
        return upnp.external_address(answer)
    return True


async def _ask(sock: socket.socket, request: bytes, to: tuple[str, int] | None) -> bytes | None:
    """The first datagram from whom we ask, after two tries; None: nothing came, or an error did."""
    for wait_s in _TRY_FOR_S:
        try:
            if to is None:
                sock.send(request)
            else:
                sock.sendto(request, to)
            async with asyncio.timeout(wait_s):
                while True:
                    data, source = await receive_datagram(sock, MAX_REPLY_BYTES)
                    if to is None or source[0] == to[0]:
                        return data
        except TimeoutError:
            continue
        except OSError:
            return None
    return None


def own_address(router: IPv4Address) -> IPv4Address:
    """The address of this machine that the router sees. Sends nothing; raises OSError without a route."""
    return IPv4Address(str(source_for(router, pcp.SERVER_PORT)))
