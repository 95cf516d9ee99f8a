"""Carries out what `nat.upnp_mapping` wants: a datagram to the router, or a call of its web server."""

from __future__ import annotations

import socket
from contextlib import suppress

from nconnect.errors import NconnectError
from nconnect.io.clock import boottime
from nconnect.io.http import http_client
from nconnect.model import Address
from nconnect.nat.upnp_mapping import HttpCall, UpnpMapper
from nconnect.wire import upnp

_CALL_S = 5.0  # guessed: a router's web server may be slow


async def carry(
    mapper: UpnpMapper,
    sock: socket.socket,
    router: Address,
    *,
    interface: int = 0,
    own: Address | None = None,
) -> None:
    """Send and call what it wants, one after the other.

    `interface`: the index of the one by which an IPv6 router is reached. `own`: the address to call from.
    """
    scope = () if router.version == 4 else (0, interface)
    while (output := mapper.poll_output()) is not None:
        if isinstance(output, HttpCall):
            await _call(mapper, output, own)
        else:
            with suppress(OSError):
                sock.sendto(output.data, (str(router), upnp.SSDP_PORT, *scope))


async def _call(mapper: UpnpMapper, call: HttpCall, own: Address | None) -> None:
    try:
        response = await http_client.request(
            "POST" if call.body else "GET",
            call.url,
            body=call.body,
            headers=call.headers,
            timeout_s=_CALL_S,
            max_body_bytes=upnp.MAX_DOCUMENT_BYTES,
            source=own,
        )
    except NconnectError as error:
        mapper.failed(str(error), boottime())
    else:
        mapper.answered(response.body, boottime())
