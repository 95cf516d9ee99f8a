"""An open direct TCP stream, as a link of the driver's.

After its opening a stream is a `WebSocket` without an upgrade, so that both sides receive, send and pace as
they do to a node. Each message is what an NKN message would carry (docs/protocol.md, "Direct TCP stream").
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from nconnect.io.net.listening import is_orphan
from nconnect.io.net.websocket import WebSocket
from nconnect.model import Buffer, Endpoint
from nconnect.wire.nkn import InboundMessage

UNANSWERED_MS = 10_000  # guessed: what was sent is confirmed by then, or the connection is lost (RFC 5482)


class StreamLink:
    """An open stream, as what the driver sends and receives by (`nconnect.daemon.seams.DriverLink`)."""

    signs = False

    def __init__(self, peer: str, sock: socket.socket, *, is_ours: bool, early: bytes = b"") -> None:
        """`peer`: the NKN address of who proved its key. `is_ours`: this side has dialled. `early`: what came
        behind the opening.

        Raises OSError when the connection is gone; the socket is then the caller's to close.
        """
        self.peer = peer
        self.is_ours = is_ours
        host, port, *_ = sock.getpeername()
        self.remote = Endpoint(ip_address(host.partition("%")[0]), port)
        self.on_message: Callable[[InboundMessage], None] = _ignore
        self.on_writable: Callable[[], None] = _do_nothing
        self.on_lost: Callable[[str], None] = _ignore  # told why, once; not after `close`
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MS)
        loop = asyncio.get_running_loop()
        websocket = self._websocket = WebSocket(sock, client=is_ours, loop=loop, early=early)
        websocket.mask = False
        websocket.handler = self

    def start(self) -> None:
        """Begin to read. The callbacks must be set."""
        self._websocket.pace()
        self._websocket.start()

    def close(self) -> None:
        """Close it now. May be called twice."""
        self.on_lost = _ignore
        self._websocket.lost("closed")

    @property
    def closed(self) -> bool:
        return self._websocket.closed

    @property
    def writable(self) -> bool:
        """Whether the kernel took all that was sent so far."""
        return self._websocket.writable

    @property
    def room(self) -> int:
        """How many bytes it takes now without a queue standing in it; one packet may exceed it."""
        return self._websocket.room

    @property
    def rate(self) -> float | None:
        """Bytes a second that it is paced at; None when it is faster than we are."""
        return self._websocket.rate

    def is_clear(self) -> bool:
        """Whether what is sent now leaves at once."""
        return self._websocket.writable and self._websocket.rate is None

    def is_orphan(self) -> bool:
        """Whether the machine no longer has the address that the stream leaves from."""
        return not self._websocket.closed and is_orphan(self._websocket.socket)

    def is_backlogged(self) -> bool:
        """Whether more has arrived than we had time to read."""
        return self._websocket.is_backlogged()

    def send(self, dest: str, parts: Sequence[Buffer]) -> bool:
        """One message made of `parts`, which may be reused when this returns; False when it is closed.

        `dest` is of no use here: a stream leads to one peer.
        """
        if self._websocket.closed:
            return False
        self._websocket.send_binary(parts)
        return True

    # What the websocket tells (`FrameHandler`)

    def on_binary(self, data: memoryview) -> None:
        self.on_message(InboundMessage(self.peer, data))

    def on_text(self, data: memoryview) -> None:
        """No message of ours is a text."""

    def on_pong(self) -> None:
        """Nobody asks: the lane is judged by what comes on it."""

    def on_closed(self, why: str) -> None:
        self.on_lost(why)


def _ignore(_: object) -> None: ...
def _do_nothing() -> None: ...
