"""Keeps a port of this machine open at the router of its network, until it is cancelled.

The router of the default route is asked, and nobody else: by PCP and NAT-PMP (`nat.port_mapping`), then by
UPnP (`nat.upnp_mapping`). What is mapped is given up at the end, within a second.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from collections.abc import Mapping as MappingOf
from contextlib import suppress
from ipaddress import IPv4Address

from nconnect.io.clock import boottime
from nconnect.io.errors import reason
from nconnect.io.net.readiness import next_datagram
from nconnect.io.net.router import MAX_REPLY_BYTES, default_router, own_address, socket_at
from nconnect.io.net.upnp_calls import carry
from nconnect.model import Endpoint
from nconnect.nat.port_mapping import AGAIN_AFTER_S, Mapping, PortMapper, PortRequest
from nconnect.nat.upnp_mapping import UpnpMapper
from nconnect.wire import pcp

_GIVE_UP_S = 1.0  # what `down` waits for a router by UPnP
NO_ROUTER = "no IPv4 default route: there is no router to ask for a port"

Changed = Callable[[MappingOf[str, Mapping], str], None]


class PortMappings:
    """The mappings of one port, UDP and TCP, in one network.

    `changed` is told of each change: what is in force, by protocol, and in one line why there is not more, or
    "". Run it as a task; when the default route changes, cancel it and run another.
    """

    def __init__(self, port: int, changed: Changed, *, tunnel: str) -> None:
        """`tunnel`: the interface whose default route does not count."""
        self._port = port
        self._changed = changed
        self._tunnel = tunnel
        self._told: tuple[dict[str, Endpoint], str] = ({}, "")

    async def run(self) -> None:
        """Until it is cancelled; returns when there is no router, or this machine's address is gone."""
        try:
            router = await asyncio.to_thread(default_router, self._tunnel)
            if router is None:
                self._tell({}, NO_ROUTER)
                return
            own = own_address(router)
            while True:
                problems = [await self._by_datagrams(router, own), await self._by_upnp(router, own)]
                self._tell({}, "; ".join(problems))
                await asyncio.sleep(AGAIN_AFTER_S)
        except OSError as error:
            self._tell({}, f"the router cannot be asked for a port: {reason(error)}")

    async def _by_datagrams(self, router: IPv4Address, own: IPv4Address) -> str:
        """By PCP or NAT-PMP, for as long as that maps something; then why it does not."""
        mapper = PortMapper(PortRequest(router, own, self._port), now=boottime(), rng=os.urandom)
        with socket_at(own) as sock:
            try:
                while True:
                    _send_all(mapper, sock, router)
                    if self._has_failed(mapper):
                        return mapper.problem
                    if (came := await next_datagram(sock, MAX_REPLY_BYTES, mapper)) is not None:
                        mapper.receive(*came, boottime())
            finally:
                mapper.close()
                _send_all(mapper, sock, router)

    async def _by_upnp(self, router: IPv4Address, own: IPv4Address) -> str:
        """By UPnP, for as long as that maps something; then why it does not."""
        mapper = UpnpMapper(PortRequest(router, own, self._port), now=boottime(), rng=os.urandom)
        with socket_at(own) as sock:
            try:
                while True:
                    await carry(mapper, sock, router)
                    if self._has_failed(mapper):
                        return mapper.problem
                    if (came := await next_datagram(sock, MAX_REPLY_BYTES, mapper)) is not None:
                        mapper.receive(came[0], came[1][0], boottime())
            finally:
                mapper.close()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_GIVE_UP_S):
                        await carry(mapper, sock, router)

    def _has_failed(self, mapper: PortMapper | UpnpMapper) -> bool:
        """Whether it rests without a mapping; one that has some is told of."""
        if mapper.is_asking:
            return False
        if mapper.mappings:
            self._tell(mapper.mappings, mapper.problem)
        return not mapper.mappings

    def _tell(self, mappings: MappingOf[str, Mapping], problem: str) -> None:
        """A renewal that changes nothing but times is not told."""
        now = ({name: Endpoint(mapping.address, mapping.port) for name, mapping in mappings.items()}, problem)
        if now != self._told:
            self._told = now
            self._changed(dict(mappings), problem)


def _send_all(mapper: PortMapper, sock: socket.socket, router: IPv4Address) -> None:
    while (data := mapper.poll_output()) is not None:
        with suppress(OSError):  # no route just now: it stays unanswered
            sock.sendto(data, (str(router), pcp.SERVER_PORT))
