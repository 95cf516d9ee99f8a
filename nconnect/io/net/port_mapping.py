"""Keeps a port of this machine open at the router of its network, until it is cancelled.

The router of the default route is asked, and nobody else: by PCP and NAT-PMP (`nat.port_mapping`), then by
UPnP (`nat.upnp_mapping`). The router of the IPv6 default route is asked by PCP, then by UPnP
(`nat.upnp_holes`), to let that port through its firewall. What is mapped or opened is given up at the end,
within a second.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from collections.abc import Mapping as MappingOf
from contextlib import suppress
from ipaddress import IPv4Address

from nconnect.io.clock import boottime
from nconnect.io.errors import reason
from nconnect.io.net.readiness import next_datagram
from nconnect.io.net.router import (
    MAX_REPLY_BYTES,
    Ipv6Way,
    default_router,
    ipv6_ways,
    own_address,
    socket_at,
)
from nconnect.io.net.upnp_calls import carry
from nconnect.model import Address, Endpoint
from nconnect.nat.port_mapping import AGAIN_AFTER_S, Mapping, PortMapper, PortRequest
from nconnect.nat.upnp_holes import UpnpHoles
from nconnect.nat.upnp_mapping import UpnpMapper
from nconnect.wire import pcp

LOOK_S = 60.0  # guessed: how soon a new IPv6 address is noticed
_GIVE_UP_S = 1.0  # what `down` waits for a router by UPnP
NO_ROUTER = "no IPv4 default route: there is no router to ask for a port"

Changed = Callable[[MappingOf[str, Mapping], str], None]


class PortMappings:
    """The mappings of one port, UDP and TCP, in one network.

    `changed` is told of each change: what is in force for IPv4, by protocol, and in one line why there is not
    more, or "", also for IPv6 (there the address and port outside are this machine's own). Run it as a task;
    when the IPv4 default route changes, cancel it and run another.
    """

    def __init__(self, port: int, changed: Changed, *, tunnel: str) -> None:
        """`tunnel`: the interface whose default route does not count."""
        self._port = port
        self._changed = changed
        self._tunnel = tunnel
        self._mappings: MappingOf[str, Mapping] = {}
        self._problem = ""
        self._problems6: dict[Ipv6Way, str] = {}  # why the firewall stays shut
        self._told: tuple[dict[str, Endpoint], str] = ({}, "")

    async def run(self) -> None:
        """Until it is cancelled; returns when there is no router, or this machine's address is gone."""
        async with asyncio.TaskGroup() as group:
            ipv4 = group.create_task(self._map_ipv4(), name="IPv4 port mapping")
            group.create_task(self._open_ipv6(ipv4), name="IPv6 firewall")

    async def _map_ipv4(self) -> None:
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
        await _exchange(mapper, own, (str(router), pcp.SERVER_PORT), self._has_failed)
        return mapper.problem

    async def _by_upnp(self, router: IPv4Address, own: IPv4Address) -> str:
        """By UPnP, for as long as that maps something; then why it does not."""
        mapper = UpnpMapper(PortRequest(router, own, self._port), now=boottime(), rng=os.urandom)
        with socket_at(own) as sock:
            await _calls(mapper, sock, lambda: carry(mapper, sock, router), self._has_failed)
            return mapper.problem

    async def _open_ipv6(self, ipv4: asyncio.Task[None]) -> None:
        """Let the port of each of this machine's addresses through, until IPv4 has ended and there is none.

        Addresses come and go without a change of the default route, so they are looked up again.
        """
        holes: dict[Ipv6Way, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                ways = await asyncio.to_thread(ipv6_ways, self._tunnel)
                for way in holes.keys() - ways:
                    holes.pop(way).cancel()
                    self._tell6(way, "")
                for way in ways:
                    if way not in holes or holes[way].done():
                        holes[way] = group.create_task(self._open(way), name=f"IPv6 firewall for {way.own}")
                if not ipv4.done():
                    await asyncio.wait((ipv4,), timeout=LOOK_S)
                elif ways:
                    await asyncio.sleep(LOOK_S)
                else:
                    return

    async def _open(self, way: Ipv6Way) -> None:
        """Until this machine's address is gone. Most routers do not let themselves be asked."""

        def has_failed(mapper: PortMapper | UpnpMapper) -> bool:
            if mapper.mappings:
                self._tell6(way, "")
            return not mapper.is_asking and not mapper.mappings

        place = (str(way.router), pcp.SERVER_PORT, 0, way.interface)
        with suppress(OSError):
            while True:
                request = PortRequest(way.router, way.own, self._port)
                mapper = PortMapper(request, now=boottime(), rng=os.urandom)
                await _exchange(mapper, way.own, place, has_failed)
                problems = [mapper.problem, await _by_upnp6(way, request, has_failed)]
                self._tell6(way, "; ".join(problems))
                await asyncio.sleep(AGAIN_AFTER_S)

    def _has_failed(self, mapper: PortMapper | UpnpMapper) -> bool:
        """Whether it rests without a mapping; one that has some is told of."""
        if mapper.is_asking:
            return False
        if mapper.mappings:
            self._tell(mapper.mappings, mapper.problem)
        return not mapper.mappings

    def _tell(self, mappings: MappingOf[str, Mapping], problem: str) -> None:
        """A renewal that changes nothing but times is not told."""
        self._mappings, self._problem = mappings, problem
        whole = "; ".join(filter(None, (problem, *dict.fromkeys(self._problems6.values()))))
        now = ({name: Endpoint(mapping.address, mapping.port) for name, mapping in mappings.items()}, whole)
        if now != self._told:
            self._told = now
            self._changed(dict(mappings), whole)

    def _tell6(self, way: Ipv6Way, problem: str) -> None:
        """Why the firewall of this way's router stays shut; "": it is open, or the way is gone."""
        if problem:
            self._problems6[way] = f"IPv6: {problem}"
        elif self._problems6.pop(way, "") == "":
            return
        self._tell(self._mappings, self._problem)


async def _by_upnp6(
    way: Ipv6Way, request: PortRequest, has_failed: Callable[[PortMapper | UpnpMapper], bool]
) -> str:
    """Open the firewall by UPnP, for as long as that opens something; then why it does not."""
    mapper = UpnpHoles(request, now=boottime(), rng=os.urandom)
    with socket_at(way.own) as sock:

        def work() -> Awaitable[None]:
            return carry(mapper, sock, way.router, interface=way.interface, own=way.own)

        await _calls(mapper, sock, work, has_failed)
    return mapper.problem


async def _calls(
    mapper: UpnpMapper,
    sock: socket.socket,
    work: Callable[[], Awaitable[None]],
    has_failed: Callable[[UpnpMapper], bool],
) -> None:
    """Do what a mapper wants until it has failed; then, and when cancelled, it gives up what it has."""
    try:
        while True:
            await work()
            if has_failed(mapper):
                return
            if (came := await next_datagram(sock, MAX_REPLY_BYTES, mapper)) is not None:
                mapper.receive(came[0], came[1][0], boottime())
    finally:
        mapper.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_GIVE_UP_S):
                await work()


async def _exchange(
    mapper: PortMapper, own: Address, router: tuple[str | int, ...], has_failed: Callable[[PortMapper], bool]
) -> None:
    """Carry a mapper's datagrams until it has failed; then, and when cancelled, it gives up what it has."""
    with socket_at(own) as sock:
        try:
            while True:
                _send_all(mapper, sock, router)
                if has_failed(mapper):
                    return
                if (came := await next_datagram(sock, MAX_REPLY_BYTES, mapper)) is not None:
                    mapper.receive(*came, boottime())
        finally:
            mapper.close()
            _send_all(mapper, sock, router)


def _send_all(mapper: PortMapper, sock: socket.socket, router: tuple[str | int, ...]) -> None:
    while (data := mapper.poll_output()) is not None:
        with suppress(OSError):  # no route just now: it stays unanswered
            sock.sendto(data, router)
