"""Streams that peers ask for: each is judged as a packet is, and joined to a connection of this machine's.

`nconnect.daemon.stream_rights` judges, and ends what is not allowed any more: the peer is told why. Clients
of the official nConnect are served by the same rules (`serve`).
"""

from __future__ import annotations

import asyncio
import errno
import socket
from asyncio import StreamReader, StreamWriter
from ipaddress import ip_address

from nconnect.daemon.session_streams import SessionStream, SessionStreams
from nconnect.daemon.stream_rights import Served, StreamRights
from nconnect.model import Endpoint
from nconnect.streams.dialler import RefusalCode, Stream, StreamRefused
from nconnect.streams.joining import join_stream
from nconnect.tunnel.outputs import StreamAsked

CONNECT_S = 9.0  # the peer waits for 10 s
READ_BYTES = 1 << 18
_CODES = {
    errno.ENETUNREACH: RefusalCode.NET_UNREACHABLE,
    errno.EHOSTUNREACH: RefusalCode.HOST_UNREACHABLE,
    errno.ECONNREFUSED: RefusalCode.CONNECTION_REFUSED,
    errno.ETIMEDOUT: RefusalCode.TIMED_OUT,
}
_Connection = tuple[StreamReader, StreamWriter]


class StreamAcceptor:
    """One interface's, in the loop's thread."""

    def __init__(self, rights: StreamRights, streams: SessionStreams) -> None:
        self._rights = rights
        self._streams = streams
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
        try:
            wanted = Endpoint(ip_address(host), port)
        except ValueError:
            raise StreamRefused("names are not resolved here", RefusalCode.UNKNOWN_NAME) from None
        served = Served(self._rights.address_of(peer_key), "tcp", wanted, lambda why: stream.abort())
        reader, writer = await self._rights.connect(served, connected, _abort)
        try:
            await join_stream(reader, writer, stream)
        finally:
            self._rights.release(served)

    async def close(self) -> None:
        """End all of them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, stream: SessionStream) -> None:
        asked = stream.stream
        served = Served(
            asked.peer.dest,
            "tcp",
            asked.target,
            lambda why: stream.abort(RefusalCode.NOT_ALLOWED, why),
        )
        try:
            reader, writer = await self._rights.connect(served, connected, _abort)
        except StreamRefused as refused:
            self._streams.refuse(asked, refused.code, refused.reason)
            return
        except BaseException:
            self._streams.refuse(asked, RefusalCode.FAILED, "the provider stops")
            raise
        try:
            self._streams.accept(asked)
            await join_stream(reader, writer, stream)
        finally:
            self._rights.release(served)


async def connected(target: Endpoint) -> _Connection:
    """A TCP connection. Raises `StreamRefused`."""
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


def _abort(connection: _Connection) -> None:
    connection[1].transport.abort()
