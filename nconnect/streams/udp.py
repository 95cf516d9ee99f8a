"""UDP ASSOCIATE (RFC 1928, section 7): datagrams of one program, as long as its TCP connection is there."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

from nconnect.errors import NconnectError
from nconnect.io.errors import reason
from nconnect.streams.dialler import DatagramChannel, RefusalCode, StreamRefused
from nconnect.streams.entry import ProxyEntry
from nconnect.streams.listener import Owners, Program
from nconnect.streams.socks5 import Datagram, encode_datagram
from nconnect.streams.target import DialTarget, is_internal

log = logging.getLogger(__name__)


async def associate(program: Program, entry: ProxyEntry) -> None:
    """Serve one association. Raises `StreamRefused` before it was granted."""
    own, other = program.writer.get_extra_info("sockname"), program.writer.get_extra_info("peername")
    channel = await program.dialler.datagrams()
    try:
        relay = _Relay(channel, program.owners, other[0])
        try:
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: relay, local_addr=(own[0], 0)
            )
        except OSError as error:
            raise StreamRefused(f"no UDP port: {reason(error)}", RefusalCode.FAILED) from None
        try:
            host, port = transport.get_extra_info("sockname")[:2]
            program.writer.write(entry.granted(host, port))
            back = asyncio.ensure_future(_back(channel, relay))
            try:
                while await program.reader.read(4096):
                    pass  # nothing is said on the TCP connection; its end ends the association
            finally:
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
        finally:
            transport.close()
    finally:
        channel.close()


async def _back(channel: DatagramChannel, relay: _Relay) -> None:
    try:
        while True:
            relay.answer(*await channel.recv())
    except (NconnectError, OSError) as error:
        log.debug("a channel of datagrams ended: %s", error)


class _Relay(asyncio.DatagramProtocol):
    """The association's UDP socket. The first socket that may use it is the only one (section 7 lets a
    server limit that)."""

    def __init__(self, channel: DatagramChannel, owners: Owners, program_host: str) -> None:
        self._channel = channel
        self._owners = owners
        self._program_host = program_host
        self._program: Any = None
        self._refused: Any = None
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if addr != self._program and not self._is_program(addr):
            return
        if (found := Datagram.decode(data)) is None:
            return
        if DialTarget(found.host, found.port).is_name and not is_internal(found.host):
            return
        self._channel.send(found.host, found.port, found.data)

    def error_received(self, exc: Exception) -> None:
        """The program's socket has gone: its TCP connection tells the end."""

    def answer(self, host: str, port: int, data: bytes) -> None:
        """Hand the program a datagram that came from there."""
        if self._program is not None and self._transport is not None:
            self._transport.sendto(encode_datagram(host, port, data), self._program)

    def _is_program(self, addr: Any) -> bool:
        """Whether it is the first sender, and may be served."""
        if self._program is not None or addr == self._refused or addr[0] != self._program_host:
            return False
        assert self._transport is not None
        if why := self._owners.refusal_of_udp(self._transport.get_extra_info("sockname"), addr):
            self._refused = addr
            log.warning("datagrams were refused: %s", why)
            return False
        self._program = addr
        return True
