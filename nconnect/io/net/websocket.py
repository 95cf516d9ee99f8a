"""Websockets on plain non-blocking sockets: what every link, and our node, send and receive with.

Why not a library's: here a message is received into, handed on from, and sent out of buffers that stay,
several buffers make one frame without being joined, and the sender knows at once what the kernel did not
take, which is what pacing and fair queues need (docs/decisions/0002-own-websocket.md).

`websocket_client` opens one, `websocket_server` accepts them.

The handler is called synchronously, and what it gets is borrowed until it returns.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sys
import termios
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Protocol

from websockets.speedups import apply_mask

from nconnect.errors import RemoteProtocolError
from nconnect.io.clock import boottime
from nconnect.io.errors import reason
from nconnect.io.net import tcp_info
from nconnect.io.net.congestion import CongestionControl
from nconnect.io.net.receive_buffers import ReceiveBuffers
from nconnect.io.net.tls_socket import TlsSocket
from nconnect.model import Buffer
from nconnect.queueing.pacer import UNLIMITED_BYTES, Pacer
from nconnect.queueing.turns import MESSAGE_WORK, Share
from nconnect.wire.nkn import MAX_FRAME_BYTES
from nconnect.wire.websocket import (
    NO_MASK,
    Assembler,
    Opcode,
    close_payload,
    frame_header,
    lone_message,
    parse_close,
    parse_header,
)

MAX_LARGE_BUFFERS = 16  # connections that may hold such a buffer while half a frame is in it
MAX_FRAMES_A_TURN = (
    256  # guessed: then the others have theirs, whatever lies in the buffer: some milliseconds
)
MAX_UNSENT_BYTES = 16 << 20  # a peer that does not read is cut off here; senders stop far below
SAMPLE_INTERVAL_S = (
    0.015  # how often the kernel is asked about a connection that sends (the pacer: 10 to 20 ms)
)
SPARSE_BYTES = (
    4096  # less was sent in that time: no queue worth knowing of, and the kernel is asked less often
)
SPARSE_INTERVAL_S = 0.1  # below what the pacer takes for a pause
RECEIVER_LIMITED = 0.1  # guessed: held back by the receiver's window for more of the time, it is the slow one
BACKLOG_BYTES = 16 << 10  # what may lie unread in the socket of one who keeps up
_BINARY = Opcode.BINARY  # an enum's member costs a look-up in its class
_SMALL_BYTES = 4096  # guessed: half a frame under this is not worth a large buffer


class FrameHandler(Protocol):
    """What a websocket tells its owner; every buffer is borrowed until the call returns."""

    def on_text(self, data: memoryview) -> None: ...
    def on_binary(self, data: memoryview) -> None: ...
    def on_pong(self) -> None: ...
    def on_writable(self) -> None:
        """The socket takes data again after `writable` was False."""

    def on_closed(self, why: str) -> None:
        """Called once, last."""


class _Nobody:
    """The handler of a websocket that has none yet, or has closed: so that it leaves no cycle."""

    def on_text(self, data: memoryview) -> None: ...
    def on_binary(self, data: memoryview) -> None: ...
    def on_pong(self) -> None: ...
    def on_writable(self) -> None: ...
    def on_closed(self, why: str) -> None: ...


_buffers = ReceiveBuffers()
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
        self.share: Share | None = None  # of the loop's turns; None: `MAX_FRAMES_A_TURN` alone
        self.mask = client
        self.writable = True
        self.rate: float | None = None  # bytes a second that it is paced at; None: faster than we are
        self.unsent_bytes = 0
        self.closed = False
        self.host_header = host_header
        self.peer_host: str = sock.getpeername()[0]
        self.tx_bytes = 0
        self.rx_bytes = 0
        self._sock = sock
        self._fd: int = sock.fileno()
        self._client = client
        self._loop = loop
        self._unsent: deque[memoryview] = deque()
        self._early = early
        self._buffer: bytearray | None = None  # holds [start:filled], the frame that is not whole yet
        self._view: memoryview  # of all of it
        self._lent = False
        self._start = 0
        self._filled = 0
        self._pausing = False  # it is not our turn: nothing is read
        self._has_rest = False  # there may be whole frames in the buffer
        self._kept = 0  # bytes of a message that is not whole, as `share` counts them
        self._assembler = Assembler(MAX_FRAME_BYTES)
        self._keeps = MAX_FRAME_BYTES  # a larger frame is skipped
        self._on_skipped: Callable[[int], None] | None = None
        self._skip = 0  # bytes of a frame that is skipped, which are still to come
        self._pinged: bytes | None = None  # what the newest unanswered ping said
        self._pacer: Pacer | None = None
        self._pace_timer: asyncio.TimerHandle | None = None
        self._sampled_at = 0.0
        self._unsampled_bytes = 0  # sent since
        self._receiver_limited_s = 0.0
        self._congestion = CongestionControl()
        self._tls = isinstance(sock, TlsSocket)

    def start(self) -> None:
        """Begin to read. `handler` must be set."""
        self._loop.add_reader(self._fd, self._on_readable)
        if self._early:
            early, self._early = self._early, b""
            self._buffer, self._lent = bytearray(early), False
            self._view = memoryview(self._buffer)
            self._filled = len(early)
            self._take_frames()
        if self._tls:
            self._loop.call_soon(self._on_readable)  # what came with the TLS handshake wakes no selector

    def limit(self, keeps: int, on_skipped: Callable[[int], None]) -> None:
        """Until `lift_limit`: keep no more than `keeps` bytes of a message in memory.

        Of a larger frame nothing is kept, and `on_skipped` is told its size. A message that grows larger in
        fragments closes the connection.
        """
        self._keeps, self._on_skipped = keeps, on_skipped
        self._assembler = Assembler(keeps)

    def lift_limit(self) -> None:
        """Take messages of the network's size. Between two messages only."""
        self._keeps, self._on_skipped = MAX_FRAME_BYTES, None
        self._assembler = Assembler(MAX_FRAME_BYTES)

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
        sock: socket.socket = self._sock.socket if self._tls else self._sock
        return sock

    # Sending

    def pace(self) -> None:
        """From now on hold back in `writable` what would only stand in the kernel's or the path's queue."""
        self._pacer = Pacer(boottime())

    @property
    def room(self) -> int:
        """How many bytes may be sent now."""
        return UNLIMITED_BYTES if self._pacer is None else self._pacer.budget(boottime())

    def is_backlogged(self) -> bool:
        """Whether more has arrived than we had time to read."""
        if self.closed:
            return False
        unread = fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4))
        return int.from_bytes(unread, sys.byteorder) > BACKLOG_BYTES

    def send_text(self, text: str) -> None:
        self._send(Opcode.TEXT, (text.encode(),))

    def ping(self) -> None:
        self._send(Opcode.PING, ())

    def close(self, code: int = 1000, why: str = "") -> None:
        """Say goodbye if the kernel takes it, and close. `on_closed` follows at once."""
        if not self.closed:
            self._send(Opcode.CLOSE, (close_payload(code, why),))
            self._closed(why or "closed")

    def _send(self, opcode: Opcode, parts: Sequence[Buffer]) -> None:
        self.send_binary(parts, opcode)

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
                self._closed(reason(error))
                return
            self.tx_bytes += sent
            if sent == total:
                if self._pacer is not None:
                    self._pace(self._pacer, total)
                return
        self._keep(out, sent, total - sent)
        if self._pacer is not None:
            self._pace(self._pacer, total)

    def _pace(self, pacer: Pacer, sent: int) -> None:
        """Account for what was sent, and hold back when that is enough for now."""
        now = boottime()
        pacer.sent(now, sent)
        self._unsampled_bytes += sent
        since_s = now - self._sampled_at
        if since_s >= SAMPLE_INTERVAL_S and (
            self._unsampled_bytes >= SPARSE_BYTES
            or since_s >= SPARSE_INTERVAL_S
            or pacer.rate is not None
            or self._unsent
        ):
            self._sample(pacer, now)
        wait_s = SAMPLE_INTERVAL_S
        if pacer.rate is not None and not self._unsent and not pacer.budget(now):
            self.writable = False
            wait_s = min(wait_s, pacer.next_at(now) - now)
            if self._pace_timer is not None:
                self._pace_timer.cancel()
                self._pace_timer = None
        if self._pace_timer is None and (self._unsent or pacer.rate is not None):
            self._pace_timer = self._loop.call_later(wait_s, self._on_pace_timer)

    def _sample(self, pacer: Pacer, now: float) -> None:
        since_s, self._sampled_at, self._unsampled_bytes = now - self._sampled_at, now, 0
        try:
            info = tcp_info.read(self.socket)
        except OSError:
            return  # gone; the next send or receive says so
        self._congestion.look(self.socket, info)
        limited_s = info.receiver_limited_s - self._receiver_limited_s
        self._receiver_limited_s = info.receiver_limited_s
        pacer.sample(
            now,
            acked_bytes=info.acked_bytes,
            in_flight_bytes=info.in_flight_bytes,
            unsent_bytes=info.unsent_bytes + self.unsent_bytes,
            rtt_s=info.rtt_s,
            min_rtt_s=info.min_rtt_s,
            busy_s=info.busy_s,
            limited_elsewhere=limited_s > RECEIVER_LIMITED * since_s,
        )
        self.rate = pacer.rate

    def _on_pace_timer(self) -> None:
        self._pace_timer = None
        pacer = self._pacer
        if pacer is None or self.closed:
            return
        now = boottime()
        if now >= self._sampled_at + SAMPLE_INTERVAL_S:
            self._sample(pacer, now)
        if self._unsent or not pacer.budget(now):
            wait_s = SAMPLE_INTERVAL_S if self._unsent else min(SAMPLE_INTERVAL_S, pacer.next_at(now) - now)
            self._pace_timer = self._loop.call_later(wait_s, self._on_pace_timer)
        elif not self.writable:
            self.writable = True
            self.handler.on_writable()

    def _keep(self, out: Sequence[Buffer], sent: int, rest: int) -> None:
        """Copy what the kernel did not take, and wait until it takes data again."""
        if self.unsent_bytes + rest > MAX_UNSENT_BYTES:
            self._closed("the other side does not read")
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
            self._closed(reason(error))
            return
        self._loop.remove_writer(self._fd)
        if self._pinged is not None:
            self._answer_ping()
            if self.closed or self._unsent:
                return
        if self._pacer is None or self._pacer.budget(boottime()):
            self.writable = True
            self.handler.on_writable()
        elif self._pace_timer is None:
            self._on_pace_timer()

    # Receiving

    def _on_readable(self) -> None:
        if self.closed or self._pausing:  # since `call_soon`
            return
        share = self.share
        if share is not None and not share.may_go_on():
            self._pause()
            return
        fresh = None
        if self._buffer is None:
            self._buffer, self._view = fresh, room = _buffers.take()
            self._lent = True
            self._start = self._filled = 0
        else:
            room = self._view[self._filled :]
        try:
            size = self._sock.recv_into(room if share is None else room[: share.limit])
        except BlockingIOError:
            self._release_if_empty()
            return
        except OSError as error:
            self._closed(reason(error))
            return
        if not size:
            self._closed("the other side closed the connection")
            return
        self.rx_bytes += size
        self._filled += size
        if share is not None:
            share.charge(size)
        if fresh is not None and not self._assembler.is_busy and not self._tls and not self._skip:
            # The short way of a small message: what it does not touch need not come into the cache.
            at = lone_message(fresh, size, masked=not self._client)
            if at:
                self._buffer = None
                if share is not None:
                    share.charge(MESSAGE_WORK)
                try:
                    self.handler.on_binary(room[at:size])
                finally:
                    _buffers.give_back(fresh, room)
                return
        self._take_frames()
        if self._tls and not self.closed and self._sock.pending():
            self._loop.call_soon(self._on_readable)

    def _take_frames(self) -> None:
        """Hand on every whole frame in the buffer; arrange room for the one that is not whole."""
        view = self._view
        share = self.share
        needed = 0
        frames, most = 0, MAX_FRAMES_A_TURN
        limit = 0
        if share is not None:
            limit = share.limit
            most = min(most, max(0, limit - share.spent) // MESSAGE_WORK + 1)
        try:
            if self._skip:
                self._skip_on()
            while self._start < self._filled:
                if frames == most or (share is not None and frames and share.spent >= limit):
                    self._has_rest = True
                    self._pause()
                    return
                frames += 1
                header = parse_header(view[self._start : self._filled], max_payload=MAX_FRAME_BYTES)
                if header is None:
                    needed = 14  # the longest header
                    break
                if header.masked is self._client:
                    raise RemoteProtocolError("a frame is masked where it must not be, or the reverse")
                begin = self._start + header.header_size
                end = begin + header.payload_size
                if header.payload_size > self._keeps:
                    self._skip = end - self._start
                    self._skip_on()
                    if self._on_skipped is not None:
                        self._on_skipped(header.payload_size)
                    if self.closed:
                        return
                    continue
                if end > self._filled:
                    needed = end - self._start
                    break
                self._start = end
                payload = view[begin:end]
                if header.masked and header.mask != NO_MASK:
                    payload = memoryview(apply_mask(payload, header.mask))
                if header.opcode is _BINARY and header.fin and not self._assembler.is_busy:
                    self.handler.on_binary(payload)  # the data path: a message in one frame
                else:
                    self._on_frame(header.opcode, header.fin, payload)
                if self.closed:
                    return
        except RemoteProtocolError as error:
            self._send(Opcode.CLOSE, (close_payload(1002),))
            self._closed(str(error))
            return
        finally:
            if share is not None:
                share.charge(frames * MESSAGE_WORK)
        if self._start == self._filled:
            self._release_if_empty()
        else:
            self._make_room(needed)
        if share is not None and (self._kept or self._buffer is not None or self._assembler.is_busy):
            self._count_kept(share)
            if self.closed:
                return
        if self._pinged is not None:
            self._answer_ping()

    def _skip_on(self) -> None:
        """Pass over what has come of a frame that is not wanted."""
        size = min(self._skip, self._filled - self._start)
        self._start += size
        self._skip -= size

    def _pause(self) -> None:
        """Who sends much does not keep the loop from the others: go on in a later turn.

        Frames that were read already come before other connections of the same source, so that one of
        these at most holds a buffer meanwhile.
        """
        self._pausing = True
        self._loop.remove_reader(self._fd)
        if self.share is None:
            self._loop.call_soon(self._go_on)
        else:
            self.share.wait(self._go_on, first=self._has_rest)

    def _go_on(self) -> None:
        self._pausing = False
        if self.closed:
            return
        self._loop.add_reader(self._fd, self._on_readable)
        if not self._has_rest:
            self._on_readable()
            return
        self._has_rest = False
        self._take_frames()
        if self.share is not None and self.share.waiting and not self.closed and not self._pausing:
            self._pause()  # other connections of this source wait: behind those
        elif self._tls and not self.closed and self._sock.pending():
            self._loop.call_soon(self._on_readable)

    def _on_frame(self, opcode: Opcode, fin: bool, payload: memoryview) -> None:
        handler = self.handler
        if opcode is Opcode.PING:
            self._pinged = bytes(payload)  # answered once for all that came together (section 5.5.3)
        elif opcode is Opcode.PONG:
            handler.on_pong()
        elif opcode is Opcode.CLOSE:
            code, reason = parse_close(payload)
            self._send(Opcode.CLOSE, (payload[:2],))
            self._closed(f"the other side closed the websocket ({code} {reason})".replace(" )", ")"))
        else:
            message = self._assembler.add(opcode, fin, payload)
            if message is not None:
                (handler.on_binary if message[0] is Opcode.BINARY else handler.on_text)(
                    memoryview(message[1])
                )

    def _answer_ping(self) -> None:
        """Who does not read gets no more pongs to read, until he does."""
        if not self._unsent and self._pinged is not None:
            pinged, self._pinged = self._pinged, None
            self._send(Opcode.PONG, (pinged,))

    def _make_room(self, needed: int) -> None:
        """Keep the half frame where it is if the rest fits behind it, else move it to where it does.

        A lent buffer is kept for frames that are worth it, and by a bounded number of connections. All other
        half frames lie in buffers that grow with what really arrives: an announced size alone costs nothing.
        """
        buffer = self._buffer
        assert buffer is not None
        start, have = self._start, self._filled - self._start
        may_lend = self._on_skipped is None and _buffers.lent <= MAX_LARGE_BUFFERS
        if self._lent and _SMALL_BYTES < needed <= len(buffer) and may_lend:
            if start + needed > len(buffer):
                self._view[:have] = self._view[start : self._filled]
                self._start, self._filled = 0, have
            return
        if not self._lent and start == 0 and have < len(buffer):
            return
        target = bytearray(min(needed, max(1024, 2 * have)))
        target[:have] = self._view[start : self._filled]
        if self._lent:
            _buffers.give_back(buffer, self._view)
            self._lent = False
        self._buffer, self._view = target, memoryview(target)
        self._start, self._filled = 0, have

    def _count_kept(self, share: Share) -> None:
        """Tell our share of the half message; close when its source keeps too much."""
        own = 0 if self._buffer is None or self._lent else len(self._buffer)
        kept = own + self._assembler.size_bytes
        more, self._kept = kept - self._kept, kept
        if more and not share.keep(more):
            self.close(1008, "too many half messages")

    def _release_if_empty(self) -> None:
        if self._buffer is not None and self._start == self._filled:
            if self._lent:
                _buffers.give_back(self._buffer, self._view)
            self._buffer, self._lent = None, False

    def _closed(self, why: str) -> None:
        if self.closed:
            return
        self.closed = True
        self.writable = False
        self._loop.remove_reader(self._fd)
        if self._unsent:
            self._loop.remove_writer(self._fd)
            self._unsent.clear()
        self.unsent_bytes = 0
        self._start = self._filled = 0
        self._release_if_empty()
        if self.share is not None:
            self.share.keep(-self._kept)
        self._kept = 0
        if self._pace_timer is not None:
            self._pace_timer.cancel()
        self._sock.close()
        handler, self.handler = self.handler, _nobody
        handler.on_closed(why)
