"""The receiving half of a websocket: reads, hands on every whole frame, and keeps the half one (RFC 6455).

A turn of the loop is shared: a connection that sends much continues in a later one (`MAX_FRAMES_A_TURN`,
`Receiver.share`).
What goes out because of what came in (pongs, the close frame) is for the owner to send.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from websockets.speedups import apply_mask

from nconnect.errors import RemoteProtocolError
from nconnect.io.errors import reason
from nconnect.io.net.receive_buffers import POOL, ReceiveBuffer
from nconnect.io.net.tls_socket import TlsSocket
from nconnect.queueing.turns import MESSAGE_WORK, Share
from nconnect.wire.nkn import MAX_FRAME_BYTES
from nconnect.wire.websocket import (
    MAX_HEADER_BYTES,
    NO_MASK,
    Assembler,
    Opcode,
    lone_message,
    parse_header,
)

MAX_FRAMES_A_TURN = 256  # guessed, some milliseconds: then others have theirs, whatever lies in the buffer
_BINARY = Opcode.BINARY  # an enum's member costs a look-up in its class


class FrameHandler(Protocol):
    """What a websocket tells its owner; every buffer is borrowed until the call returns."""

    def on_text(self, data: memoryview) -> None: ...
    def on_binary(self, data: memoryview) -> None: ...
    def on_pong(self) -> None: ...
    def on_writable(self) -> None:
        """The socket takes data again after `writable` was False."""

    def on_closed(self, why: str) -> None:
        """Called once, last."""


class ReceivingSocket(Protocol):
    """The websocket, as its receiving half knows it."""

    handler: FrameHandler

    def answer_ping(self) -> None:
        """Answer `Receiver.pinged`, once for all pings that came together (section 5.5.3)."""

    def answer_close(self, payload: memoryview) -> None: ...
    def refuse(self, why: str) -> None:
        """The other side broke the protocol."""

    def close(self, code: int, why: str) -> None: ...
    def lost(self, why: str) -> None: ...


class Receiver:
    """One connection's. Between two turns it holds a buffer only while half a frame lies in it."""

    __slots__ = (
        "_assembler", "_early", "_fd", "_has_rest", "_is_client", "_is_tls", "_keeps", "_kept", "_loop",
        "_on_skipped", "_owner", "_pausing", "_skip", "_sock", "closed", "pinged", "received",
        "rx_bytes", "share",
    )  # fmt: skip

    def __init__(
        self,
        sock: Any,
        owner: ReceivingSocket,
        loop: asyncio.AbstractEventLoop,
        *,
        client: bool,
        early: bytes,
    ) -> None:
        """`early`: what was read from the socket behind the upgrade."""
        self.share: Share | None = None  # of the loop's turns; None: `MAX_FRAMES_A_TURN` alone
        self.rx_bytes = 0
        self.closed = False
        self.pinged: bytes | None = None  # what the newest unanswered ping said
        self.received = ReceiveBuffer()
        self._owner = owner
        self._sock = sock
        self._fd: int = sock.fileno()
        self._loop = loop
        self._is_client = client
        self._is_tls = isinstance(sock, TlsSocket)
        self._early = early
        self._pausing = False  # it is not our turn: nothing is read
        self._has_rest = False  # there may be whole frames in the buffer
        self._kept = 0  # bytes of a message that is not whole, as `share` counts them
        self._assembler = Assembler(MAX_FRAME_BYTES)
        self._keeps = MAX_FRAME_BYTES  # a larger frame is skipped
        self._on_skipped: Callable[[int], None] | None = None
        self._skip = 0  # bytes of a frame that is skipped, which are still to come

    def start(self) -> None:
        self._loop.add_reader(self._fd, self.on_readable)
        if self._early:
            early, self._early = self._early, b""
            self.received.hold(early)
            self._take_frames()
        if self._is_tls:
            self._loop.call_soon(self.on_readable)  # what came with the TLS handshake wakes no selector

    def stop(self) -> None:
        """Read no more, and forget what was read and the owner."""
        self.closed = True
        self._loop.remove_reader(self._fd)
        self.received.start = self.received.filled = 0
        self.received.release_if_empty()
        if self.share is not None:
            self.share.keep(-self._kept)
        self._kept = 0
        del self._owner  # no cycle of references stays

    def limit(self, keeps: int, on_skipped: Callable[[int], None] | None) -> None:
        """Keep no more than `keeps` bytes of a message in memory. Between two messages only.

        Of a larger frame nothing is kept, and `on_skipped` is told its size. A message that grows larger in
        fragments closes the connection.
        """
        self._keeps, self._on_skipped = keeps, on_skipped
        self._assembler = Assembler(keeps)

    def on_readable(self) -> None:
        if self.closed or self._pausing:  # since `call_soon`
            return
        share = self.share
        if share is not None and not share.may_go_on():
            self._pause()
            return
        received = self.received
        fresh = None
        if received.buffer is None:
            fresh = received.borrow()
            room = received.view
        else:
            room = received.view[received.filled :]
        try:
            size = self._sock.recv_into(room if share is None else room[: share.limit])
        except BlockingIOError:
            received.release_if_empty()
            return
        except OSError as error:
            self._owner.lost(reason(error))
            return
        if not size:
            self._owner.lost("the other side closed the connection")
            return
        self.rx_bytes += size
        received.filled += size
        if share is not None:
            share.charge(size)
        if fresh is not None and not self._assembler.is_busy and not self._is_tls and not self._skip:
            # The short way of a small message: what it does not touch need not come into the cache.
            at = lone_message(fresh, size, masked=not self._is_client)
            if at:
                received.buffer = None
                if share is not None:
                    share.charge(MESSAGE_WORK)
                try:
                    self._owner.handler.on_binary(room[at:size])
                finally:
                    POOL.give_back(fresh, room)
                return
        self._take_frames()
        if self._is_tls and not self.closed and self._sock.pending():
            self._loop.call_soon(self.on_readable)

    def _take_frames(self) -> None:
        """Hand on every whole frame in the buffer; arrange room for the one that is not whole."""
        owner, received, share = self._owner, self.received, self.share
        view = received.view
        needed = 0
        frames, most = 0, MAX_FRAMES_A_TURN
        limit = 0
        if share is not None:
            limit = share.limit
            most = min(most, max(0, limit - share.spent) // MESSAGE_WORK + 1)
        try:
            if self._skip:
                self._skip_on()
            while received.start < received.filled:
                if frames == most or (share is not None and frames and share.spent >= limit):
                    self._has_rest = True
                    self._pause()
                    return
                frames += 1
                header = parse_header(view[received.start : received.filled], max_payload=MAX_FRAME_BYTES)
                if header is None:
                    needed = MAX_HEADER_BYTES
                    break
                if header.masked is self._is_client:
                    raise RemoteProtocolError("a frame is masked where it must not be, or the reverse")
                begin = received.start + header.header_size
                end = begin + header.payload_size
                if header.payload_size > self._keeps:
                    self._skip = end - received.start
                    self._skip_on()
                    if self._on_skipped is not None:
                        self._on_skipped(header.payload_size)
                    if self.closed:
                        return
                    continue
                if end > received.filled:
                    needed = end - received.start
                    break
                received.start = end
                payload = view[begin:end]
                if header.masked and header.mask != NO_MASK:
                    payload = memoryview(apply_mask(payload, header.mask))
                if header.opcode is _BINARY and header.fin and not self._assembler.is_busy:
                    owner.handler.on_binary(payload)  # the data path: a message in one frame
                else:
                    self._on_frame(header.opcode, header.fin, payload)
                if self.closed:
                    return
        except RemoteProtocolError as error:
            owner.refuse(str(error))
            return
        finally:
            if share is not None:
                share.charge(frames * MESSAGE_WORK)
        if received.start == received.filled:
            received.release_if_empty()
        else:
            received.make_room(needed, may_lend=self._on_skipped is None)
        if share is not None and (self._kept or received.buffer is not None or self._assembler.is_busy):
            self._count_kept(share)
            if self.closed:
                return
        if self.pinged is not None:
            owner.answer_ping()

    def _skip_on(self) -> None:
        """Pass over what has come of a frame that is not wanted."""
        received = self.received
        size = min(self._skip, received.filled - received.start)
        received.start += size
        self._skip -= size

    def _pause(self) -> None:
        """Continue in a later turn of the loop, so that a connection that sends much does not delay others.

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
        self._loop.add_reader(self._fd, self.on_readable)
        if not self._has_rest:
            self.on_readable()
            return
        self._has_rest = False
        self._take_frames()
        if self.share is not None and self.share.waiting and not self.closed and not self._pausing:
            self._pause()  # other connections of this source wait: behind those
        elif self._is_tls and not self.closed and self._sock.pending():
            self._loop.call_soon(self.on_readable)

    def _on_frame(self, opcode: Opcode, fin: bool, payload: memoryview) -> None:
        handler = self._owner.handler
        if opcode is Opcode.PING:
            self.pinged = bytes(payload)
        elif opcode is Opcode.PONG:
            handler.on_pong()
        elif opcode is Opcode.CLOSE:
            self._owner.answer_close(payload)
        else:
            message = self._assembler.add(opcode, fin, payload)
            if message is not None:
                (handler.on_binary if message[0] is Opcode.BINARY else handler.on_text)(
                    memoryview(message[1])
                )

    def _count_kept(self, share: Share) -> None:
        """Tell our share of the half message; close when its source keeps too much."""
        kept = self.received.own_bytes + self._assembler.size_bytes
        more, self._kept = kept - self._kept, kept
        if more and not share.keep(more):
            self._owner.close(1008, "too many half messages")
