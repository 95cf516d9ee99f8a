"""Opens streams to what is behind the peers of a daemon in this process (`streams.dialler.Dialler`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import ip_address

from nconnect.daemon.session_streams import SessionStream, SessionStreams
from nconnect.daemon.settings import InForce
from nconnect.errors import StreamError
from nconnect.model import Address, Buffer, Endpoint
from nconnect.offers.name_codec import ZONE
from nconnect.offers.names import labels, names, of_peers
from nconnect.offers.statement import Statement
from nconnect.streams.dialler import OPEN_TIMEOUT_S, DatagramChannel, RefusalCode, Stream, StreamRefused
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import DatagramCame
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.streams.stream import StreamState
from nconnect.tunnel.translation import Moves

MAX_WAITING = 256  # datagrams that the program has not taken


class SessionDialler:
    """Finds the provider by the longest prefix, and asks it for a stream."""

    def __init__(
        self,
        in_force: InForce,
        tunnel: Tunnel,
        streams: SessionStreams,
        statements: Callable[[], Mapping[str, Statement]],
    ) -> None:
        """`statements`: what peers have told last, by NKN address."""
        self._in_force = in_force
        self._tunnel = tunnel
        self._streams = streams
        self._statements = statements

    async def open(self, host: str, port: int) -> Stream:
        """A stream to a TCP server; `StreamRefused` or `TimeoutError` as the protocol says."""
        peer, target = self.route(self.address_of(host), port)
        stream = self._streams.open(peer, target)
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await stream.opened()
        except TimeoutError:
            stream.abort()
            raise TimeoutError(f"{peer.name} does not answer") from None
        except BaseException:
            stream.abort()
            raise
        if stream.stream.state is StreamState.CLOSED:
            raise _refusal(stream, peer)
        return stream

    async def datagrams(self) -> DatagramChannel:
        """A channel for UDP to any targets behind peers."""
        return SessionDatagrams(self, self._streams)

    def route(self, address: Address, port: int) -> tuple[Peer, Endpoint]:
        """The peer that an address is behind, and the target as it calls it. Raises `StreamRefused`."""
        peer = self.route_of(address)
        if peer is None:
            raise StreamRefused(f"{address} is behind no peer", RefusalCode.NO_ROUTE)
        if peer.expired:
            raise StreamRefused(f"access with {peer.name} has ended", RefusalCode.NOT_ALLOWED)
        if peer.config.paused is not None:
            raise StreamRefused(f"{peer.name} is paused on this device", RefusalCode.NOT_ALLOWED)
        moves = Moves((pair.seen, pair.real) for pair in peer.config.mapped)
        return peer, Endpoint(ip_address(moves.moved(address.packed)), port)

    def route_of(self, address: Address) -> Peer | None:
        """The peer with the longest prefix for the address."""
        return self._tunnel.routes.owner(address.packed)

    def address_of(self, host: str) -> Address:
        """An address in text, or of a name beneath `.internal`. Raises `StreamRefused`."""
        try:
            return ip_address(host)
        except ValueError:
            pass
        name = host.rstrip(".").lower()
        if not name.endswith(f".{ZONE}"):
            raise StreamRefused(
                f"{host} is not a name beneath .{ZONE}: this is no way to the internet", RefusalCode.NO_ROUTE
            )
        found = self.names().get(name)
        if not found:
            raise StreamRefused(f"no peer has the name {host}", RefusalCode.UNKNOWN_NAME)
        return found[0]

    def names(self) -> Mapping[str, tuple[Address, ...]]:
        """The names beneath `.internal` with their addresses as this device sees them."""
        providers = of_peers(self._in_force.config, self._statements())
        return names(providers, labels(each.name for each in providers)).addresses


def _refusal(stream: SessionStream, peer: Peer) -> Exception:
    told = stream.stream
    if not told.code:
        return StreamRefused(f"{peer.name}: {told.why}", RefusalCode.NO_PEER)
    code = RefusalCode(told.code) if told.code in set(RefusalCode) else RefusalCode.FAILED
    return StreamRefused(f"{peer.name}: {told.why}", code)


class SessionDatagrams:
    """Datagrams inside the sessions with peers (`DatagramChannel`)."""

    def __init__(self, dialler: SessionDialler, streams: SessionStreams) -> None:
        self._dialler = dialler
        self._streams = streams
        self._came: asyncio.Queue[tuple[str, int, bytes] | None] = asyncio.Queue(MAX_WAITING)
        self._id = streams.open_channel(self._put)
        self._is_closed = False

    def send(self, host: str, port: int, data: Buffer) -> None:
        """Send one; what leads to no peer is dropped."""
        with suppress(StreamRefused):
            peer, target = self._dialler.route(self._dialler.address_of(host), port)
            self._streams.send_datagram(peer, self._id, target, data, is_ours=True)

    async def recv(self) -> tuple[str, int, bytes]:
        """Raises `StreamError` once it is closed."""
        found = None if self._is_closed else await self._came.get()
        if found is None:
            raise StreamError("the channel was closed")
        return found

    def close(self) -> None:
        """May be called again."""
        self._is_closed = True
        self._streams.close_channel(self._id)
        with suppress(asyncio.QueueFull):  # else its reader has something to read
            self._came.put_nowait(None)

    def _put(self, event: DatagramCame) -> None:
        moves = Moves((pair.real, pair.seen) for pair in event.peer.config.mapped)
        address = ip_address(moves.moved(event.place.address.packed))
        if self._dialler.route_of(address) is event.peer:  # a peer tells no other's addresses
            with suppress(asyncio.QueueFull):
                self._came.put_nowait((str(address), event.place.port, event.data))
