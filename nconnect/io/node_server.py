"""The node's sockets: websockets of clients, and JSON-RPC over HTTP. All decisions are `nconnect.node`'s."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from pathlib import Path

from nconnect import __version__
from nconnect.crypto.keys import Identity
from nconnect.errors import HostError
from nconnect.io.clock import boottime
from nconnect.io.http import HttpServer, Limits, Request, Response
from nconnect.io.websocket import WebSocket, WebSocketServer
from nconnect.model import NodeConfig
from nconnect.node import rpc
from nconnect.node.connection import Connection
from nconnect.node.core import Node
from nconnect.node.limits import RateLimiter
from nconnect.node.settings import NodeSettings

Buffer = bytes | bytearray | memoryview

MAX_RPC_BODY_BYTES = 64 << 10  # guessed: a request has about 200, a full batch 20 KB
MAX_CAPTURE_BYTES = 256 << 20

# As the official node sends them: browsers use the SDK from pages of any origin.
_CORS = (
    ("access-control-allow-origin", "*"),
    ("access-control-allow-headers", "Origin, X-Requested-With, Content-Type, Accept"),
    ("access-control-allow-methods", "POST, OPTIONS"),
)


class NodeServer:
    """One node on two ports of one address. Port 0 takes a free one; `ws_port`, `rpc_port` say which."""

    def __init__(
        self,
        config: NodeConfig,
        identity: Identity,
        settings: NodeSettings,
        *,
        capture_file: Path | None = None,
    ) -> None:
        """`capture_file` is a test seam: every payload passed on is appended to it, 256 MiB at most."""
        now = boottime()
        self.node = Node(identity, settings, now=now, rng=os.urandom)
        self.ws_port = config.ws_port
        self.rpc_port = config.rpc_port
        self._config = config
        self._identity = identity
        self._settings = settings
        self._started_at = now
        self._rpc_limiter = RateLimiter(settings.rate_per_s, settings.burst)
        self._capture = _Capture(capture_file) if capture_file else None
        self._websockets: WebSocketServer | None = None
        self._http: HttpServer | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None

    async def start(self) -> None:
        """Listen on both ports, or on neither; raises `HostError` in one line."""
        if self._capture is not None:
            self._capture.open()
            self.node.capture = self._capture.write
        try:
            self._websockets = await WebSocketServer.listen(
                self._config.listen, self.ws_port, self._welcome, admit=self._admit
            )
            self.ws_port = self._websockets.port
            self._http = await HttpServer.listen_tcp(
                self._config.listen, self.rpc_port, self._answer, limits=Limits(body_bytes=MAX_RPC_BODY_BYTES)
            )
            self.rpc_port = self._http.port
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening, close every connection. May be called twice, and before `start`."""
        if self._http is not None:
            await self._http.close()
        if self._websockets is not None:
            websockets, self._websockets = self._websockets, None
            await websockets.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._timer_at = None
        if self._capture is not None:
            self.node.capture = None
            self._capture.close()

    def stats(self) -> dict[str, object]:
        """What `NodeStats` says, and the time since the start, as a JSON object."""
        return {**asdict(self.node.stats()), "uptime_s": round(boottime() - self._started_at, 3)}

    # --- websockets ---

    def _admit(self, host: str) -> bool:
        return self.node.admits(host, boottime())

    def _welcome(self, websocket: WebSocket) -> _Client | None:
        host = self._host(websocket.host_header)
        if host is None:
            return None
        info = rpc.node_info(host, self.ws_port, self.rpc_port, self._identity.public_key)
        client = _Client(self)
        websocket.handler = client  # sending the challenge may already find the socket gone
        connection = self.node.open(websocket, websocket.peer_host, info, boottime())
        if connection is None:
            return None
        if websocket.closed:
            self.node.closed(connection)
            return None
        client.connection = connection
        websocket.pace()
        self.rearm()
        return client

    def _host(self, header: str) -> str | None:
        return self._config.advertise or rpc.host_of(header)

    # --- time ---

    def rearm(self) -> None:
        """Set the one timer to the node's deadline, when that has changed."""
        deadline = self.node.poll_timeout()
        at = None if deadline is None else deadline.at
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = at
        if at is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, at - boottime()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = self._timer_at = None
        self.node.handle_timeout(boottime())
        self.rearm()

    # --- RPC ---

    async def _answer(self, request: Request) -> Response:
        if not self._rpc_limiter.allow(request.peer_host, boottime()):
            return Response(429, headers=_CORS)
        if request.method == "OPTIONS":
            return Response(204, headers=(*_CORS, ("access-control-max-age", "86400")))
        if request.method != "POST":
            return Response.json({"error": "this port takes JSON-RPC requests by POST"}, 405, _CORS)
        host = self._host(request.host)
        if host is None:
            return Response.json({"error": "the Host header names no host"}, 400, _CORS)
        body = rpc.answer(request.body, self._facts(host))
        return Response(200, body, (*_CORS, ("content-type", "application/json;charset=utf-8")))

    def _facts(self, host: str) -> rpc.NodeFacts:
        now = boottime()
        chain = self.node.chain
        height = chain.height(now)
        return rpc.NodeFacts(
            host=host,
            ws_port=self.ws_port,
            rpc_port=self.rpc_port,
            public_key=self._identity.public_key,
            version=f"nconnect-{__version__}",
            height=height,
            block_hash=chain.block_hash(height),
            uptime_s=int(now - self._started_at),
            relayed=self.node.messages,
        )


class _Client:
    """The handler of one websocket: hands every call on, with the time."""

    __slots__ = ("_node", "_server", "_timed", "connection")

    def __init__(self, server: NodeServer) -> None:
        self.connection: Connection | None = None
        self._server = server
        self._node = server.node
        self._timed = server.node.settings.reorder  # only then does a message change the deadline

    def on_binary(self, data: memoryview) -> None:
        assert self.connection is not None
        self._node.receive_binary(self.connection, data, boottime())
        if self._timed:
            self._server.rearm()

    def on_text(self, data: memoryview) -> None:
        assert self.connection is not None
        self._node.receive_text(self.connection, data, boottime())

    def on_pong(self) -> None:
        """The node sees that bytes came; it needs no more."""

    def on_writable(self) -> None:
        assert self.connection is not None
        self._node.writable(self.connection, boottime())

    def on_closed(self, why: str) -> None:
        if self.connection is not None:
            self._node.closed(self.connection)


class _Capture:
    """Appends what it is given to a file, up to a bound."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._left = MAX_CAPTURE_BYTES

    def open(self) -> None:
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(
                f"cannot write to {self._path}: {(error.strerror or str(error)).lower()}"
            ) from error

    def write(self, payload: Buffer) -> None:
        if self._left >= len(payload):
            os.writev(self._fd, (payload, b"\n"))
            self._left -= len(payload) + 1

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
