"""Websockets on plain non-blocking sockets: what every link, and our node, send and receive with (RFC 6455).

Why not a library's: here a message is received into, handed on from, and sent out of buffers that stay,
several buffers make one frame without being joined, and the sender knows at once what the kernel did not
take, which is what pacing and fair queues need (docs/decisions/0002-own-websocket.md).

This module has the sending half and a connection's end. `websocket_receiver` has the receiving half, on
`receive_buffers`, and `websocket_pacing` says when more may be sent. `websocket_client` opens a websocket,
`websocket_server` accepts them.

The handler is called synchronously, and what it gets is borrowed until it returns.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from websockets.speedups import apply_mask

from nconnect.io.errors import reason
from nconnect.io.net import tcp_info
from nconnect.io.net.tls_socket import TlsSocket
from nconnect.io.net.websocket_pacing import Pacing
from nconnect.io.net.websocket_receiver import FrameHandler, Receiver
from nconnect.model import Buffer
from nconnect.queueing.pacer import UNLIMITED_BYTES
from nconnect.wire.nkn import MAX_FRAME_BYTES
from nconnect.wire.websocket import NO_MASK, Opcode, close_payload, frame_header, parse_close

if sys.platform != "win32":
    import fcntl
    import termios

MAX_UNSENT_BYTES = 16 << 20  # a peer that does not read is cut off here; senders stop far below
BACKLOG_BYTES = 16 << 10  # a reader that keeps up has at most this much unread in its socket
_BINARY = Opcode.BINARY  # an enum's member costs a look-up in its class


class _Nobody:
    """The handler of a websocket that has none yet, or has closed: so that it leaves no cycle."""

    def on_text(self, data: memoryview) -> None: ...
    def on_binary(self, data: memoryview) -> None: ...
    def on_pong(self) -> None: ...
    def on_writable(self) -> None: ...
    def on_closed(self, why: str) -> None: ...


_nobody = _Nobody()


class WebSocket:
    """One open websocket. `send_*` never block: what the kernel does not take is copied and kept."""

    def __init__(
        self,
        sock: Any,
        *,
        client: bool,
        loop: asyncio.AbstractEventLoop,
        early: bytes = b"",
        host_header: str = "",
    ) -> None:
        self.handler: FrameHandler = _nobody
        self.mask = client
        self.writable = True
        self.rate: float | None = None  # bytes a second that it is paced at; None: faster than we are
        self.unsent_bytes = 0
        self.closed = False
        self.host_header = host_header
        self.peer_host: str = sock.getpeername()[0]
        self.tx_bytes = 0
        self.receiver = Receiver(sock, self, loop, client=client, early=early)
        self._sock = sock
        self._fd: int = sock.fileno()
        self._client = client
        self._loop = loop
        self._unsent: deque[memoryview] = deque()
        self._pacing: Pacing | None = None

    def start(self) -> None:
        """Begin to read. `handler` must be set."""
        self.receiver.start()

    def limit(self, keeps: int, on_skipped: Callable[[int], None]) -> None:
        """Until `lift_limit`: keep no more than `keeps` bytes of a message in memory (`Receiver.limit`)."""
        self.receiver.limit(keeps, on_skipped)

    def lift_limit(self) -> None:
        """Take messages of the network's size. Between two messages only."""
        self.receiver.limit(MAX_FRAME_BYTES, None)

    @property
    def rx_bytes(self) -> int:
        return self.receiver.rx_bytes

    @property
    def acked_bytes(self) -> int:
        """What the other side's kernel has confirmed so far; 0 where nobody counts it."""
        try:
            return tcp_info.read(self.socket).acked_bytes
        except OSError:
            return 0

    @property
    def socket(self) -> socket.socket:
        """The socket below, for its options and TCP_INFO."""
        sock: socket.socket = self._sock.socket if isinstance(self._sock, TlsSocket) else self._sock
        return sock

    def pace(self) -> None:
        """From now on hold back in `writable` what would only stand in the kernel's or the path's queue."""
        self._stop_pacing()
        self._pacing = Pacing(self.socket, self, self._loop)

    @property
    def room(self) -> int:
        """How many bytes may be sent now."""
        return UNLIMITED_BYTES if self._pacing is None else self._pacing.budget

    def is_backlogged(self) -> bool:
        """Whether more has arrived than we had time to read."""
        if self.closed or sys.platform == "win32":
            return False
        unread = fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4))
        return int.from_bytes(unread, sys.byteorder) > BACKLOG_BYTES

    # Sending

    def send_text(self, text: str) -> None:
        self.send_binary((text.encode(),), Opcode.TEXT)

    def ping(self) -> None:
        self.send_binary((), Opcode.PING)

    def close(self, code: int = 1000, why: str = "") -> None:
        """Say goodbye if the kernel takes it, and close. `on_closed` follows at once."""
        if not self.closed:
            self.send_binary((close_payload(code, why),), Opcode.CLOSE)
            self.lost(why or "closed")

    def send_binary(self, parts: Sequence[Buffer], opcode: Opcode = _BINARY) -> None:
        """Send one frame, binary unless told, made of `parts`; they may be reused when this returns."""
        if self.closed:
            return
        size = 0
        for part in parts:
            size += len(part)
        if not self._client:
            out = [frame_header(opcode, size, None), *parts]
        elif self.mask:
            key = os.urandom(4)
            out = [frame_header(opcode, size, key), apply_mask(b"".join(parts), key)]
        else:
            out = [frame_header(opcode, size, NO_MASK), *parts]
        total = len(out[0]) + size
        sent = 0
        if not self._unsent:
            try:
                sent = self._sock.sendmsg(out)
            except BlockingIOError:
                pass
            except OSError as error:
                self.lost(reason(error))
                return
            self.tx_bytes += sent
        if sent != total:
            self._keep(out, sent, total - sent)
        if self._pacing is not None:
            self._pacing.sent(total)

    def _keep(self, out: Sequence[Buffer], sent: int, rest: int) -> None:
        """Copy what the kernel did not take, and wait until it takes data again."""
        if self.unsent_bytes + rest > MAX_UNSENT_BYTES:
            self.lost("the other side does not read")
            return
        data = bytearray(rest)
        at = 0
        for part in out:
            if sent >= len(part):
                sent -= len(part)
                continue
            piece = memoryview(part)[sent:]
            sent = 0
            data[at : at + len(piece)] = piece
            at += len(piece)
        if not self._unsent:
            self.writable = False
            self._loop.add_writer(self._fd, self._on_writable)
        self._unsent.append(memoryview(data))
        self.unsent_bytes += rest

    def _on_writable(self) -> None:
        unsent = self._unsent
        try:
            while unsent:
                sent = self._sock.sendmsg([unsent[0]] if len(unsent) == 1 else list(islice(unsent, 64)))
                self.tx_bytes += sent
                self.unsent_bytes -= sent
                while sent:
                    first = unsent[0]
                    if sent < len(first):
                        unsent[0] = first[sent:]
                        break
                    sent -= len(first)
                    unsent.popleft()
        except BlockingIOError:
            return
        except OSError as error:
            self.lost(reason(error))
            return
        self._loop.remove_writer(self._fd)
        self.answer_ping()
        if self.closed or self._unsent:
            return
        pacing = self._pacing
        if pacing is None or pacing.budget:
            self.resume()
        elif pacing.timer is None:
            pacing.look()

    # What its parts tell it

    def resume(self) -> None:
        """More may be sent (`Pacing`)."""
        self.writable = True
        self.handler.on_writable()

    def answer_ping(self) -> None:
        """Don't queue pongs behind unsent data; answer the latest ping once the socket drains."""
        pinged = self.receiver.pinged
        if not self._unsent and pinged is not None:
            self.receiver.pinged = None
            self.send_binary((pinged,), Opcode.PONG)

    def answer_close(self, payload: memoryview) -> None:
        """Answer a close frame (section 5.5.1), and close."""
        code, why = parse_close(payload)
        self.send_binary((payload[:2],), Opcode.CLOSE)
        self.lost(f"the other side closed the websocket ({code} {why})".replace(" )", ")"))

    def refuse(self, why: str) -> None:
        """The other side broke the protocol: close with 1002 (section 7.4.1)."""
        self.send_binary((close_payload(1002),), Opcode.CLOSE)
        self.lost(why)

    def lost(self, why: str) -> None:
        """The connection is at its end."""
        if self.closed:
            return
        self.closed = True
        self.writable = False
        self.receiver.stop()
        if self._unsent:
            self._loop.remove_writer(self._fd)
            self._unsent.clear()
        self.unsent_bytes = 0
        self._stop_pacing()
        self._sock.close()
        handler, self.handler = self.handler, _nobody
        handler.on_closed(why)

    def _stop_pacing(self) -> None:
        if self._pacing is not None:
            self._pacing.stop()
            self._pacing = None
