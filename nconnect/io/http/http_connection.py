"""One client of an HTTP server: its requests one after another, its bounds in bytes and time.

h11 reads and writes the protocol; this file moves the bytes. All clients of a server share a `Clients`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import struct
import time
from asyncio import StreamReader, StreamReaderProtocol, StreamWriter
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import h11

from nconnect.io.http.http import (
    Credentials,
    Request,
    Response,
    Upgraded,
    framed,
    header_texts,
)
from nconnect.queueing.rate_limiter import limit_key

log = logging.getLogger(__name__)
Handler = Callable[["Request"], Awaitable["Response"]]
_numbers = itertools.count()  # of connections, by age
UPGRADED_BYTES = 1 << 18  # read ahead on a connection that was upgraded
_LINGER_S = 1.0  # for a refused client to stop talking and read why
_UCRED = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes from its clients. Guessed, on the generous side of what SDKs and curl do."""

    header_bytes: int = 16 * 1024  # request line and headers; beyond: 431 and closed
    body_bytes: int = 1 << 20  # beyond: 413 and closed
    body_chunks: int = 256  # of one sent in chunks, each of which costs what 100 bytes do; beyond: 413
    request_s: float = 10.0  # from the first byte (or the connect) to the end of the body; then 408, closed
    idle_s: float = 30.0  # between two requests of a connection
    write_s: float = 10.0  # for the client to take an answer
    connections: int = 512  # beyond: the oldest that waits goes; none does: 503 and closed
    connections_per_host: int = 64  # of one IPv4 address or IPv6 /64; a unix socket is not counted
    pending_bytes: int = 4 << 20  # of requests that are not whole; beyond: who keeps most is closed


@dataclass(slots=True)
class Clients:
    """All clients of a server."""

    connections: set[HttpConnection] = field(default_factory=set)
    hosts: Counter[str] = field(default_factory=Counter)  # connections of each
    pending_bytes: int = 0  # of requests that are not whole


class HttpConnection(asyncio.Protocol):
    """One client of a server. At most one timer and one handler run at a time."""

    def __init__(self, handler: Handler, limits: Limits, clients: Clients) -> None:
        self.task: asyncio.Task[None] | None = None
        self._handler = handler
        self._limits = limits
        self._all = clients
        self._pending = 0  # bytes of a request that is not whole
        self._loop = asyncio.get_running_loop()
        self._wire = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header_bytes)
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._peer_host = ""
        self._source = ""  # what counts as one host: see `limit_key`
        self._credentials: Credentials | None = None
        self._head: h11.Request | None = None
        self._body = bytearray()
        self._chunks = 0
        self._no_body = False  # the request that is answered is a HEAD
        self._idle = False  # waiting for the first byte of the next request
        self._write_paused = False
        self._closing = False  # nothing more is read; the last answer may still be on its way
        self._number = next(_numbers)

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self._all.connections.add(self)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._peer_host = peer[0]
            self._source = limit_key(peer[0])
            self._all.hosts[self._source] += 1
        else:
            self._credentials = _credentials(transport.get_extra_info("socket").fileno())
        self._arm(self._limits.request_s, self._too_slow)
        full = len(self._all.connections) > self._limits.connections
        too_many = self._all.hosts[self._source] > self._limits.connections_per_host
        if too_many or (full and not self._displace()):
            self._refuse(503, "too many connections")

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._idle:
            self._idle = False
            self._arm(self._limits.request_s, self._too_slow)
        self._wire.receive_data(data)
        self._keep(self._pending + len(data))
        if self._closing:
            return
        if self.task is not None or self._write_paused:
            # Pipelined: it waits its turn, and no more of it than one request is kept.
            if len(self._wire.trailing_data[0]) > self._limits.header_bytes:
                self._transport.pause_reading()
            return
        self._advance()

    def eof_received(self) -> bool:
        return False  # a caller that has stopped talking does not wait for an answer either

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self.task is None and not self._closing:
            self._next_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._disarm()
        self._keep(0)
        self._all.connections.discard(self)
        if self._source:
            self._all.hosts[self._source] -= 1
            if not self._all.hosts[self._source]:
                del self._all.hosts[self._source]
        if self.task is not None:
            self.task.cancel()

    # Steps of a connection's life

    def _keep(self, size: int) -> None:
        """Count the bytes of a request that is not whole. When all of them together are too many, who keeps
        most is closed, at the address that keeps most."""
        self._all.pending_bytes += size - self._pending
        self._pending = size
        if self._all.pending_bytes <= self._limits.pending_bytes:
            return
        kept: Counter[str] = Counter()
        for connection in self._all.connections:
            kept[connection._source] += connection._pending
        most = max(self._all.connections, key=lambda c: (kept[c._source], c._pending))
        most._keep(0)
        most.abort()

    def _displace(self) -> bool:
        """Close the oldest connection of the source that has the most, of those that are not being answered:
        one that has sent nothing of a request first."""
        waiting = [c for c in self._all.connections if c is not self and c._is_waiting()]
        if not waiting:
            return False
        min(waiting, key=lambda c: (-self._all.hosts[c._source], c._head is not None, c._number)).abort()
        return True

    def _is_waiting(self) -> bool:
        """Whether it has asked for nothing, or not yet said all of it."""
        return self.task is None and not self._closing

    def abort(self) -> None:
        self._closing = True
        self._disarm()
        if self.task is not None:
            self.task.cancel()
        self._transport.abort()

    def _advance(self) -> None:
        """Take events until a request is whole, or more bytes are needed."""
        while not self._closing:
            try:
                event = self._wire.next_event()
            except h11.RemoteProtocolError as error:
                self._refuse(error.error_status_hint, str(error))
                return
            if event is h11.NEED_DATA:
                if self._wire.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    self._transport.write(self._wire.send(go_on) or b"")
                return
            if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                self._close()
                return
            if isinstance(event, h11.Request):
                self._head = event
                self._no_body = event.method == b"HEAD"
            elif isinstance(event, h11.Data):
                self._body += event.data
                self._chunks += event.chunk_start
                if self._chunks > self._limits.body_chunks:
                    self._refuse(413, f"the body has more than {self._limits.body_chunks} chunks")
                    return
                if len(self._body) > self._limits.body_bytes:
                    self._refuse(413, f"the body is longer than {self._limits.body_bytes} bytes")
                    return
            elif isinstance(event, h11.EndOfMessage):
                self._start_handler()
                return

    def _start_handler(self) -> None:
        assert self._head is not None
        ask = Request(
            method=self._head.method.decode("ascii"),
            target=self._head.target.decode("ascii", "replace"),
            headers=header_texts(self._head.headers),
            body=bytes(self._body),
            peer_host=self._peer_host,
            credentials=self._credentials,
        )
        self._head = None
        self._body.clear()
        self._chunks = 0
        self._keep(len(self._wire.trailing_data[0]))
        self._disarm()  # how long a handler takes is its own affair
        self.task = self._loop.create_task(self._answer(ask), name=f"http {ask.method} {ask.path[:80]}")

    async def _answer(self, ask: Request) -> None:
        try:
            answer = await self._handler(ask)
        except Exception:
            log.exception("the handler of %s %s failed", ask.method, ask.path[:80])
            answer = Response.json({"error": "internal error (see the log)"}, 500)
        self.task = None
        if self._closing:
            return
        try:
            if answer.upgraded is not None:
                self._hand_over(answer, answer.upgraded)
                return
            self._send(answer)
        except h11.LocalProtocolError:
            log.exception("the answer to %s %s is no HTTP", ask.method, ask.path[:80])
            self.abort()
            return
        self._next_request()

    def _hand_over(self, answer: Response, upgraded: Upgraded) -> None:
        """The connection speaks another protocol from here on, and is no client's any more."""
        switching = h11.InformationalResponse(status_code=answer.status, headers=list(answer.headers))
        transport, early = self._transport, self._wire.trailing_data[0]
        transport.write(self._wire.send(switching) or b"")
        self.connection_lost(None)
        reader = StreamReader(limit=UPGRADED_BYTES)
        protocol = StreamReaderProtocol(reader)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if early:
            reader.feed_data(early)
        if self._write_paused:
            protocol.pause_writing()
        transport.resume_reading()
        upgraded(reader, StreamWriter(transport, protocol, reader, self._loop))

    def _next_request(self) -> None:
        """The answer is handed over: wait until it is taken, then for the next request."""
        if self._write_paused:
            self._arm(self._limits.write_s, self.abort)
            return
        if self._wire.our_state is not h11.DONE or self._wire.their_state is not h11.DONE:
            self._close()
            return
        self._wire.start_next_cycle()
        self._transport.resume_reading()
        self._idle = not self._wire.trailing_data[0]
        self._arm(self._limits.idle_s if self._idle else self._limits.request_s, self._too_slow)
        self._advance()

    def _send(self, answer: Response) -> None:
        length = () if answer.status == 204 else (("content-length", str(len(answer.body))),)
        date = ("date", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()))  # RFC 9110, section 6.6.1
        head = h11.Response(status_code=answer.status, headers=[*answer.headers, date, *length])
        data = self._wire.send(head) or b""
        self._transport.write(data + framed(self._wire, b"" if self._no_body else answer.body))

    def _refuse(self, status: int, why: str) -> None:
        """Answer, if the protocol still allows it, and close."""
        if self._wire.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            error = Response.json({"error": why}, status)
            self._send(Response(error.status, error.body, (*error.headers, ("connection", "close"))))
        if not self._transport.can_write_eof() or self._transport.is_closing():
            self._close()
            return
        # Closing while bytes arrive would reset the connection, and the answer with it: drain for a moment.
        self._closing = True
        self._transport.write_eof()
        self._arm(_LINGER_S, self.abort)

    def _too_slow(self) -> None:
        if self._idle or (self._head is None and not self._wire.trailing_data[0]):
            self._close()
        else:
            self._refuse(408, "the request took too long")

    def _close(self) -> None:
        """Close once what was written is taken, or `write_s` has passed."""
        self._closing = True
        self._arm(self._limits.write_s, self.abort)
        self._transport.close()

    def _arm(self, after_s: float, action: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self._loop.call_later(after_s, action)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _credentials(fd: int) -> Credentials:
    # By descriptor, since uvloop's stand-in for a socket has no getsockopt.
    with socket.socket(fileno=os.dup(fd)) as sock:
        return Credentials(
            *_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        )
