"""Streams that peers ask for: each is judged as a packet is, and joined to a connection of this machine's.

What is judged is the address that is connected to (`nconnect.host.dialling`). A right that ends, because the
configuration changes, the peer is paused, its access ends or its quota is used up, ends the streams that
stood on it at once: the peer is told why. Clients of the official nConnect are served by the same rules
(`serve`).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from nconnect.daemon.session_streams import SessionStream, SessionStreams
from nconnect.daemon.settings import InForce
from nconnect.daemon.shut import with_shut
from nconnect.host.dialling import target_of
from nconnect.model import Address, Config, Endpoint, PeerConfig
from nconnect.streams.dialler import RefusalCode, Stream, StreamRefused
from nconnect.streams.joining import join_stream
from nconnect.tunnel.outputs import StreamAsked

log = logging.getLogger(__name__)

CONNECT_S = 9.0  # the peer waits for 10 s
MAX_DIALLING = 64  # connections of one peer that are being opened
READ_BYTES = 1 << 18
_CODES = {
    errno.ENETUNREACH: RefusalCode.NET_UNREACHABLE,
    errno.EHOSTUNREACH: RefusalCode.HOST_UNREACHABLE,
    errno.ECONNREFUSED: RefusalCode.CONNECTION_REFUSED,
    errno.ETIMEDOUT: RefusalCode.TIMED_OUT,
}


@dataclass(eq=False)
class _Served:
    """A stream that leads somewhere."""

    peer: str  # NKN address
    wanted: Endpoint
    end: Callable[[str], object]
    streams: list[Stream] = field(default_factory=list)


class StreamAcceptor:
    """One interface's, in the loop's thread."""

    def __init__(
        self,
        in_force: InForce,
        streams: SessionStreams,
        *,
        shut: Callable[[], Collection[str]],
        why_shut: Callable[[PeerConfig], str],
        own_addresses: Callable[[], Awaitable[Collection[Address]]],
        max_flows: Callable[[], Mapping[str, int]],
    ) -> None:
        """`shut`: peers (NKN addresses) whose access has ended, besides those that are paused. `why_shut`: a
        clause, or "". `own_addresses`: of this machine, at this moment. `max_flows`: by the peer's name."""
        self.opened: Counter[str] = Counter()  # by the peer's name
        self.refused: dict[str, Counter[str]] = {}  # by the peer's name and reason, as the firewall's
        self._in_force = in_force
        self._streams = streams
        self._shut = shut
        self._why_shut = why_shut
        self._own_addresses = own_addresses
        self._max_flows = max_flows
        self._served: set[_Served] = set()
        self._dialling: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def asked(self, event: StreamAsked) -> None:
        """A peer asks for a stream."""
        task = asyncio.get_running_loop().create_task(self._answer(self._streams.of(event.stream)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def serve(self, peer_key: bytes, host: str, port: int, stream: Stream) -> None:
        """Join a stream of a client of the official nConnect to its target, until both have ended.

        `host` is an address. Raises `StreamRefused` before anything is written.
        """
        dest = next(
            (str(p.address) for p in self._in_force.config.peers if p.address.public_key == peer_key), ""
        )
        try:
            wanted = Endpoint(ip_address(host), port)
        except ValueError:
            raise StreamRefused("names are not resolved here", RefusalCode.UNKNOWN_NAME) from None
        served = _Served(dest, wanted, lambda why: stream.abort())
        reader, writer = await self._connected(served)
        try:
            await join_stream(reader, writer, stream)
        finally:
            self._served.discard(served)

    def look(self, _: object = None) -> None:
        """Rights may have changed: end what is not allowed any more. Waits for nothing."""
        task = asyncio.get_running_loop().create_task(self._look())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all of them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def count(self) -> Mapping[str, int]:
        """How many streams each peer (NKN address) has."""
        return Counter(served.peer for served in self._served)

    # One stream

    async def _answer(self, stream: SessionStream) -> None:
        tunnel_stream = stream.stream
        served = _Served(
            tunnel_stream.peer.dest,
            tunnel_stream.target,
            lambda why: stream.abort(RefusalCode.NOT_ALLOWED, why),
        )
        try:
            reader, writer = await self._connected(served)
        except StreamRefused as refused:
            self._streams.refuse(tunnel_stream, refused.code, refused.reason)
            return
        except BaseException:
            self._streams.refuse(tunnel_stream, RefusalCode.FAILED, "the provider stops")
            raise
        try:
            self._streams.accept(tunnel_stream)
            await join_stream(reader, writer, stream)
        finally:
            self._served.discard(served)

    async def _connected(self, served: _Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The connection to the target of a stream that is allowed. Raises `StreamRefused`."""
        peer = self._peer(served.peer)
        if peer is None:
            raise StreamRefused("there is no such peer", RefusalCode.NOT_ALLOWED)
        limit = self._max_flows().get(peer.name)
        open_here = sum(each.peer == served.peer for each in self._served)
        if (limit is not None and open_here >= limit) or self._dialling[served.peer] >= MAX_DIALLING:
            self._count(peer, "flow_limit")
            raise StreamRefused("this peer has as many connections open as it may have", RefusalCode.TOO_MANY)
        self._served.add(served)  # from here on it counts, and `look` ends it
        self._dialling[served.peer] += 1
        try:
            target = self._judged(peer, served.wanted, await self._own_addresses())
            if isinstance(target, str):
                self._count(peer, "refused")
                raise StreamRefused(target, RefusalCode.NOT_ALLOWED)
            found = await connected(target)
            # The rights may have changed while it was opened.
            again = self._judged(self._peer(served.peer), served.wanted, await self._own_addresses())
            if again != target or served not in self._served:
                found[1].transport.abort()
                raise StreamRefused("this peer may not reach it any more", RefusalCode.NOT_ALLOWED)
        except BaseException:
            self._served.discard(served)
            raise
        finally:
            self._dialling[served.peer] -= 1
            if not self._dialling[served.peer]:
                del self._dialling[served.peer]
        self.opened[peer.name] += 1
        return found

    def _judged(self, peer: PeerConfig | None, wanted: Endpoint, own: Collection[Address]) -> Endpoint | str:
        if peer is None:
            return "there is no such peer any more"
        if why := self._why_shut(peer):
            return why
        return target_of(peer, "tcp", wanted, self._config(), own)

    async def _look(self) -> None:
        own = await self._own_addresses()
        for served in list(self._served):
            target = self._judged(self._peer(served.peer), served.wanted, own)
            if isinstance(target, str):
                self._served.discard(served)
                served.end(target)

    def _config(self) -> Config:
        return with_shut(self._in_force.config, self._shut())

    def _peer(self, dest: str) -> PeerConfig | None:
        return next((peer for peer in self._config().peers if str(peer.address) == dest), None)

    def _count(self, peer: PeerConfig, why: str) -> None:
        self.refused.setdefault(peer.name, Counter())[why] += 1


async def connected(target: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises `StreamRefused`."""
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(str(target.address), target.port, limit=READ_BYTES)
    except TimeoutError:
        raise StreamRefused(f"{target} does not answer", RefusalCode.TIMED_OUT) from None
    except OSError as error:
        code = _CODES.get(error.errno or 0, RefusalCode.FAILED)
        why = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise StreamRefused(f"{target} cannot be reached ({why})", code) from None
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return reader, writer
