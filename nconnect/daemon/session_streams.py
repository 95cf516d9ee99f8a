"""Streams inside the sessions with peers, for asyncio: the shell around `nconnect.tunnel.streams`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakValueDictionary

from nconnect.daemon.driver import Driver
from nconnect.errors import StreamClosed, StreamError
from nconnect.io.clock import boottime
from nconnect.model import Buffer, Endpoint
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import DatagramCame, StreamMoved
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.streams.stream import StreamState, TunnelStream

BUFFER_BYTES = 1 << 18  # `drain` waits while more than this is not sent
READ_BYTES = 1 << 18


class SessionStream:
    """A stream with a peer; it has the shape of `nconnect.streams.dialler.Stream`."""

    def __init__(self, stream: TunnelStream, streams: SessionStreams) -> None:
        """`SessionStreams` makes them."""
        self.stream = stream
        self._streams = streams
        self._changed = asyncio.Event()  # replaced each time it is set

    async def opened(self) -> None:
        """Wait until the peer has answered, or the stream is closed: see `stream.state`, `code` and `why`."""
        while self.stream.state is StreamState.ASKED:
            await self._changed.wait()

    async def read(self, most: int = READ_BYTES) -> bytes:
        """Wait for data, and return up to `most` bytes; b"" at the end. Raises `StreamError`."""
        stream = self.stream
        while True:
            if data := stream.read(most, boottime()):
                self._streams.touched(stream)
                return data
            if stream.closed_here:
                raise StreamClosed("the stream was closed")
            if stream.receiver.at_end:
                return b""
            if stream.why:
                raise StreamError(stream.why)
            if stream.at_eof:
                return b""
            await self._changed.wait()

    def write(self, data: Buffer) -> None:
        """Send as soon as there is room. Raises `StreamError`."""
        stream = self.stream
        if not stream.can_write:
            self._must_be_whole()
            raise StreamClosed("nothing can be written after close() or write_eof()")
        stream.write(data if isinstance(data, bytes) else bytes(data))
        self._streams.touched(stream)

    async def drain(self) -> None:
        """Wait until there is room for more. Raises `StreamError`."""
        while self.stream.unsent > BUFFER_BYTES and self.stream.state is StreamState.OPEN:
            await self._changed.wait()
        self._must_be_whole()

    def write_eof(self) -> None:
        """End this direction, after what was written."""
        self.stream.end(boottime())
        self._streams.touched(self.stream)

    async def close(self) -> None:
        """End both directions, once everything that was written has arrived. Raises `StreamError`."""
        self.stream.close(boottime())
        self._streams.touched(self.stream)
        await self.wait_closed()
        self._must_be_whole()

    async def wait_closed(self) -> None:
        """Wait until both directions have ended, or the stream broke."""
        while self.stream.state is not StreamState.CLOSED:
            await self._changed.wait()

    def abort(self, code: int = 0, why: str = "the other side has reset the stream") -> None:
        """End both directions at once; the other side is told why."""
        self.stream.abort(code, why, boottime())
        self._streams.touched(self.stream)
        self.notify()

    def notify(self) -> None:
        """Something came, left, or ended."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _must_be_whole(self) -> None:
        if self.stream.why:
            raise StreamError(self.stream.why)


class SessionStreams:
    """All streams of one daemon, in the loop's thread."""

    def __init__(
        self,
        tunnel: Tunnel,
        driver: Driver,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._tunnel = tunnel
        self._driver = driver
        self._loop = loop
        self._clock = clock
        self._known: WeakValueDictionary[TunnelStream, SessionStream] = WeakValueDictionary()
        self._channels: dict[int, Callable[[DatagramCame], object]] = {}
        self._is_due = False

    def open(self, peer: Peer, target: Endpoint) -> SessionStream:
        """Ask a peer for a stream; wait for `opened`."""
        found = self.of(self._tunnel.streams.open(peer, target, self._clock()))
        self._pump_soon()
        return found

    def accept(self, stream: TunnelStream) -> SessionStream:
        """Accept a stream that a peer asked for."""
        self._tunnel.streams.accept(stream, self._clock())
        self._pump_soon()
        return self.of(stream)

    def refuse(self, stream: TunnelStream, code: int, why: str) -> None:
        """Tell the peer why it does not get the stream."""
        stream.refuse(code, why, self._clock())
        self.touched(stream)

    def of(self, stream: TunnelStream) -> SessionStream:
        found = self._known.get(stream)
        if found is None:
            found = self._known[stream] = SessionStream(stream, self)
        return found

    def touched(self, stream: TunnelStream) -> None:
        """A program has used the stream."""
        self._tunnel.streams.touched(stream, self._clock())
        self._pump_soon()

    def send_datagram(
        self, peer: Peer, channel: int, place: Endpoint, data: Buffer, *, is_ours: bool
    ) -> None:
        """Send a datagram of a channel, that this side opened if it `is_ours`; it may be dropped."""
        if self._tunnel.streams.send_datagram(peer, channel, place, data, self._clock(), is_ours=is_ours):
            self._pump_soon()

    def open_channel(self, came: Callable[[DatagramCame], object]) -> int:
        """A new channel's id; `came` is called with each datagram, until `close_channel`."""
        channel = self._tunnel.streams.new_channel()
        self._channels[channel] = came
        return channel

    def close_channel(self, channel: int) -> None:
        self._channels.pop(channel, None)

    def datagram_came(self, event: DatagramCame) -> None:
        if event.is_ours and (came := self._channels.get(event.channel)) is not None:
            came(event)

    def moved(self, event: StreamMoved) -> None:
        event.stream.is_told = False
        found = self._known.get(event.stream)
        if found is not None:
            found.notify()

    def _pump_soon(self) -> None:
        """Once in a turn of the loop, whatever is written and read in it."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._is_due = False
        self._driver.send_frames()
