"""Asking a running `nconnect node` how it is: a unix socket for each, HTTP, root and its own user alone.

    GET /v1/status      `NodeStatus` as a JSON object

The socket is `nodes/PID.sock` in the run folder. What a dead node left there is passed over, and removed
by the next one that starts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nconnect.control.client import ControlClient, NotRunning
from nconnect.control.schema import to_json
from nconnect.errors import ControlError, HostError
from nconnect.io.http import HttpServer, Request, Response
from nconnect.io.listening import bind_unix
from nconnect.io.paths import make_run_dir, run_dir


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One running node. Counters count from its start; ports are null where there is no TLS."""

    pid: int
    version: str
    listen: str
    ws_port: int
    rpc_port: int
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

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> NodeStatus:
        """Read what a node sent; raises `TypeError` when it is no status."""
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{name: item for name, item in value.items() if name in names})


class NodeControl:
    """The socket on which a node answers. `bind` needs the right to write to the run folder, `start` none."""

    def __init__(self, status: Callable[[], NodeStatus]) -> None:
        self._status = status
        self._uids = {0, os.geteuid()}
        self._listener: socket.socket | None = None
        self._http: HttpServer | None = None
        self._path = _folder() / f"{os.getpid()}.sock"

    def bind(self) -> None:
        """Make the socket, and remove those of the dead; raises `HostError` in one line."""
        make_run_dir()
        try:
            _folder().mkdir(mode=0o755, exist_ok=True)
        except OSError as error:
            raise HostError(f"cannot make the folder {_folder()}: {error.strerror}") from error
        for path in _folder().glob("*.sock"):
            if not _client(path).is_running():
                with contextlib.suppress(OSError):
                    path.unlink()
        self._listener = bind_unix(self._path)

    async def start(self) -> None:
        """Answer from now on; nothing when there is no socket."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            self._http = await HttpServer.listen_on(listener, self.handle)

    async def close(self) -> None:
        """Stop, and remove the socket. May be called twice, and before `bind`."""
        if self._listener is not None or self._http is not None:
            with contextlib.suppress(OSError):  # the folder may be another user's; the next one removes it
                self._path.unlink()
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


def running_nodes() -> list[NodeStatus]:
    """The status of each node that runs here, by process id. Raises `ControlError` in one line."""
    found = []
    for path in sorted(_folder().glob("*.sock")):
        try:
            found.append(_client(path).node_status())
        except NotRunning:
            continue  # it ended without removing its socket
    return sorted(found, key=lambda status: status.pid)


class _Client(ControlClient):
    def node_status(self) -> NodeStatus:
        answer = self._ask("GET", "/v1/status")
        try:
            return NodeStatus.from_json(answer)
        except TypeError:
            raise ControlError("the node's status cannot be read: is it of another version?") from None


def _client(path: Path) -> _Client:
    return _Client(f"node {path.stem}", path)


def _folder() -> Path:
    return run_dir() / "nodes"
