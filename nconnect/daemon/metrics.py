"""Prometheus metrics of one interface over HTTP: `GET /metrics`, for whoever reaches the address."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from nconnect.control.exposition import CONTENT_TYPE, PeerHistograms, exposition
from nconnect.control.schema import Status
from nconnect.io.http.http import Request, Response
from nconnect.io.http.http_connection import Limits
from nconnect.io.http.http_server import HttpServer
from nconnect.io.nkn.node_server import NodeServer
from nconnect.model import MetricsConfig
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.peer import Peer

log = logging.getLogger(__name__)

_LOOK_S = 1.0  # a new peer, lane or queue is measured within this time
LIMITS = Limits(body_bytes=0, connections=32, connections_per_host=32)


class Metrics:
    """The HTTP server, and the histograms that lanes and queues fill for it."""

    def __init__(
        self, tunnel: Tunnel, status: Callable[[], Awaitable[Status]], node: NodeServer | None = None
    ) -> None:
        """`node`: the one in this daemon."""
        self._tunnel = tunnel
        self._status = status
        self._node = node
        self._server: HttpServer | None = None
        self._kept: dict[Peer, PeerHistograms] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """The port on which it listens; 0 before `listen`."""
        return self._server.port if self._server is not None else 0

    async def listen(self, config: MetricsConfig) -> None:
        """Raises `HostError` when the address is taken or not ours."""
        self._server = await HttpServer.listen_tcp(config.host, config.port, self.handle, limits=LIMITS)
        self._look()
        log.debug("metrics at http://%s:%d/metrics", config.host, self.port)

    async def close(self) -> None:
        """May be called twice, and without `listen`."""
        if self._timer is not None:
            self._timer.cancel()
        if self._server is not None:
            await self._server.close()
            self._server = None

    async def handle(self, request: Request) -> Response:
        if not _is_direct(request.host):
            return _plain(403, "ask by address: a name could be another site's that was pointed here")
        if request.path != "/metrics":
            return _plain(404, "there is only /metrics")
        if request.method not in ("GET", "HEAD"):
            return _plain(405, "only GET")
        stun = self._node.stun if self._node is not None else None
        counted = stun.status() if stun is not None else None
        text = exposition(await self._status(), self._histograms(), counted)
        return Response(200, text.encode(), (("content-type", CONTENT_TYPE),))

    def _histograms(self) -> dict[str, PeerHistograms]:
        """The histograms of all peers, by name. Attaches them to every lane and queue that exists now."""
        peers = self._tunnel.peers.values()
        self._kept = {peer: self._kept.get(peer) or PeerHistograms() for peer in peers}
        for peer, kept in self._kept.items():
            for lane in peer.relayed.lanes.all:
                lane.round_trips = kept.round_trip
            for queue in peer.queues:
                queue.delays = kept.queue_delay
        return {peer.name: kept for peer, kept in self._kept.items()}

    def _look(self) -> None:
        self._histograms()
        self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)


def _is_direct(host: str) -> bool:
    """Whether a Host header names an address, or this machine: else a browser could be made to ask for a
    page of somebody else's.
    """
    name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        ip_address(name)
    except ValueError:
        return name in ("localhost", "") or "." not in name
    return True


def _plain(status: int, text: str) -> Response:
    return Response(status, f"{text}\n".encode(), (("content-type", "text/plain; charset=utf-8"),))
