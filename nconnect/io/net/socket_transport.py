"""An asyncio transport on a connection that is open already: a plain socket, or a TLS one.

asyncio's own transports take a plain socket and do the TLS handshake themselves. A port that serves both
websockets and HTTP has done the handshake, and read the first request, before it knows whose connection it
is.
"""

from __future__ import annotations

import asyncio
from typing import Any

from nconnect.model import Buffer

READ_BYTES = 64 * 1024  # more than a TLS record (RFC 8446: 16 KiB), so none is left in the TLS layer
HIGH_WATER_BYTES = 64 * 1024  # of unsent bytes: the protocol is told to pause


class SocketTransport(asyncio.Transport):
    """The transport of one `asyncio.Protocol`. `sock` has `recv_into`, `sendmsg`, `fileno`, `close`,
    `getpeername`, and does not block: a `socket.socket` or a `TlsSocket`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: Any, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": sock.getpeername()})
        self._loop = loop
        self._sock = sock
        self._protocol = protocol
        self._unsent = bytearray()
        self._reading = False
        self._paused = False  # the protocol was told to pause
        self._closing = False  # nothing more is read; what is unsent still goes out
        self._lost = False

    def start(self, received: bytes) -> None:
        """Begin, with the bytes that were read before."""
        self._protocol.connection_made(self)
        self.resume_reading()
        if received and not self._closing:
            self._protocol.data_received(received)
        self._loop.call_soon(self._on_readable)  # the TLS layer may hold the rest of a record

    # asyncio.Transport

    def is_closing(self) -> bool:
        return self._closing

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())

    def resume_reading(self) -> None:
        if not self._reading and not self._closing:
            self._reading = True
            self._loop.add_reader(self._sock.fileno(), self._on_readable)

    def write(self, data: Buffer) -> None:
        if self._lost:
            return
        self._unsent += data
        if len(self._unsent) == len(data):
            self._on_writable()
        if self._unsent and not self._lost:
            self._loop.add_writer(self._sock.fileno(), self._on_writable)
            if len(self._unsent) > HIGH_WATER_BYTES and not self._paused:
                self._paused = True
                self._protocol.pause_writing()

    def close(self) -> None:
        if not self._closing:
            self.pause_reading()
            self._closing = True
            if not self._unsent:
                self._loop.call_soon(self._end, None)

    def abort(self) -> None:
        self.pause_reading()
        self._closing = True
        self._loop.call_soon(self._end, None)

    # What the loop calls

    def _on_readable(self) -> None:
        if not self._reading or self._lost:
            return
        buffer = bytearray(READ_BYTES)
        try:
            size = self._sock.recv_into(memoryview(buffer))
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        if size:
            self._protocol.data_received(bytes(buffer[:size]))
        else:
            self._protocol.eof_received()
            self.close()

    def _on_writable(self) -> None:
        try:
            while self._unsent:
                # A copy: the buffer cannot be cut while a view of it is out.
                sent = self._sock.sendmsg([bytes(self._unsent)])
                del self._unsent[:sent]
        except BlockingIOError:
            return
        except OSError as error:
            self._loop.call_soon(self._end, error)
            self._unsent.clear()
        self._loop.remove_writer(self._sock.fileno())
        if self._closing:
            self._loop.call_soon(self._end, None)
        elif self._paused:
            self._paused = False
            self._protocol.resume_writing()

    def _end(self, error: OSError | None) -> None:
        if self._lost:
            return
        self.pause_reading()
        self._closing = self._lost = True
        self._loop.remove_writer(self._sock.fileno())
        self._protocol.connection_lost(error)
        self._sock.close()
