"""Ports of this machine that peers may use, where the tunnel is in a namespace: dialled again out here.

In the namespace the rules for local packets decide, as on a machine with root's tunnel, and what they let
through arrives at a socket that listens there. Its other half is dialled from the machine's own network, as
the user who runs the daemon: at the same address if that is the machine's, at loopback if it is the tunnel's.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Iterator

from nconnect.daemon.settings import InForce
from nconnect.errors import HostError
from nconnect.io.errors import reason
from nconnect.io.namespace.dial_out import ANSWER_WITHIN_S
from nconnect.io.net.connections import keep_alive
from nconnect.io.process import descriptors
from nconnect.model import Config
from nconnect.streams.joining import join_stream, reset
from nconnect.streams.kernel import SocketStream

log = logging.getLogger(__name__)

MOST_PORTS = 128  # a socket each
_SHARE = 8  # of this process's descriptors, for connections of two each


class MachinePorts:
    """`problem` is a sentence for `status`; `run` is a task, `changed` what wakes it."""

    def __init__(self, in_force: InForce, listen: Callable[[int], socket.socket]) -> None:
        """`listen` makes a socket in the tunnel's network, and blocks."""
        self.problem = ""
        self._in_force = in_force
        self._listen = listen
        self._servers: dict[int, asyncio.Server] = {}
        self._number = 0  # of connections
        self._changed = asyncio.Event()
        self._changed.set()

    def changed(self, _: object = None) -> None:
        """Other ports may be in force."""
        self._changed.set()

    async def run(self) -> None:
        """Listen on what the configuration lets peers use, until cancelled."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._follow()
        finally:
            for server in self._servers.values():
                server.close()

    async def _follow(self) -> None:
        config = self._in_force.config
        found = dict.fromkeys(ports_of(config))
        wanted = list(found)[:MOST_PORTS]
        problems = []
        if len(found) > MOST_PORTS:
            problems.append(f"of {len(found)} ports of this machine only the first {MOST_PORTS} can be used")
        if any(service.protocol == "udp" for service in config.provide.services):
            problems.append("UDP services of this machine cannot be used")
        for port in set(self._servers) - set(wanted):
            self._servers.pop(port).close()
        for port in wanted:
            if port not in self._servers:
                try:
                    listener = await asyncio.to_thread(self._listen, port)
                except HostError as error:
                    problems.append(f"port {port} cannot be used: {error}")
                    continue
                self._servers[port] = await asyncio.start_server(self._serve, sock=listener)
        self.problem = f"the tunnel runs without root: {'; '.join(problems)}" if problems else ""

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self._number >= descriptors.limit() // _SHARE:
            log.debug("a peer's connection was refused: there are %d already", self._number)
            reset(writer)
            return
        self._number += 1
        try:
            await _join(reader, writer)
        finally:
            self._number -= 1


def ports_of(config: Config) -> Iterator[int]:
    """TCP ports of the machine that peers may use, those of exposed servers first."""
    yield from (server.port for server in config.provide.exposed)
    for service in config.provide.services:
        if service.protocol == "tcp":
            first, last = service.ports
            yield from range(first, last + 1)


async def _join(reader: StreamReader, writer: StreamWriter) -> None:
    host, port = writer.get_extra_info("sockname")[:2]
    try:
        keep_alive(writer.get_extra_info("socket"))
    except (OSError, ValueError):  # it has gone already
        writer.transport.abort()
        return
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            there = await _dial(host.removeprefix("::ffff:"), port)
    except (OSError, TimeoutError) as error:
        log.debug(
            "port %d of this machine: %s", port, reason(error) if isinstance(error, OSError) else "late"
        )
        reset(writer)
        writer.close()
        return
    await join_stream(reader, writer, SocketStream(*there))


async def _dial(host: str, port: int) -> tuple[StreamReader, StreamWriter]:
    if _is_of_this_machine(host):
        return await asyncio.open_connection(host, port)
    try:
        return await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return await asyncio.open_connection("::1", port)


def _is_of_this_machine(host: str) -> bool:
    """Whether the machine's own network has this address: a socket can be bound to it."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
