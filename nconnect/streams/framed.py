"""A stream over a local connection to another process, framed so that a cut shows. The shape of `Stream`.

Each direction is frames of u32 length (little-endian) and as many bytes; a length of 0 ends it. A connection
that closes before that was cut: a unix socket has no reset by which to tell.
"""

from __future__ import annotations

import asyncio
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from contextlib import suppress

from nconnect.errors import NconnectError, StreamError
from nconnect.model import Buffer
from nconnect.streams.dialler import MOST_READ, Stream

_MOST_BYTES = 1 << 20
_HEAD_BYTES = 4


class FramedStream:
    """Either end of one."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._rest = b""  # of a frame
        self._has_ended = False  # their direction
        self._ends = False  # ours
        self._is_closed = asyncio.Event()

    async def read(self, most: int = MOST_READ) -> bytes:
        """Wait for data; b"" at the end. Raises `StreamError` where it was cut."""
        if not self._rest and not self._has_ended:
            try:
                size = int.from_bytes(await self._reader.readexactly(_HEAD_BYTES), "little")
                if size > _MOST_BYTES:
                    raise StreamError("the other process sent no frame of a stream")
                self._rest = await self._reader.readexactly(size)
            except (IncompleteReadError, OSError):
                self.abort()
                raise StreamError("the stream was cut") from None
            self._has_ended = not size
            self._look()
        data, self._rest = self._rest[:most], self._rest[most:]
        return data

    def write(self, data: Buffer) -> None:
        """Send `data`. Raises `StreamError` when the connection is gone."""
        if self._writer.is_closing():
            raise StreamError("the stream was cut")
        view = memoryview(data)
        for at in range(0, len(view), _MOST_BYTES):
            part = view[at : at + _MOST_BYTES]
            self._writer.write(len(part).to_bytes(_HEAD_BYTES, "little") + part)

    async def drain(self) -> None:
        """Wait until there is room."""
        await self._writer.drain()

    def write_eof(self) -> None:
        """End this direction."""
        if not self._ends and not self._writer.is_closing():
            self._ends = True
            self._writer.write(bytes(_HEAD_BYTES))
            self._look()

    async def close(self) -> None:
        """End both directions, once all that was written has been sent."""
        self.write_eof()
        self._writer.close()
        self._is_closed.set()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until both directions have ended, or it broke."""
        await self._is_closed.wait()

    def abort(self) -> None:
        """End both directions at once."""
        self._writer.transport.abort()
        self._is_closed.set()

    def _look(self) -> None:
        if self._ends and self._has_ended:
            self._is_closed.set()


async def join_streams(one: Stream, other: Stream) -> None:
    """Carry both directions until both have ended, or one breaks: then both are aborted."""
    is_whole = False
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_carry(one, other))
            group.create_task(_carry(other, one))
        await asyncio.gather(one.close(), other.close())
        is_whole = True
    except* (NconnectError, OSError):
        pass
    finally:
        if not is_whole:
            one.abort()
            other.abort()


async def _carry(source: Stream, sink: Stream) -> None:
    while data := await source.read():
        sink.write(data)
        await sink.drain()
    sink.write_eof()
