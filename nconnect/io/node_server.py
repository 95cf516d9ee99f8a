"""The node's sockets: websockets of clients, and JSON-RPC over HTTP. All decisions are `nconnect.node`'s."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from nconnect import __version__
from nconnect.crypto.keys import Identity
from nconnect.errors import HostError
from nconnect.io.clock import boottime
from nconnect.io.errors import reason
from nconnect.io.http import Request, Response
from nconnect.io.http_server import HttpServer, Limits
from nconnect.io.listening import bind_tcp
from nconnect.io.websocket import WebSocket
from nconnect.io.websocket_server import WebSocketServer
from nconnect.model import NodeConfig
from nconnect.node import rpc
from nconnect.node.connection import Connection
from nconnect.node.core import Node
from nconnect.node.limits import OFFICIAL_RATE_PER_S, RateLimiter
from nconnect.node.settings import NodeSettings
from nconnect.wire.jsonrpc import NodeInfo

Buffer = bytes | bytearray | memoryview

MAX_RPC_BODY_BYTES = 64 << 10  # guessed: a request has about 200, a full batch 20 KB
MAX_RPC_CONNECTIONS = 8192  # guessed: each is an answer away from its end
MAX_CAPTURE_BYTES = 256 << 20

# As the official node sends them: browsers use the SDK from pages of any origin.
_CORS = (
    ("access-control-allow-origin", "*"),
    ("access-control-allow-headers", "Origin, X-Requested-With, Content-Type, Accept"),
    ("access-control-allow-methods", "POST, OPTIONS"),
)


class NodeServer:
    """One node on two ports of one address, and two more with TLS. Port 0 takes a free one; `ws_port`,
    `rpc_port`, `wss_port` and `https_port` say which (the last two are None without a certificate)."""

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
        self.wss_port: int | None = None
        self.https_port: int | None = None
        self.assign: Callable[[str, bool], NodeInfo | None] | None = None  # a cluster's: see rpc.NodeFacts
        self._config = config
        self._identity = identity
        self._settings = settings
        self._started_at = now
        self._rpc_limiter = RateLimiter(settings.rate_per_s, settings.burst)
        self._rpc_total = RateLimiter(settings.rpc_rate_per_s, settings.rpc_burst)  # one bucket for all
        self._capture = _Capture(capture_file) if capture_file else None
        self._listeners: list[socket.socket] = []
        self._tls: ssl.SSLContext | None = None
        self._websockets: list[WebSocketServer] = []
        self._https: list[HttpServer] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None

    def bind(self) -> None:
        """Open all files and ports, or none, so that nothing after it needs any rights; `start` follows.

        Raises `HostError` in one line.
        """
        config = self._config
        try:
            if self._capture is not None:
                self._capture.open()
            if config.tls_cert is not None:
                self._tls = _tls_context(config.tls_cert, config.tls_key)
            self.ws_port = self._bind(config.ws_port)
            self.rpc_port = self._bind(config.rpc_port)
            if self._tls is not None:
                self.wss_port = self._bind(config.wss_port)
                self.https_port = self._bind(config.https_port)
        except BaseException:
            self._unbind()
            raise

    async def start(self) -> None:
        """Serve on all ports, bound here if `bind` was not called; raises `HostError` in one line."""
        if not self._listeners:
            self.bind()
        if self._capture is not None:
            self.node.relay.capture = self._capture.write
        try:
            await self._serve(None)
            if self._tls is not None:
                await self._serve(self._tls)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening, close every connection. May be called twice, and before `start`."""
        for http in self._https:
            await http.close()
        while self._websockets:
            await self._websockets.pop().close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._timer_at = None
        self.node.relay.capture = None
        self._unbind()

    async def _serve(self, tls: ssl.SSLContext | None) -> None:
        """Take clients on the next two of the bound sockets."""
        websocket = self._listeners.pop(0)
        welcome = partial(self._welcome, secure=tls is not None)
        self._websockets.append(WebSocketServer(websocket, welcome, tls, self._admit))
        limits = _rpc_limits(self._settings)
        http = self._listeners.pop(0)
        self._https.append(await HttpServer.listen_on(http, self._answer, limits=limits, tls=tls))

    def _bind(self, port: int) -> int:
        listener = bind_tcp(self._config.listen, port)
        self._listeners.append(listener)
        bound: int = listener.getsockname()[1]
        return bound

    def _unbind(self) -> None:
        while self._listeners:
            self._listeners.pop().close()
        if self._capture is not None:
            self._capture.close()

    @property
    def public_key(self) -> bytes:
        return self._identity.public_key

    @property
    def uptime_s(self) -> float:
        return round(boottime() - self._started_at, 3)

    def node_info(self, host: str, *, secure: bool = False) -> NodeInfo | None:
        """This node as who reaches it by `host` is told, once it is bound; None for TLS that it has not."""
        ports = (self.wss_port, self.https_port) if secure else (self.ws_port, self.rpc_port)
        if ports[0] is None or ports[1] is None:
            return None
        return rpc.node_info(host, ports[0], ports[1], self.public_key)

    def stats(self) -> dict[str, object]:
        """What `NodeStats` says, and the time since the start, as a JSON object."""
        return {**asdict(self.node.stats()), "uptime_s": self.uptime_s}

    # --- websockets ---

    def _admit(self, host: str) -> bool:
        opening = sum(server.opening for server in self._websockets)
        return self.node.admits(host, boottime(), opening=opening)

    def _welcome(self, websocket: WebSocket, *, secure: bool) -> _Client | None:
        host = self._host(websocket.host_header)
        if host is None:
            return None
        info = self.node_info(host, secure=secure)
        assert info is not None, "what came over TLS came through a TLS port"
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
        now = boottime()
        if not (self._rpc_limiter.allow(request.peer_host, now) and self._rpc_total.allow("", now)):
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
            relayed=self.node.relay.messages,
            wss_port=self.wss_port,
            https_port=self.https_port,
            assign=self.assign,
        )


def _rpc_limits(settings: NodeSettings) -> Limits:
    """Bounds of the RPC's connections, in proportion to how often one host may ask."""
    usual = Limits(body_bytes=MAX_RPC_BODY_BYTES)
    if settings.rate_per_s is None:  # then one host may be many: a proxy, or a test's
        return replace(usual, connections=MAX_RPC_CONNECTIONS, connections_per_host=MAX_RPC_CONNECTIONS)
    factor = max(1.0, settings.rate_per_s / OFFICIAL_RATE_PER_S)
    return replace(
        usual,
        connections=min(MAX_RPC_CONNECTIONS, int(usual.connections * factor)),
        connections_per_host=min(MAX_RPC_CONNECTIONS, int(usual.connections_per_host * factor)),
    )


def _tls_context(cert: Path, key: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for path in (cert, key or cert):
        try:
            path.open("rb").close()  # ssl's own error does not say which of the two it is
        except OSError as error:
            raise HostError(f"cannot read {path}: {reason(error)}") from error
    try:
        # Without a password: a prompt would hang a service.
        context.load_cert_chain(cert, key, password=lambda: b"")
    except (ssl.SSLError, ValueError, OSError) as error:
        why = getattr(error, "reason", None) or str(error)
        why = str(why).replace("_", " ").lower()
        raise HostError(
            f"{cert} and {key or cert} are no TLS certificate and its key ({why}):"
            " give PEM files that belong together, without a password"
        ) from error
    return context


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
            raise HostError(f"cannot write to {self._path}: {reason(error)}") from error

    def write(self, payload: Buffer) -> None:
        if self._left >= len(payload):
            os.writev(self._fd, (payload, b"\n"))
            self._left -= len(payload) + 1

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
