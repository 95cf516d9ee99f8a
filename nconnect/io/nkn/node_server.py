"""The node's sockets: websockets of clients, and JSON-RPC over HTTP. All decisions are `nconnect.node`'s."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from nconnect import __version__
from nconnect.crypto.keys import Identity
from nconnect.errors import HostError
from nconnect.io.clock import boottime
from nconnect.io.http.http import Request, Response
from nconnect.io.http.http_connection import Limits
from nconnect.io.http.http_server import HttpServer
from nconnect.io.net import certificate
from nconnect.io.net.listening import bind_tcp, is_any_address, outgoing_address
from nconnect.io.net.websocket import WebSocket
from nconnect.io.net.websocket_server import SharedPort, WebSocketServer
from nconnect.io.nkn.capture import Capture
from nconnect.io.nkn.stun_server import StunPorts
from nconnect.model import STUN_PORTS, NodeConfig, join_addr
from nconnect.node import rpc
from nconnect.node.connection import Connection
from nconnect.node.core import EARLY_FRAME_BYTES, Node
from nconnect.node.settings import OFFICIAL_RATE_PER_S, NodeDrop, NodeSettings
from nconnect.queueing.rate_limiter import RateLimiter
from nconnect.wire.jsonrpc import NodeInfo

log = logging.getLogger(__name__)

MAX_RPC_BODY_BYTES = 64 << 10  # guessed: a request has about 200, a full batch 20 KB
MAX_RPC_CONNECTIONS = 8192  # guessed: each is an answer away from its end

# As the official node sends them: browsers use the SDK from pages of any origin.
_CORS = (
    ("access-control-allow-origin", "*"),
    ("access-control-allow-headers", "Origin, X-Requested-With, Content-Type, Accept"),
    ("access-control-allow-methods", "POST, OPTIONS"),
)


@dataclass(frozen=True, slots=True)
class _Listener:
    """A bound socket and what it serves."""

    socket: socket.socket
    serves: str  # "ws", "rpc" or "both"
    secure: bool


class NodeServer:
    """One node: websocket and RPC on a port each, with TLS on two more, or all on `port`; and STUN.

    Once bound, `ws_port`, `rpc_port`, `wss_port` and `https_port` are the ports that clients are told of,
    None where there is none; `fingerprint` is the certificate's SHA-256 in hex, None without TLS. Port 0
    takes a free one.
    """

    def __init__(
        self,
        config: NodeConfig,
        identity: Identity,
        settings: NodeSettings,
        *,
        own_certificate: Path | None = None,
        capture_file: Path | None = None,
    ) -> None:
        """`own_certificate` is where to keep the certificate that `tls` asks for without `tls_cert`.

        `capture_file` is a test seam: every payload passed on is appended to it, 256 MiB at most.
        """
        now = boottime()
        self.node = Node(identity, settings, now=now, rng=os.urandom)
        self.node.close_opening = self._close_opening
        self.port: int | None = None
        self.ws_port: int | None = None
        self.rpc_port: int | None = None
        self.wss_port: int | None = None
        self.https_port: int | None = None
        self.fingerprint: str | None = None
        self.stun: StunPorts | None = None
        self.assign: Callable[[str, bool], NodeInfo | None] | None = None  # a cluster's: see rpc.NodeFacts
        self._config = config
        self._identity = identity
        self._settings = settings
        self._started_at = now
        self._rpc_limiter = RateLimiter(settings.rate_per_s, settings.burst)
        self._rpc_total = RateLimiter(settings.rpc_rate_per_s, settings.rpc_burst)  # one bucket for all
        # Of a port for both: who opens a connection for RPC takes none of his websockets' turns.
        rate = settings.rate_per_s
        self._shared_limiter = RateLimiter(None if rate is None else 2 * rate, 2 * settings.burst)
        self._capture = Capture(capture_file) if capture_file else None
        self._own_certificate = own_certificate
        self._listeners: list[_Listener] = []
        self._tls: ssl.SSLContext | None = None
        self._websockets: list[WebSocketServer] = []
        self._http: list[HttpServer] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None

    def bind(self) -> None:
        """Open all files and ports, or none, so that nothing after it needs any rights; `start` follows.

        Raises `HostError` in one line.
        """
        try:
            if self._capture is not None:
                self._capture.open()
            self._load_certificate()
            self._bind_all()
        except BaseException:
            self._unbind()
            raise

    async def start(self) -> None:
        """Serve on all ports, bound here if `bind` was not called; raises `HostError` in one line."""
        if not self._listeners:
            self.bind()
        self.node.turns.schedule = asyncio.get_running_loop().call_soon
        if self._capture is not None:
            self.node.relay.capture = self._capture.write
        try:
            if self.stun is not None:
                self.stun.start()
            while self._listeners:
                await self._serve(self._listeners.pop(0))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening, close every connection. May be called twice, and before `start`."""
        for http in self._http:
            await http.close()
        while self._websockets:
            await self._websockets.pop().close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._timer_at = None
        self.node.relay.capture = None
        self._unbind()

    def _load_certificate(self) -> None:
        config = self._config
        cert = config.tls_cert
        if cert is None and config.tls:
            if (cert := self._own_certificate) is None:
                raise HostError("there is no folder to keep the node's certificate in: give --tls-cert")
            hosts = (config.advertise, None if is_any_address(config.listen) else config.listen)
            certificate.make_unless_there(cert, filter(None, hosts))
        if cert is not None:
            self._tls = certificate.server_context(cert, config.tls_key)
            self.fingerprint = certificate.fingerprint(cert)

    def _bind_all(self) -> None:
        config = self._config
        secure = self._tls is not None
        self.ws_port = self._bind(config.ws_port, "ws")
        self.rpc_port = self._bind(config.rpc_port, "rpc")
        if secure:
            self.wss_port = self._bind(config.wss_port, "ws", secure=True)
            self.https_port = self._bind(config.https_port, "rpc", secure=True)
        self.port = self._bind(config.port, "both", secure=secure)
        if self.port is not None:
            if secure:
                self.wss_port = self.https_port = self.port
            else:
                self.ws_port = self.rpc_port = self.port
        self.stun = self._bind_stun()

    def _bind_stun(self) -> StunPorts | None:
        ports = self._config.stun_ports
        if ports is not None:
            return StunPorts.bind(self._config.listen, ports) if ports else None
        try:
            return StunPorts.bind(self._config.listen, STUN_PORTS)
        except HostError as error:  # nobody asked for these, and a node is of use without
            log.warning("this node answers no STUN: %s", error)
            return None

    async def _serve(self, listener: _Listener) -> None:
        tls = self._tls if listener.secure else None
        limits = _rpc_limits(self._settings)
        if listener.serves == "rpc":
            http = await HttpServer.listen_on(
                listener.socket, self._answer, limits=limits, tls=tls, admit=self._admit_rpc
            )
            self._http.append(http)
            return
        shared = None
        if listener.serves == "both":
            http = HttpServer(self._answer, limits)
            self._http.append(http)
            shared = SharedPort(http.adopt, lambda host: self.node.in_rate(host, boottime()))
        welcome = partial(self._welcome, secure=listener.secure)
        admit = self._admit if shared is None else self._admit_either
        self._websockets.append(WebSocketServer(listener.socket, welcome, tls, admit, shared=shared))

    def _bind(self, port: int | None, serves: str, *, secure: bool = False) -> int | None:
        if port is None:
            return None
        listener = bind_tcp(self._config.listen, port)
        self._listeners.append(_Listener(listener, serves, secure))
        bound: int = listener.getsockname()[1]
        return bound

    def _unbind(self) -> None:
        while self._listeners:
            self._listeners.pop().socket.close()
        if self.stun is not None:
            self.stun.close()
            self.stun = None
        if self._capture is not None:
            self._capture.close()

    @property
    def public_key(self) -> bytes:
        return self._identity.public_key

    @property
    def stun_ports(self) -> tuple[int, ...]:
        """The UDP ports that clients are told of, once they are bound."""
        return self.stun.ports if self.stun is not None else ()

    @property
    def uptime_s(self) -> float:
        return round(boottime() - self._started_at, 3)

    def node_info(self, host: str, *, secure: bool = False) -> NodeInfo | None:
        """This node as who reaches it by `host` is told, once it is bound; None when it has no
        websocket with TLS, or none without."""
        ws, http = (self.wss_port, self.https_port) if secure else (self.ws_port, self.rpc_port)
        fingerprint = self.fingerprint if secure else None
        if ws is None:
            return None
        return rpc.node_info(host, ws, http, self.public_key, fingerprint, self.stun_ports)

    def seed_url(self, *, here: bool = False) -> str:
        """What clients write into `seed_rpc`, once it is bound: over TLS with the certificate pinned.

        `here`: clients on this machine, which need no TLS where it can be done without.
        """
        host = self._config.listen if here else self._config.advertise or self._config.listen
        if is_any_address(host):
            host = "127.0.0.1" if here else outgoing_address()
        if self.https_port is not None and not (here and self.rpc_port is not None):
            return f"https://{join_addr(host, self.https_port)}#sha256={self.fingerprint}"
        return f"http://{join_addr(host, self.rpc_port or 0)}"

    def stats(self) -> dict[str, object]:
        """What `NodeStats` says, and the time since the start, as a JSON object."""
        return {**asdict(self.node.stats()), "uptime_s": self.uptime_s}

    # --- websockets ---

    def _admit(self, host: str) -> bool:
        return self.node.admits(host, boottime(), opening=self._opening())

    def _admit_rpc(self, host: str) -> bool:
        """Twice as often as it may ask, so that who asks a little too often is told so."""
        allowed = self._shared_limiter.allow(host, boottime())
        if not allowed:
            self.node.count(NodeDrop.RATE_LIMITED)
        return allowed

    def _admit_either(self, host: str) -> bool:
        """As `_admit`, for a connection of which nobody knows yet what it asks for."""
        return self.node.has_room(host, self._opening()) and self._admit_rpc(host)

    def _opening(self) -> Counter[str]:
        """The sockets whose handshake is not done yet, by source."""
        return sum((server.opening for server in self._websockets), Counter[str]())

    def _close_opening(self, source: str) -> None:
        """Close the oldest socket of this source whose handshake is not done."""
        for server in self._websockets:
            if server.close_opening(source):
                return

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
        websocket.receiver.share = connection.source.share
        websocket.limit(EARLY_FRAME_BYTES, partial(self.node.skipped, connection))
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
            # Closed, or requests one after another would cost us more than those that are answered.
            return Response(429, headers=(*_CORS, ("connection", "close")))
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
            fingerprint=self.fingerprint,
            stun_ports=self.stun_ports,
            assign=self.assign,
        )


def _rpc_limits(settings: NodeSettings) -> Limits:
    """Bounds of the RPC's connections, in proportion to how often one host may ask, if not set."""
    usual = Limits(body_bytes=MAX_RPC_BODY_BYTES)
    if settings.rate_per_s is None:  # then one host may be many: a proxy, or a test's
        return replace(usual, connections=MAX_RPC_CONNECTIONS, connections_per_host=MAX_RPC_CONNECTIONS)
    factor = max(1.0, settings.rate_per_s / OFFICIAL_RATE_PER_S)
    each = settings.source_connections or int(usual.connections_per_host * factor)
    return replace(
        usual,
        connections=min(MAX_RPC_CONNECTIONS, max(int(usual.connections * factor), 2 * each)),
        connections_per_host=min(MAX_RPC_CONNECTIONS, each),
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
