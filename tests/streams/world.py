"""Listeners over a dialler that uses plain TCP on loopback, and a server behind it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from nconnect.streams.dialler import DatagramChannel, RefusalCode, Stream, StreamRefused
from nconnect.streams.kernel import SocketStream
from nconnect.streams.listener import Listeners, ListenPlace, Owners, Serve, bind_listener

ANYBODY = Owners(None)
NAME = "web.gpu-box.internal"
REASON = "gpu-box does not let this device reach it"


class LoopDatagrams(asyncio.DatagramProtocol):
    """A channel of datagrams whose every target is one socket on loopback."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._asked: list[tuple[str, int]] = []
        self._came: asyncio.Queue[bytes] = asyncio.Queue()
        self.transport: asyncio.DatagramTransport | None = None

    def send(self, host: str, port: int, data: bytes | bytearray | memoryview) -> None:
        self._asked.append((host, port))
        assert self.transport is not None
        self.transport.sendto(bytes(data), ("127.0.0.1", self._port))

    async def recv(self) -> tuple[str, int, bytes]:
        data = await self._came.get()
        return (*self._asked[-1], data)

    def close(self) -> None:
        assert self.transport is not None
        self.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._came.put_nowait(data)


@dataclass
class LoopDialler:
    """Opens `NAME` and 10.9.9.9 at ports of loopback; refuses everything else."""

    udp_port: int = 0
    asked: list[tuple[str, int]] = field(default_factory=list)
    refusal: StreamRefused | None = None
    never: bool = False

    async def open(self, host: str, port: int) -> Stream:
        self.asked.append((host, port))
        if self.never:
            await asyncio.get_running_loop().create_future()
        if self.refusal is not None:
            raise self.refusal
        if host not in (NAME, "10.9.9.9"):
            raise StreamRefused(REASON, RefusalCode.NOT_ALLOWED)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            raise StreamRefused("connection refused", RefusalCode.CONNECTION_REFUSED) from None
        return SocketStream(reader, writer)

    async def datagrams(self) -> DatagramChannel:
        if not self.udp_port:
            raise StreamRefused("no UDP this way")
        _, channel = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: LoopDatagrams(self.udp_port), local_addr=("127.0.0.1", 0)
        )
        return channel


@asynccontextmanager
async def listening(
    dialler: LoopDialler, *fronts: tuple[Owners, Serve] | Callable[[], tuple[Owners, Serve]]
) -> AsyncIterator[list[int]]:
    """The ports of listeners on 127.0.0.1."""
    sockets = [bind_listener(ListenPlace("127.0.0.1", 0)) for _ in fronts]
    made = [front() if callable(front) else front for front in fronts]
    task = asyncio.create_task(
        Listeners(dialler).run(
            [(sock, owners, serve) for sock, (owners, serve) in zip(sockets, made, strict=True)]
        )
    )
    try:
        yield [sock.getsockname()[1] for sock in sockets]
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def server() -> AsyncIterator[int]:
    """A TCP server that answers the whole of what it gets with its digest, or HTTP."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await reader.read(4)
            if first == b"GET ":
                path = (await reader.readuntil(b"\r\n\r\n")).split()[0]
                body = b"x" * int(path[1:] or b"0")
                writer.write(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
                )
                writer.write(body)
            elif first == b"echo":
                while data := await reader.read(1 << 16):
                    writer.write(data)
                    await writer.drain()
            else:
                writer.write(hashlib.sha256(first + await reader.read()).hexdigest().encode())
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    served = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield served.sockets[0].getsockname()[1]
    finally:
        served.close()
