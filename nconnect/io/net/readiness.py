"""Waiting for a plain non-blocking socket: of datagrams, or before it becomes a `WebSocket`."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Protocol

from nconnect.io.clock import boottime
from nconnect.model import Deadline, Endpoint


class _Machine(Protocol):
    """What has deadlines, in CLOCK_BOOTTIME seconds."""

    def poll_timeout(self) -> Deadline | None: ...

    def handle_timeout(self, now: float) -> None: ...


async def receive_some(loop: asyncio.AbstractEventLoop, sock: Any) -> bytes:
    """At most 4 KiB; raises ConnectionResetError at the end of the stream."""
    buffer = bytearray(4096)
    while True:
        try:
            size = sock.recv_into(memoryview(buffer))
        except BlockingIOError:
            await until_ready(loop, sock.fileno(), loop.add_reader, loop.remove_reader)
            continue
        if not size:
            raise ConnectionResetError(errno.ECONNRESET, "closed during the websocket handshake")
        return bytes(buffer[:size])


async def receive_datagram(sock: socket.socket, size: int) -> tuple[bytes, Any]:
    """The next datagram, cut at `size` bytes, and its source. uvloop has no `sock_recvfrom`."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return sock.recvfrom(size)
        except BlockingIOError:
            await until_ready(loop, sock.fileno(), loop.add_reader, loop.remove_reader)


async def next_datagram(sock: socket.socket, size: int, machine: _Machine) -> tuple[bytes, Endpoint] | None:
    """What arrives before the machine's deadline, and from where; None: the deadline came, and it was told.

    The machine must have a deadline.
    """
    deadline = machine.poll_timeout()
    assert deadline is not None, "it waits for nothing"
    try:
        async with asyncio.timeout(max(0.0, deadline.at - boottime())):
            data, (host, port, *_) = await receive_datagram(sock, size)
    except TimeoutError:
        machine.handle_timeout(max(deadline.at, boottime()))
        return None
    return data, Endpoint(ip_address(host), port)


async def until_ready(
    loop: asyncio.AbstractEventLoop, fd: int, add: Callable[..., None], remove: Callable[[int], object]
) -> None:
    """Until `fd` is ready in the way that `add` asks for."""
    ready: asyncio.Future[None] = loop.create_future()

    def on_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    add(fd, on_ready)
    try:
        await ready
    finally:
        remove(fd)
