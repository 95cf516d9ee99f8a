"""Accepting websockets on one listening socket, with or without TLS.

The port may be shared with an HTTP server: each connection's first request then decides whose it is.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nconnect.errors import RemoteProtocolError
from nconnect.io.net.accepting import Acceptor
from nconnect.io.net.readiness import receive_some
from nconnect.io.net.tls_socket import TlsSocket, tls_handshake
from nconnect.io.net.websocket import WebSocket
from nconnect.io.net.websocket_receiver import FrameHandler
from nconnect.queueing.rate_limiter import limit_key
from nconnect.wire.upgrade import OtherRequest, ServerUpgrade, UpgradeRequest, refusal

UPGRADE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class SharedPort:
    """The other server of a port that serves HTTP requests too.

    `serve(socket, received)` takes over a connection whose first request does not ask for a websocket, with
    the bytes read so far. The websocket server's `admit` is then for both kinds; `admit_websocket(ip)` is
    asked besides, once a request is known to be for a websocket.
    """

    serve: Callable[[Any, bytes], None]
    admit_websocket: Callable[[str], bool]


class WebSocketServer:
    """One listening socket. `accept` is asked for the handler of each new websocket; None turns it away.

    `admit(ip)` is asked before a handshake costs anything.
    """

    def __init__(
        self,
        listener: socket.socket,
        accept: Callable[[WebSocket], FrameHandler | None],
        tls: ssl.SSLContext | None = None,
        admit: Callable[[str], bool] | None = None,
        *,
        shared: SharedPort | None = None,
    ) -> None:
        self.port: int = listener.getsockname()[1]
        self._accept = accept
        self._tls = tls
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self.opening: Counter[str] = Counter()  # sockets that are not websockets yet, by source (`limit_key`)
        self._opening: dict[asyncio.Task[None], str] = {}  # and their sources, oldest first
        self._open: set[WebSocket] = set()
        self._acceptor = Acceptor(listener, self._on_socket, admit)

    async def close(self) -> None:
        """Stop listening and close every websocket that came through here."""
        self._acceptor.close()
        for task in list(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for websocket in list(self._open):
            websocket.close(1001, "the node is going away")
        self._open.clear()

    def forget(self, websocket: WebSocket) -> None:
        """A websocket of ours has closed."""
        self._open.discard(websocket)

    def _on_socket(self, sock: socket.socket, host: str) -> None:
        task = self._loop.create_task(self._welcome(sock), name=f"websocket from {host}")
        source = self._opening[task] = limit_key(host)
        self.opening[source] += 1
        task.add_done_callback(self._opened)

    def close_opening(self, source: str) -> bool:
        """Close the oldest socket of this source that is not a websocket yet; False if there is none."""
        for task, of in self._opening.items():
            if of == source:
                task.cancel()
                self._opened(task)
                return True
        return False

    def _opened(self, task: asyncio.Task[None]) -> None:
        """Its handshake is over, however it ended."""
        source = self._opening.pop(task, None)
        if source is not None:
            self.opening[source] -= 1
            if not self.opening[source]:
                del self.opening[source]

    async def _welcome(self, raw: socket.socket) -> None:
        sock: Any = raw
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(UPGRADE_TIMEOUT_S):
                if self._tls is not None:
                    sock = TlsSocket(await tls_handshake(self._loop, raw, self._tls, None))
                request = await self._read_request(sock)
            if isinstance(request, OtherRequest):
                assert self._shared is not None
                self._shared.serve(sock, request.received)
                return
            if self._shared is not None and not self._shared.admit_websocket(sock.getpeername()[0]):
                request = None
            if request is None or (self._tls is None and _has_hung_up(raw)):
                sock.close()
                return
            sock.sendmsg([request.response])
            websocket = WebSocket(
                sock, client=False, loop=self._loop, early=request.trailing, host_header=request.host
            )
        except (OSError, TimeoutError):
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        handler = self._accept(websocket)
        if handler is None:
            sock.close()
            return
        self._open.add(websocket)
        websocket.handler = _Forgetting(handler, websocket, self)
        websocket.start()

    async def _read_request(self, sock: Any) -> UpgradeRequest | OtherRequest | None:
        upgrade = ServerUpgrade(shared=self._shared is not None)
        try:
            while True:
                request = upgrade.receive(await receive_some(self._loop, sock))
                if request is not None:
                    return request
        except RemoteProtocolError as error:
            sock.sendmsg([refusal(str(error))])
            return None


def _has_hung_up(sock: socket.socket) -> bool:
    """Whether the client is gone. If thousands connect at once, some give up before they are accepted."""
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


class _Forgetting:
    """The handler that `accept` gave, and the server told when its websocket closes."""

    __slots__ = ("_handler", "_server", "_websocket", "on_binary", "on_pong", "on_text", "on_writable")

    def __init__(self, handler: FrameHandler, websocket: WebSocket, server: WebSocketServer) -> None:
        self._handler = handler
        self._websocket = websocket
        self._server = server
        self.on_binary = handler.on_binary
        self.on_text = handler.on_text
        self.on_pong = handler.on_pong
        self.on_writable = handler.on_writable

    def on_closed(self, why: str) -> None:
        self._server.forget(self._websocket)
        self._handler.on_closed(why)
