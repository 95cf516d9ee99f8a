"""The status of a running `nconnect node`, over HTTP on a unix socket, for root and its own user only.

    GET /v1/status      `NodeStatus` as a JSON object

The socket is `nodes/PID.sock` in the run folder. Sockets of dead nodes are ignored, and removed by the next
node that starts.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nconnect.control.schema import known, to_json
from nconnect.errors import HostError
from nconnect.io.errors import as_host_error
from nconnect.io.files.paths import make_run_dir, run_dir
from nconnect.io.http.http import Request, Response
from nconnect.io.http.http_server import HttpServer
from nconnect.io.net.listening import bind_unix


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One running node. Counters count from its start.

    Ports are those that clients are told of for each purpose; null where there is none, as without TLS.
    """

    pid: int
    version: str
    listen: str
    ws_port: int | None
    rpc_port: int | None
    public_key: str  # hex
    uptime_s: float
    connections: int  # open websockets
    clients: int  # those of them that have logged in
    messages: int  # passed on, each destination counted
    bytes: int  # of their payloads
    held_messages: int  # kept for clients that are offline
    held_bytes: int
    queue_bytes: int  # waiting for clients that read slowly
    queue_drops: int
    wss_port: int | None = None
    https_port: int | None = None
    logins: int = 0
    drops: Mapping[str, int] = field(default_factory=dict)  # by `NodeDrop`'s value
    cluster: Mapping[str, Any] | None = None  # null: it is on its own
    port: int | None = None  # of websocket and RPC together
    fingerprint: str | None = None  # SHA-256 of the certificate's DER, hex
    seed_url: str = ""  # for clients' `seed_rpc`; with TLS it pins the certificate
    stun: Mapping[str, Any] | None = None  # ports, answers, drops by reason; null: it answers no STUN

    @property
    def rpc_ports(self) -> tuple[int, ...]:
        """Where it takes RPC, without TLS first."""
        return tuple(dict.fromkeys(p for p in (self.rpc_port, self.https_port) if p is not None))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> NodeStatus:
        """Read what a node sent; raises `TypeError` when it is no status."""
        return cls(**known(cls, value))


class NodeControl:
    """The socket on which a node answers. `bind` needs write access to the run folder, `start` does not."""

    def __init__(self, status: Callable[[], NodeStatus]) -> None:
        self._status = status
        self._uids = {0, os.geteuid()}
        self._listener: socket.socket | None = None
        self._http: HttpServer | None = None
        self._path = sockets_folder() / f"{os.getpid()}.sock"

    def bind(self) -> None:
        """Make the socket, and remove those of the dead; raises `HostError` in one line."""
        make_run_dir()
        _make_folder()
        for path in sockets_folder().glob("*.sock"):
            if _is_dead(path):
                with contextlib.suppress(OSError):
                    path.unlink()
        try:
            self._listener = bind_unix(self._path)
        except HostError:
            if sockets_folder().exists():
                raise
            _make_folder()  # the last node ended just now, and took the folder with it
            self._listener = bind_unix(self._path)

    async def start(self) -> None:
        """Answer from now on; nothing when there is no socket."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            self._http = await HttpServer.listen_on(listener, self.handle)

    async def close(self) -> None:
        """Stop, and remove the socket; the last one takes the folder. May come twice, and before `bind`."""
        if self._listener is not None or self._http is not None:
            with contextlib.suppress(OSError):  # the folder may be another user's; the next one removes it
                self._path.unlink()
                sockets_folder().rmdir()  # not while another node's socket is in it
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def handle(self, request: Request) -> Response:
        if request.credentials is None or request.credentials.uid not in self._uids:
            return Response.json({"error": "only root and the node's own user may ask: try with sudo"}, 403)
        if request.path != "/v1/status":
            return Response.json({"error": f"{request.path} is not part of this API"}, 404)
        if request.method != "GET":
            return Response.json({"error": "only GET is part of this API"}, 405)
        return Response.json(to_json(self._status()))


def sockets_folder() -> Path:
    """Where the sockets of running nodes are (not created)."""
    return run_dir() / "nodes"


def _make_folder() -> None:
    with as_host_error(f"cannot make the folder {sockets_folder()}"):
        sockets_folder().mkdir(mode=0o755, exist_ok=True)


def _is_dead(path: Path) -> bool:
    """Whether nobody listens on a socket any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            pass  # gone meanwhile, or not ours to ask
    return False
