"""Small proxies on loopback: HTTP CONNECT and SOCKS5, working ones and faulty ones."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from nconnect.model import Proxy


@dataclass
class Served:
    """One proxy: how to reach it, and which destinations it was asked for, as HOST:PORT."""

    proxy: Proxy
    asked: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)  # of CONNECT


Ask = Callable[[Served, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[str]]


@contextlib.asynccontextmanager
async def _serving(scheme: str, login: tuple[str, str], ask: Ask) -> AsyncIterator[Served]:
    """`ask` has the dialogue, and returns the destination."""
    served = Served(Proxy(scheme, "127.0.0.1", 1, *login))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            host, _, port = (await ask(served, reader, writer)).rpartition(":")
            # Names are this proxy's to look up: all of them are loopback.
            far = await asyncio.open_connection(host if host.startswith("127.") else "127.0.0.1", int(port))
            await asyncio.gather(_pump(reader, far[1]), _pump(far[0], writer))
        except (OSError, EOFError, ValueError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    served.proxy = Proxy(scheme, "127.0.0.1", server.sockets[0].getsockname()[1], *login)
    try:
        yield served
    finally:
        server.close()
        this = asyncio.current_task()
        serving = [
            task for task in asyncio.all_tasks() if task is not this and "serve" in repr(task.get_coro())
        ]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def connect_proxy(
    *, login: tuple[str, str] = ("", ""), wants: tuple[str, str] | None = None, reply: tuple[bytes, ...] = ()
) -> AsyncIterator[Served]:
    """A CONNECT proxy that wants this login (by default the one that it is asked with).

    `reply`: what it says in place of its own answer, in pieces that are sent one by one.
    """
    wanted = login if wants is None else wants
    basic = "Basic " + base64.b64encode(":".join(wanted).encode()).decode()

    async def ask(served: Served, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        served.heads.append(head)
        method, target, _ = head.partition("\r\n")[0].split()
        assert method == "CONNECT"
        served.asked.append(target)
        if reply:
            for piece in reply:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            return target if reply[0].startswith(b"HTTP/1.1 2") else "closed"
        if wanted[0] and f"Proxy-Authorization: {basic}\r\n" not in head:
            writer.write(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n")
            return "closed"
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return target

    async with _serving("http", login, ask) as served:
        yield served


@contextlib.asynccontextmanager
async def socks5_proxy(
    *, login: tuple[str, str] = ("", ""), wants: tuple[str, str] | None = None, refuse: int = 0
) -> AsyncIterator[Served]:
    """A SOCKS5 proxy (RFC 1928, 1929); `refuse`: the reply's code, 0 to grant it."""
    wanted = login if wants is None else wants

    async def ask(served: Served, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        version, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        assert version == 5
        method = 2 if wanted[0] else 0
        writer.write(bytes([5, method if method in methods else 0xFF]))
        if method == 2 and method in methods:
            _, size = await reader.readexactly(2)
            user = await reader.readexactly(size)
            password = await reader.readexactly((await reader.readexactly(1))[0])
            right = (user.decode(), password.decode()) == wanted
            writer.write(bytes([1, 0 if right else 1]))
            if not right:
                return "closed"
        _, command, _, kind = await reader.readexactly(4)
        assert command == 1
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        elif kind == 1:
            host = ".".join(map(str, await reader.readexactly(4)))
        else:
            host = f"[{IPv6Address(await reader.readexactly(16))}]"
        (port,) = struct.unpack(">H", await reader.readexactly(2))
        served.asked.append(f"{host}:{port}")
        writer.write(bytes([5, refuse, 0, 1, 0, 0, 0, 0, 0, 0]))
        return "closed" if refuse else f"{host}:{port}"

    async with _serving("socks5", login, ask) as served:
        yield served


@contextlib.asynccontextmanager
async def odd_proxy(scheme: str, says: bytes, *, then_close: bool = True) -> AsyncIterator[Served]:
    """Something that answers whatever it is sent with `says`."""

    async def ask(served: Served, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        await reader.read(1)
        writer.write(says)
        await writer.drain()
        if not then_close:
            await reader.read()
        return "closed"

    async with _serving(scheme, ("", ""), ask) as served:
        yield served
