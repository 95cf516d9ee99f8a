"""`nconnect socks`: SOCKS5 (CONNECT and UDP ASSOCIATE) and HTTP CONNECT on one port."""

from __future__ import annotations

import asyncio
import logging

from nconnect.streams.dialler import StreamRefused
from nconnect.streams.entry import ProxyEntry
from nconnect.streams.joining import join_stream, reset
from nconnect.streams.listener import Program, Serve
from nconnect.streams.target import RefusedRequest
from nconnect.streams.udp import associate

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0  # from the connection to the whole request
WRONG_PASSWORD_S = 1.0  # how long the answer to a wrong one waits
_READ_BYTES = 4096


def proxying(password: bytes | None) -> Serve:
    """What a listener does with a connection; with a `password` it has to be given first."""

    async def serve(program: Program) -> None:
        entry = ProxyEntry(password)
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                if not await _read_request(program, entry):
                    return
        except TimeoutError:
            reset(program.writer)
            return
        except RefusedRequest as bad:
            log.warning("a request was refused: %s", bad.why)
            if bad.is_login:
                await asyncio.sleep(WRONG_PASSWORD_S)
            await _say_and_end(program, bad.answer)
            return
        program.on_request()
        try:
            if entry.is_udp:
                await associate(program, entry)
            else:
                await _connect(program, entry)
        except StreamRefused as refused:
            log.warning("%s: %s", entry.target or "UDP", refused.reason)
            await _say_and_end(program, entry.refused(refused.reason, refused.code))

    return serve


async def _read_request(program: Program, entry: ProxyEntry) -> bool:
    """Whether the request came before the connection ended."""
    while not entry.is_complete:
        if not (data := await program.reader.read(_READ_BYTES)):
            return False
        program.writer.write(entry.receive(data))
    return True


async def _connect(program: Program, entry: ProxyEntry) -> None:
    assert entry.target is not None
    stream = await program.open(entry.target)
    try:
        program.writer.write(entry.granted())
    except BaseException:
        stream.abort()
        raise
    await join_stream(program.reader, program.writer, stream, entry.early)


async def _say_and_end(program: Program, answer: bytes) -> None:
    """Send the last answer and end, so that it arrives: unread data would make the end a reset."""
    writer = program.writer
    writer.write(answer)
    if writer.can_write_eof():
        writer.write_eof()
    try:
        async with asyncio.timeout(1.0):
            while await program.reader.read(_READ_BYTES):
                pass
    except TimeoutError:
        pass
    writer.close()
