"""A stream between two clients, as programs use it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nconnect.errors import StreamClosed, StreamError
from nconnect.io.clock import boottime
from nconnect.model import Buffer
from nconnect.ncp.session import NcpSession

if TYPE_CHECKING:
    from nconnect.sdk.streaming import Streaming

READ_BYTES = 1 << 18
_QUIET_LOOKS = 8  # while it waits for quiet
BUFFER_BYTES = 1 << 18  # `drain` waits while more than this is not sent


class Stream:
    """A reliable, encrypted stream of bytes to another client, by `MultiClient.dial` or a `StreamServer`.

        async with await client.dial(address) as stream:
            stream.write(b"hello")
            await stream.drain()
            answer = await stream.read()

    Every waiting call can be cancelled, and takes a time limit `timeout_s` after which it raises
    `TimeoutError`; the stream stays usable after both. One task may read while another one writes.
    """

    def __init__(self, session: NcpSession, streaming: Streaming) -> None:
        """Clients make them."""
        self.remote = session.remote
        """The other side's address."""
        self._session = session
        self._streaming = streaming
        self._changed = asyncio.Event()  # replaced each time it is set

    @property
    def at_eof(self) -> bool:
        """Whether everything was read that will ever come."""
        return self._session.at_eof

    @property
    def can_end(self) -> bool:
        """Whether `write_eof` reaches the other side: official clients know only that of both."""
        return self._session.knows_end

    @property
    def is_delivered(self) -> bool:
        """Whether everything that was written has arrived, and was read if the other side is official."""
        return self._session.is_delivered

    # Reading

    async def read(self, most: int = READ_BYTES, *, timeout_s: float | None = None) -> bytes:
        """Wait for data, and return up to `most` bytes; b"" at the end of the stream.

        Raises `StreamError` where the stream was cut: all that came before was returned by earlier calls.
        """
        session = self._session
        async with asyncio.timeout(timeout_s):
            while True:
                if data := session.read(most, boottime()):
                    self._streaming.touched(self)
                    return data
                self._must_be_open()
                if session.why:
                    raise StreamError(f"{self.remote}: {session.why}")
                if session.at_eof:
                    return b""
                await self._changed.wait()

    async def readexactly(self, size: int, *, timeout_s: float | None = None) -> bytes:
        """Return exactly `size` bytes. Raises `asyncio.IncompleteReadError`, with what came, at an early end.

        What was read is lost if it is cancelled or takes too long.
        """
        parts: list[bytes] = []
        left = size
        async with asyncio.timeout(timeout_s):
            while left:
                if not (data := await self.read(left)):
                    raise asyncio.IncompleteReadError(b"".join(parts), size)
                parts.append(data)
                left -= len(data)
        return b"".join(parts)

    # Writing

    def write(self, data: Buffer) -> None:
        """Send `data` as soon as there is room; does not wait. Call `drain` before you write more.

        Raises `StreamError` if the stream broke, `StreamClosed` after `close` or `write_eof`.
        """
        session = self._session
        if not session.can_write:
            self._must_be_whole()
            if session.is_closed and not session.closed_here:
                raise StreamError(f"{self.remote}: the other side closed the stream")
            raise StreamClosed("nothing can be written after close() or write_eof()")
        session.write(data if isinstance(data, bytes) else bytes(data))
        self._streaming.touched(self)

    async def drain(self, *, timeout_s: float | None = None) -> None:
        """Wait until at most 256 KiB of what was written is not sent. Raises `StreamError` if it broke."""
        async with asyncio.timeout(timeout_s):
            while self._session.unsent > BUFFER_BYTES:
                await self._changed.wait()
        self._must_be_whole()

    def write_eof(self) -> None:
        """End this direction. The other side reads it as the end of the stream if `can_end`; otherwise only
        `close` tells it.
        """
        self._session.end(boottime())
        self._streaming.touched(self)

    # The end

    async def close(self, *, timeout_s: float | None = None) -> None:
        """End both directions, once everything that was written has arrived.

        It waits while that makes progress within 30 s. What the other side still sends is dropped. Raises
        `StreamError` if not all of it arrived; closing again does nothing.
        """
        session = self._session
        session.close(boottime())
        self._streaming.touched(self)
        async with asyncio.timeout(timeout_s):
            while not session.is_closed:
                await self._changed.wait()
        self._must_be_whole()

    async def wait_closed(self) -> None:
        """Wait until the other side has closed both directions, or the stream broke or was closed here."""
        while not self._session.is_closed:
            await self._changed.wait()

    async def wait_quiet(self, quiet_s: float) -> None:
        """Wait until the other side has read everything and sent nothing for `quiet_s`, or the stream ended.

        Only data that was read counts as sent, and nothing is quiet while a part is known to be missing.
        """
        session, receiver = self._session, self._session.receiver
        heard, left = receiver.received_bytes, _QUIET_LOOKS
        while not session.is_closed and left:
            try:
                async with asyncio.timeout(quiet_s / _QUIET_LOOKS):
                    await self.wait_closed()
            except TimeoutError:
                left -= 1
            busy = receiver.ready_bytes or receiver.has_gap or not session.is_delivered
            if busy or receiver.received_bytes != heard:
                heard, left = receiver.received_bytes, _QUIET_LOOKS

    def abort(self) -> None:
        """End both directions at once; the other side reads an error, unless it is an official client."""
        self._session.closed_here = True
        self._session.abort("the stream was aborted", boottime())
        self._streaming.touched(self)

    async def __aenter__(self) -> Self:
        """Leaving closes it, or aborts it after an exception."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            self.abort()

    def __repr__(self) -> str:
        return f"<Stream to {self.remote}: {self._session.state.value}>"

    # What `Streaming` tells

    def _notify(self) -> None:
        """Something came, went out, or ended."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _must_be_whole(self) -> None:
        if self._session.why:
            raise StreamError(f"{self.remote}: {self._session.why}")
        if self._session.undelivered:
            raise StreamError(
                f"{self.remote}: the other side closed the stream before it had received everything"
            )

    def _must_be_open(self) -> None:
        if self._session.closed_here:
            raise StreamClosed("the stream was closed")
