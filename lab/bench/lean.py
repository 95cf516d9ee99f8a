"""Runs a `nkn.link.Link` with less work than the daemon does, for thousands of clients in one process.

The state machine is the one of every client, and so are schedule, login and pings. Around it are neither
tasks nor an HTTP library: a socket that connects, a request, the beginning of the answer. IPv4, one seed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from nconnect.errors import NconnectError, RemoteProtocolError
from nconnect.io.clock import boottime
from nconnect.io.errors import reason
from nconnect.io.net.websocket import WebSocket
from nconnect.io.nkn.link import LinkHandler
from nconnect.model import Buffer
from nconnect.nkn.link import Link, refuse_unusable
from nconnect.nkn.outputs import (
    Connect,
    Disconnect,
    LinkDown,
    LinkUp,
    Resolve,
    SendBinary,
    SendPing,
    SendText,
    Waived,
)
from nconnect.wire import jsonrpc
from nconnect.wire.jsonrpc import NodeInfo, split_addr

MAX_ANSWER_BYTES = 64 << 10
_HEAD_END = b"\r\n\r\n"
_UPGRADE = (
    "GET / HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_POST = (
    "POST / HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    "Content-Length: {}\r\n\r\n"
)


class LeanLink:
    """One link, like `LinkRunner`. All calls must come from the loop."""

    __slots__ = ("_asking", "_handler", "_loop", "_timer", "_timer_at", "_websocket", "link")

    def __init__(self, link: Link, handler: LinkHandler) -> None:
        self.link = link
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._asking: _Exchange | None = None  # a resolve or a connect, never both
        self._websocket: WebSocket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def start(self) -> None:
        self._tell(self.link.start)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._abandon()

    def send(self, dest: str, parts: Sequence[Buffer]) -> bool:
        """Send one message; False when the link is down and it was dropped."""
        if self._websocket is None or self.link.prefixes is None:
            return False
        size = sum(map(len, parts))
        self._websocket.send_binary((self.link.prefixes.prefix(dest, size), *parts))
        return True

    # The cycle

    def _tell(self, tell: Callable[[float], object]) -> None:
        tell(boottime())
        while (output := self.link.poll_output()) is not None:
            websocket = self._websocket
            match output:
                case Resolve():
                    self._resolve(output)
                case Connect():
                    self._connect(output)
                case Disconnect():
                    self._abandon()
                case LinkUp(node):
                    self._handler.on_up(node)
                case LinkDown(why, reason):
                    self._handler.on_down(why, reason)
                case Waived(_, mask):
                    if websocket is not None:
                        websocket.mask = not mask
                case SendText(text):
                    if websocket is not None:
                        websocket.send_text(text)
                case SendBinary(data):
                    if websocket is not None:
                        websocket.send_binary((data,))
                case SendPing():
                    if websocket is not None:
                        websocket.ping()
        deadline = self.link.poll_timeout()
        if deadline is not None and (self._timer is None or deadline.at != self._timer_at):
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline.at
            self._timer = self._loop.call_later(max(0.0, deadline.at - boottime()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._tell(self.link.handle_timeout)

    def _abandon(self) -> None:
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.close()
        websocket, self._websocket = self._websocket, None
        if websocket is not None:
            websocket.close()

    # Seeds

    def _resolve(self, ask: Resolve) -> None:
        parts = urlsplit(ask.seeds[0])
        body = jsonrpc.encode_request("getwsaddr", {"address": ask.address})
        request = _POST.format(parts.netloc, len(body)).encode() + body
        assert parts.hostname is not None
        self._asking = _Exchange(
            self._loop,
            (parts.hostname, parts.port or 80),
            request,
            _answer_of,
            self._resolved,
            self._unresolved,
        )

    def _resolved(self, _: socket.socket, body: bytes) -> None:
        asking, self._asking = self._asking, None
        assert asking is not None
        asking.close()
        try:
            node = NodeInfo.from_json(jsonrpc.parse_response(body))
            refuse_unusable(node)
        except NconnectError as error:
            why = str(error)
            self._tell(lambda now: self.link.resolve_failed(why, now))
        else:
            self._tell(lambda now: self.link.resolved(node, now))

    def _unresolved(self, why: str) -> None:
        self._asking = None
        self._tell(lambda now: self.link.resolve_failed(f"the seed: {why}", now))

    # Node

    def _connect(self, to: Connect) -> None:
        request = _UPGRADE.format(to.node.addr).encode()
        self._asking = _Exchange(
            self._loop, split_addr(to.node.addr), request, _frames_after, self._connected, self._unconnected
        )

    def _connected(self, sock: socket.socket, early: bytes) -> None:
        self._asking = None
        websocket = self._websocket = WebSocket(sock, client=True, loop=self._loop, early=early)
        websocket.handler = _Connection(self, websocket)
        self._tell(self.link.connected)
        if self._websocket is websocket:
            websocket.start()

    def _unconnected(self, why: str) -> None:
        self._asking = None
        self._tell(lambda now: self.link.disconnected(why, now))

    def _received(self, data: memoryview) -> None:
        message = self.link.receive_binary(data, boottime())
        if message is not None:
            self._handler.on_message(message)

    def _lost(self, why: str) -> None:
        self._websocket = None
        self._tell(lambda now: self.link.disconnected(why, now))


class _Connection:
    """The handler of one websocket, until the link leaves it."""

    __slots__ = ("_link", "_websocket")

    def __init__(self, link: LeanLink, websocket: WebSocket) -> None:
        self._link = link
        self._websocket = websocket

    @property
    def _left(self) -> bool:
        return self._link._websocket is not self._websocket

    def on_text(self, data: memoryview) -> None:
        if not self._left:
            self._link._tell(lambda now: self._link.link.receive_text(data, now))

    def on_binary(self, data: memoryview) -> None:
        if not self._left:
            self._link._received(data)

    def on_pong(self) -> None:
        if not self._left:
            self._link._tell(self._link.link.pong)

    def on_writable(self) -> None: ...

    def on_closed(self, why: str) -> None:
        if not self._left:
            self._link._lost(why)


class _Exchange:
    """A request on a connection of its own. `read` returns the useful part once it is complete.

    Then `done` is called with the socket, which is its from then on; else `failed`, once. The time-out is
    the link's.
    """

    __slots__ = ("_done", "_failed", "_got", "_loop", "_read", "_request", "_sock")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: tuple[str, int],
        request: bytes,
        read: Callable[[bytes], bytes | None],
        done: Callable[[socket.socket, bytes], None],
        failed: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._request = request
        self._read, self._done, self._failed = read, done, failed
        self._got = b""
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.connect_ex(address)
        loop.add_writer(self._sock.fileno(), self._on_connected)

    def close(self) -> None:
        """Give up the request."""
        if self._sock.fileno() >= 0:
            self._loop.remove_writer(self._sock.fileno())
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def _on_connected(self) -> None:
        self._loop.remove_writer(self._sock.fileno())
        try:
            self._sock.send(self._request)
        except OSError as error:  # the connect's error
            self._fail(reason(error))
        else:
            self._loop.add_reader(self._sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(MAX_ANSWER_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(reason(error))
            return
        if not data or len(self._got) > MAX_ANSWER_BYTES:
            self._fail("closed without an answer")
            return
        self._got += data
        try:
            found = self._read(self._got)
        except (RemoteProtocolError, ValueError) as error:
            self._fail(str(error))
            return
        if found is not None:
            self._loop.remove_reader(self._sock.fileno())
            self._done(self._sock, found)

    def _fail(self, why: str) -> None:
        self.close()
        self._failed(why)


def _answer_of(response: bytes) -> bytes | None:
    """The body of an HTTP answer."""
    head, end, body = response.partition(_HEAD_END)
    if not end:
        return None
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RemoteProtocolError(head.partition(b"\r\n")[0].decode("latin-1"))
    _, _, after = head.lower().partition(b"\r\ncontent-length:")
    return body if len(body) >= int(after.partition(b"\r\n")[0]) else None


def _frames_after(response: bytes) -> bytes | None:
    """What follows the answer to an upgrade."""
    head, end, early = response.partition(_HEAD_END)
    if not end:
        return None
    if not head.startswith(b"HTTP/1.1 101 "):
        raise RemoteProtocolError(head.partition(b"\r\n")[0].decode("latin-1"))
    return early
