"""Streams where the tunnel's interface is on this machine: the kernel's own TCP and UDP, through it alone.

Any user may send through the interface, so nothing is asked of the daemon. What is not routed into the tunnel
is refused: a listener of ours is no proxy to the internet or to this machine. The sockets are bound to the
interface, so that a route that changes between look-up and connection leads nowhere else.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from ipaddress import ip_address

from nconnect.errors import StreamError
from nconnect.host.policy import Question
from nconnect.io.errors import plain_reason
from nconnect.io.net.resolve import stream_addresses
from nconnect.io.system.netlink import Netlink
from nconnect.model import Address, Buffer
from nconnect.streams.dialler import (
    MOST_READ,
    OPEN_TIMEOUT_S,
    DatagramChannel,
    RefusalCode,
    Stream,
    StreamRefused,
)
from nconnect.streams.joining import reset

_SO_BINDTODEVICE = 25  # <asm-generic/socket.h>; without rights since Linux 5.7
_CODES = {
    errno.ECONNREFUSED: RefusalCode.CONNECTION_REFUSED,
    errno.ENETUNREACH: RefusalCode.NET_UNREACHABLE,
    errno.EHOSTUNREACH: RefusalCode.HOST_UNREACHABLE,
    errno.ETIMEDOUT: RefusalCode.TIMED_OUT,
    errno.EACCES: RefusalCode.NOT_ALLOWED,  # ICMPv6, "administratively prohibited" (RFC 4443, section 3.1)
}
_WAITING = 256  # datagrams from targets that the program has not taken


class KernelDialler:
    """Through the tunnel's interface on this machine. `Dialler`."""

    def __init__(self, interface: str) -> None:
        self._interface = interface

    async def open(self, host: str, port: int) -> Stream:
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                return await self._open(await self.addresses(host), port)
        except TimeoutError:
            raise StreamRefused(f"no answer within {OPEN_TIMEOUT_S:g} s", RefusalCode.TIMED_OUT) from None

    async def datagrams(self) -> DatagramChannel:
        return await KernelDatagrams.open(self)

    async def addresses(self, host: str) -> list[Address]:
        """Those that lead into the tunnel, at least one. Raises `StreamRefused`."""
        try:
            found = [ip_address(host)]
        except ValueError:
            try:
                infos = await stream_addresses(host, 0)
            except OSError as error:
                raise StreamRefused(f"{host}: {plain_reason(error)}", RefusalCode.UNKNOWN_NAME) from None
            found = list(dict.fromkeys(ip_address(str(info[4][0]).partition("%")[0]) for info in infos))
        return self._routed(host, found)

    def make(self, address: Address, kind: int) -> socket.socket:
        """A socket that reaches nothing but the tunnel, not blocking."""
        sock = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, kind)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, self._interface.encode())
        except OSError as error:
            sock.close()
            raise StreamRefused(f"{self._interface}: {plain_reason(error)}", RefusalCode.NO_PEER) from None
        return sock

    def _routed(self, host: str, found: list[Address]) -> list[Address]:
        """Netlink answers at once: nothing waits for anybody."""
        with Netlink() as netlink:
            names = {link.index: link.name for link in netlink.links()}
            if self._interface not in names.values():
                raise StreamRefused(f"the tunnel {self._interface} is down", RefusalCode.NO_PEER)
            for address in found:
                answer = netlink.where(Question(address), names)
                if answer.kind != "unicast" or answer.interface != self._interface:
                    why = f"{host} is not behind {self._interface}: no peer's prefix has {address}"
                    raise StreamRefused(why, RefusalCode.NO_ROUTE)
        return found

    async def _open(self, addresses: list[Address], port: int) -> Stream:
        loop = asyncio.get_running_loop()
        refused = StreamRefused("it has no address", RefusalCode.UNKNOWN_NAME)
        for address in addresses:
            sock = self.make(address, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await loop.sock_connect(sock, (str(address), port))
                reader, writer = await asyncio.open_connection(sock=sock, limit=MOST_READ)
                return SocketStream(reader, writer)
            except OSError as error:
                refused = _refusal(error)
                sock.close()
            except BaseException:
                sock.close()
                raise
        raise refused


def _refusal(error: OSError) -> StreamRefused:
    code = _CODES.get(error.errno or 0, RefusalCode.FAILED)
    why = plain_reason(error)
    if code is RefusalCode.CONNECTION_REFUSED:  # the provider's firewall answers with a reset too
        why += " (nothing listens there, or the provider does not allow it)"
    return StreamRefused(why, code)


class SocketStream:
    """A TCP connection as a `Stream`."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, most: int = MOST_READ) -> bytes:
        return await self._reader.read(most)

    def write(self, data: Buffer) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        await self._writer.drain()

    def write_eof(self) -> None:
        self._writer.write_eof()

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def wait_closed(self) -> None:
        with suppress(OSError):
            await self._writer.wait_closed()

    def abort(self) -> None:
        reset(self._writer)


class KernelDatagrams:
    """UDP through the interface. `DatagramChannel`."""

    def __init__(self, dialler: KernelDialler) -> None:
        self._dialler = dialler
        self._transports: dict[int, asyncio.DatagramTransport] = {}  # by IP version
        self._came: asyncio.Queue[tuple[str, int, bytes]] = asyncio.Queue(_WAITING)
        self._sending: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @classmethod
    async def open(cls, dialler: KernelDialler) -> KernelDatagrams:
        return cls(dialler)

    def send(self, host: str, port: int, data: Buffer) -> None:
        if len(self._sending) >= _WAITING or self._is_closed:
            return
        task = asyncio.get_running_loop().create_task(self._send(host, port, bytes(data)))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def recv(self) -> tuple[str, int, bytes]:
        return await self._came.get()

    def close(self) -> None:
        self._is_closed = True
        for task in self._sending:
            task.cancel()
        for transport in self._transports.values():
            transport.close()

    async def _send(self, host: str, port: int, data: bytes) -> None:
        with suppress(StreamRefused, StreamError, OSError):
            address = (await self._dialler.addresses(host))[0]
            if (transport := self._transports.get(address.version)) is None:
                transport = await self._open(address)
            transport.sendto(data, (str(address), port))

    async def _open(self, address: Address) -> asyncio.DatagramTransport:
        sock = self._dialler.make(address, socket.SOCK_DGRAM)
        sock.bind(("0.0.0.0" if address.version == 4 else "::", 0))
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Receiver(self._came), sock=sock
        )
        return self._transports.setdefault(address.version, transport)


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, came: asyncio.Queue[tuple[str, int, bytes]]) -> None:
        self._came = came

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        with suppress(asyncio.QueueFull):
            self._came.put_nowait((addr[0], addr[1], data))

    def error_received(self, exc: Exception) -> None:
        """A target that refuses; the program sends again, or gives up."""
