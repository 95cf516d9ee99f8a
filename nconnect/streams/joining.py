"""Joins a program's TCP connection and a stream: each direction ends where it ends at the other side."""

from __future__ import annotations

import asyncio
import logging
from asyncio import StreamReader, StreamWriter

from nconnect.errors import NconnectError
from nconnect.io.net.connections import reset_on_close
from nconnect.streams.dialler import Stream

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 16  # of one direction, read at a time


async def join_stream(reader: StreamReader, writer: StreamWriter, stream: Stream, early: bytes = b"") -> None:
    """Carry both directions until both have ended, or one breaks: then both connections are reset.

    `early`: what the program sent already.
    """
    up = asyncio.ensure_future(_to_stream(reader, stream, early))
    down = asyncio.ensure_future(_to_program(stream, writer))
    gone = asyncio.ensure_future(stream.wait_closed())
    is_whole = False
    try:
        await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        if down.done() and not down.exception():
            # They ended their direction. Ours goes on until it ends, or they have closed everything.
            await asyncio.wait((up, gone), return_when=asyncio.FIRST_COMPLETED)
        elif up.done() and not up.exception():
            await asyncio.wait((down,))
        for task in (up, down):
            if task.done():
                task.result()
        await stream.close()
        writer.close()
        await writer.wait_closed()
        is_whole = True
    except (NconnectError, OSError) as error:
        log.debug("a stream broke: %s", error)
    finally:
        if not is_whole:  # first: what follows may be cancelled
            stream.abort()
            reset(writer)
        for task in (up, down, gone):
            task.cancel()
        await asyncio.gather(up, down, gone, return_exceptions=True)


async def _to_stream(reader: StreamReader, stream: Stream, early: bytes) -> None:
    data = early or await reader.read(CHUNK_BYTES)
    while data:
        stream.write(data)
        await stream.drain()
        data = await reader.read(CHUNK_BYTES)
    stream.write_eof()


async def _to_program(stream: Stream, writer: StreamWriter) -> None:
    while data := await stream.read():
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def reset(writer: StreamWriter) -> None:
    """End a TCP connection so that the program sees an error, never a short success."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        reset_on_close(sock)
    writer.transport.abort()
