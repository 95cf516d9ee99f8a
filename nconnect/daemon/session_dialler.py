"""Opens streams to what is behind the peers of a daemon in this process (`streams.dialler.Dialler`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from ipaddress import ip_address

from nconnect.daemon.session_streams import SessionStream, SessionStreams
from nconnect.daemon.settings import InForce
from nconnect.model import Address, Endpoint
from nconnect.offers.name_codec import ZONE
from nconnect.offers.names import labels, names, of_peers
from nconnect.offers.statement import Statement
from nconnect.streams.dialler import OPEN_TIMEOUT_S, DatagramChannel, RefusalCode, Stream, StreamRefused
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.streams.stream import StreamState
from nconnect.tunnel.translation import Moves


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
        peer, target = self.route(self._address(host), port)
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
        """Raises `StreamRefused`."""
        raise StreamRefused("UDP is not carried without a TUN", RefusalCode.FAILED)

    def route(self, address: Address, port: int) -> tuple[Peer, Endpoint]:
        """The peer that an address is behind, and the target as it calls it. Raises `StreamRefused`."""
        peer = self._tunnel.routes.owner(address.packed)
        if peer is None:
            raise StreamRefused(f"{address} is behind no peer", RefusalCode.NO_ROUTE)
        if peer.expired:
            raise StreamRefused(f"access with {peer.name} has ended", RefusalCode.NOT_ALLOWED)
        if peer.config.paused is not None:
            raise StreamRefused(f"{peer.name} is paused on this device", RefusalCode.NOT_ALLOWED)
        moves = Moves((pair.seen, pair.real) for pair in peer.config.mapped)
        return peer, Endpoint(ip_address(moves.moved(address.packed)), port)

    def _address(self, host: str) -> Address:
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
