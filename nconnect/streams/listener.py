"""Accepts programs' connections: whose they are, and how many there may be.

A listener on loopback serves its owner alone: other users of the machine can connect to it too, and would
have what the owner may reach. The kernel tells whose the other end is (`nconnect.io.system.socket_owner`).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from nconnect.errors import HostError
from nconnect.io.errors import reason
from nconnect.model import join_addr
from nconnect.streams.dialler import OPEN_TIMEOUT_S, Dialler, RefusalCode, Stream, StreamRefused
from nconnect.streams.joining import CHUNK_BYTES, reset
from nconnect.streams.target import DialTarget, is_internal

log = logging.getLogger(__name__)

GIVE_UP_S = OPEN_TIMEOUT_S + 1  # a dialler has a limit of its own, which comes first
MAX_CONNECTIONS = 2048  # at once, of all listeners of a process
MAX_HALF_OPEN = 256  # of these, before their request is there; then the oldest ends
MAX_OPENING = 60  # streams that are being opened; a provider refuses more than 64 of one peer
_BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class ListenPlace:
    """Where to listen: an address and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return join_addr(self.host, self.port)

    @property
    def is_loopback(self) -> bool:
        return ip_address(self.host).is_loopback


@dataclass(frozen=True, slots=True)
class Owners:
    """Whose programs are served: these users' (uids), or everybody's (None)."""

    uids: frozenset[int] | None

    @classmethod
    def of_process(cls) -> Owners:
        """This process's user; after sudo also who called it."""
        uids = {os.geteuid()}
        with suppress(ValueError):
            if uids == {0} and (caller := int(os.environ.get("SUDO_UID", ""))) >= 0:
                uids.add(caller)
        return cls(frozenset(uids))

    def refusal_of_tcp(self, own: Any, other: Any) -> str:
        """Why a TCP connection is not served, or ""."""
        return self._refusal("uid_of_tcp", own, other)

    def refusal_of_udp(self, own: Any, other: Any) -> str:
        """Why datagrams from a socket are not taken, or ""."""
        return self._refusal("uid_of_udp", own, other)

    def _refusal(self, look_up: str, own: Any, other: Any) -> str:
        if self.uids is None:
            return ""
        from nconnect.io.system import socket_owner  # Linux alone has it

        try:
            uid = getattr(socket_owner, look_up)(own, other)
        except OSError as error:
            return f"it cannot be seen whose it is ({reason(error)})"
        return "" if uid in self.uids else f"it is of the user with uid {uid} (--any-user serves all)"


@dataclass(eq=False)
class Program:
    """One connection of a program."""

    reader: StreamReader
    writer: StreamWriter
    dialler: Dialler
    owners: Owners
    opening: asyncio.Semaphore
    all_names: bool  # also those that are not below .internal
    on_request: Callable[[], None] = field(default=lambda: None)  # called when its request is there

    async def open(self, target: DialTarget) -> Stream:
        """Its stream. Raises `StreamRefused`."""
        if target.is_name and not self.all_names and not is_internal(target.host):
            raise StreamRefused(
                "only addresses, and names below .internal, lead through the tunnel", RefusalCode.NO_ROUTE
            )
        try:
            async with self.opening, asyncio.timeout(GIVE_UP_S):
                return await self.dialler.open(target.host, target.port)
        except TimeoutError:
            raise StreamRefused(
                f"the peer did not answer within {OPEN_TIMEOUT_S:g} s", RefusalCode.NO_PEER
            ) from None


Serve = Callable[[Program], Awaitable[None]]


class Listeners:
    """All listeners of one process, whose connections are counted together."""

    def __init__(self, dialler: Dialler, *, all_names: bool = False) -> None:
        """`all_names`: the dialler takes names that are not below .internal too."""
        self._dialler = dialler
        self._all_names = all_names
        self._opening = asyncio.Semaphore(MAX_OPENING)
        self._tasks: set[asyncio.Task[None]] = set()
        self._half_open: dict[asyncio.Task[None], None] = {}  # the oldest first

    async def run(self, listening: Sequence[tuple[socket.socket, Owners, Serve]]) -> None:
        """Serve until cancelled. `Serve` calls `on_request`, and leaves the connection to be closed."""
        servers = []
        try:
            for sock, owners, serve in listening:
                servers.append(
                    await asyncio.start_server(
                        self._accepting(owners, serve), sock=sock, limit=CHUNK_BYTES, backlog=_BACKLOG
                    )
                )
            await asyncio.get_running_loop().create_future()
        finally:
            for server in servers:
                server.close()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def _accepting(
        self, owners: Owners, serve: Serve
    ) -> Callable[[StreamReader, StreamWriter], Awaitable[None]]:
        async def accepted(reader: StreamReader, writer: StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            if not self._admits(owners, writer):
                reset(writer)
                return
            self._tasks.add(task)
            self._half_open[task] = None
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            program = Program(
                reader,
                writer,
                self._dialler,
                owners,
                self._opening,
                self._all_names,
                lambda: self._half_open.pop(task, None),
            )
            try:
                await serve(program)
            except asyncio.CancelledError:
                reset(writer)
            except OSError as error:
                log.debug("a program's connection broke: %s", error)
                reset(writer)
            finally:
                self._half_open.pop(task, None)
                self._tasks.discard(task)
                writer.close()

        return accepted

    def _admits(self, owners: Owners, writer: StreamWriter) -> bool:
        other = writer.get_extra_info("peername")
        if other is None:
            return False  # it has gone already
        if why := owners.refusal_of_tcp(writer.get_extra_info("sockname"), other):
            log.warning("a connection was refused: %s", why)
            return False
        if len(self._tasks) >= MAX_CONNECTIONS:
            log.warning("a connection was refused: there are %d already", MAX_CONNECTIONS)
            return False
        if len(self._half_open) >= MAX_HALF_OPEN:
            oldest = next(iter(self._half_open))
            del self._half_open[oldest]
            oldest.cancel()
        return True


def bind_listener(place: ListenPlace) -> socket.socket:
    """A socket that `Listeners` listen on. Raises `HostError` in one line."""
    family = socket.AF_INET if ip_address(place.host).version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on Windows it lets two programs have one port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind((place.host, place.port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        hint = {
            errno.EACCES: " (ports below 1024 need root, or CAP_NET_BIND_SERVICE: choose a higher one)",
            errno.EADDRINUSE: " (another program listens there: choose another port)",
            errno.EADDRNOTAVAIL: " (this machine has no such address)",
        }.get(error.errno or 0, "")
        raise HostError(f"cannot listen at {place}: {reason(error)}{hint}") from None
    return sock
