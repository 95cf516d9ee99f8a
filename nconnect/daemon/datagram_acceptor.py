"""Datagrams that peers send inside their sessions: each target has a socket, judged as a packet is.

A socket is connected to its target, so that nobody else's datagrams come by it. What is not allowed is
dropped and counted: nobody waits for an answer.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import NamedTuple, cast

from nconnect.daemon.session_streams import SessionStreams
from nconnect.daemon.stream_rights import Served, StreamRights
from nconnect.errors import NconnectError
from nconnect.model import Endpoint
from nconnect.tunnel.outputs import DatagramCame
from nconnect.tunnel.peer import Peer

IDLE_S = 60.0  # RFC 4787, section 4.3 asks for 120 s of a NAT, and applications for no more than 15
MAX_WAITING = 16  # datagrams while the socket is made
MAX_WAITING_BYTES = 1 << 16  # of these, and of those that the socket does not take at once
MAX_SOCKETS = 256  # of one peer


class _Key(NamedTuple):
    peer: str  # NKN address
    channel: int
    wanted: Endpoint


class DatagramAcceptor:
    """One interface's, in the loop's thread."""

    def __init__(self, rights: StreamRights, streams: SessionStreams) -> None:
        self._rights = rights
        self._streams = streams
        self._ways: dict[_Key, _Way] = {}

    def came(self, event: DatagramCame) -> None:
        """A peer sends a datagram to a target."""
        if event.is_ours:
            return
        key = _Key(event.peer.dest, event.channel, event.place)
        way = self._ways.get(key)
        if way is None:
            if sum(one.peer == key.peer for one in self._ways) >= MAX_SOCKETS:
                return
            way = self._ways[key] = _Way(self, event.peer, key)
            way.task = asyncio.get_running_loop().create_task(self._open(way))
        way.send(event.data)

    async def close(self) -> None:
        """Close all sockets."""
        tasks = [way.task for way in self._ways.values() if way.task is not None]
        for way in list(self._ways.values()):
            way.end()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _open(self, way: _Way) -> None:
        key = way.key
        way.served = Served(key.peer, "udp", key.wanted, lambda _: way.end())
        try:
            await self._rights.connect(way.served, way.connect, lambda _: way.end())
        except (NconnectError, OSError):
            way.end()
        finally:
            way.task = None

    def answered(self, way: _Way, data: bytes) -> None:
        """A datagram from a way's target."""
        self._streams.send_datagram(way.peer, way.key.channel, way.key.wanted, data, is_ours=False)

    def ended(self, way: _Way) -> None:
        self._ways.pop(way.key, None)
        if way.served is not None:
            self._rights.release(way.served)


class _Way(asyncio.DatagramProtocol):
    """A socket to one target."""

    def __init__(self, acceptor: DatagramAcceptor, peer: Peer, key: _Key) -> None:
        self.peer = peer
        self.key = key
        self.served: Served | None = None
        self.task: asyncio.Task[None] | None = None
        self._acceptor = acceptor
        self._waiting: list[bytes] = []
        self._transport: asyncio.DatagramTransport | None = None
        self._loop = asyncio.get_running_loop()
        self._used_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._has_ended = False

    async def connect(self, target: Endpoint) -> None:
        """Raises `OSError`."""
        self._transport, _ = await self._loop.create_datagram_endpoint(
            lambda: self, remote_addr=(str(target.address), target.port)
        )
        self._look()
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            self.send(data)

    def send(self, data: bytes) -> None:
        self._used_at = self._loop.time()
        if self._transport is not None:
            buffered = cast(asyncio.WriteTransport, self._transport).get_write_buffer_size()
            if buffered < MAX_WAITING_BYTES:
                with suppress(OSError):
                    self._transport.sendto(data)
        elif len(self._waiting) < MAX_WAITING and sum(map(len, self._waiting)) < MAX_WAITING_BYTES:
            self._waiting.append(data)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._used_at = self._loop.time()
        self._acceptor.answered(self, data)

    def error_received(self, error: Exception) -> None:
        """The target's host has refused a datagram (ICMP): the peer finds no answer, as with any loss."""

    def end(self) -> None:
        """May be called again."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()
        if not self._has_ended:
            self._has_ended = True
            self._acceptor.ended(self)

    def _look(self) -> None:
        """Close it when it was not used for a while."""
        left_s = self._used_at + IDLE_S - self._loop.time()
        if left_s <= 0:
            self.end()
        else:
            self._timer = self._loop.call_later(left_s, self._look)
