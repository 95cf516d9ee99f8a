"""The daemon's API: HTTP over its unix socket, for root and the daemon's own user.

Users whom `[control] readers` names may ask for what is `READABLE`. The kernel tells who asks (SO_PEERCRED).

    GET  /v1/status                     the whole state (`schema.Status`)
    GET  /v1/wait?peer=&timeout_s=      answers once address, link and the peer's session are up, else 504
    POST /v1/reload                     read the file again; refused with 409, then nothing has changed
    POST /v1/down                       stop; answers before it does
    GET  /v1/usage?since=               what peers used since then, Unix time (`schema.UsageReport`)
    GET  /v1/offers                     what peers offer (`schema.OfferLine`)
    GET  /v1/pending                    who is no peer and tried to reach us (`schema.PendingPeer`)
    POST /v1/streams {"host", "port"}   a stream to a server behind a peer: 101, then `streams.framed`
    POST /v1/ping {"peer", "timeout_s"} one round trip to the peer's daemon (`schema.PingReply`), else 504

Every refusal is `{"error": "one line"}` with a status of 4xx or 5xx. docs/control-api.md describes it all.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from nconnect.control.schema import OfferLine, PendingPeer, PingReply, Status, UsageReport, to_json
from nconnect.errors import NconnectError
from nconnect.io.http.http import Request, Response
from nconnect.io.http.http_server import HttpServer
from nconnect.streams.dialler import Stream, StreamRefused
from nconnect.streams.framed import FramedStream, join_streams
from nconnect.streams.socket_dialler import UPGRADE

log = logging.getLogger(__name__)

DEFAULT_WAIT_S = 30.0
MAX_WAIT_S = 86_400.0
MAX_SINCE = 1e11
READABLE = (("GET", "/v1/offers"), ("GET", "/v1/usage"))  # by those whom [control] readers names


class Backend(Protocol):
    """What the daemon offers. Errors are `NconnectError`, whose text goes to the caller."""

    async def status(self) -> Status: ...

    def pending(self) -> Sequence[PendingPeer]: ...

    def offers(self) -> Sequence[OfferLine]: ...

    async def may_read(self, uid: int) -> bool:
        """Whether this user, who is neither root nor the daemon's own, may read offers and usage."""
        ...

    async def used(self, since: float) -> UsageReport: ...

    async def reload(self) -> None:
        """Read the file again and apply what changed; raise, with nothing changed, when it is wrong."""
        ...

    def request_stop(self) -> None: ...

    async def wait(self, peer: str | None, timeout_s: float) -> None:
        """Return when it is up; raise `TimeoutError` (its text says what is missing) or `NconnectError`."""
        ...

    async def open_stream(self, host: str, port: int) -> Stream:
        """As `streams.dialler.Dialler`."""
        ...

    async def ping(self, peer: str, timeout_s: float) -> PingReply:
        """One round trip; raise `TimeoutError` or `NconnectError`."""
        ...


class ControlServer:
    """The API on one socket."""

    def __init__(self, backend: Backend, *, uid: int | None = None) -> None:
        self._backend = backend
        self._uids = {0, os.geteuid() if uid is None else uid}
        self._http: HttpServer | None = None
        self._streams: set[asyncio.Task[None]] = set()
        self._path: Path | None = None
        self._made: os.stat_result | None = None
        self._routes: dict[tuple[str, str], Callable[[Request], Awaitable[Response]]] = {
            ("GET", "/v1/status"): self._status,
            ("GET", "/v1/wait"): self._wait,
            ("GET", "/v1/pending"): self._pending,
            ("GET", "/v1/usage"): self._usage,
            ("GET", "/v1/offers"): self._offers,
            ("POST", "/v1/reload"): self._reload,
            ("POST", "/v1/down"): self._down,
            ("POST", "/v1/ping"): self._ping,
            ("POST", "/v1/streams"): self._stream,
        }

    @classmethod
    async def on(cls, listener: socket.socket, path: Path, backend: Backend) -> ControlServer:
        """Serve on a listening socket, which was made at `path` and is ours from now on."""
        self = cls(backend)
        self._made = await asyncio.to_thread(os.stat, path)
        self._path = path
        self._http = await HttpServer.listen_on(listener, self.handle)
        return self

    def is_reachable(self) -> bool:
        """Whether the socket's file is still the one we made. Blocks."""
        try:
            return self._made is not None and os.path.samestat(self._made, os.stat(self._path or ""))
        except OSError:
            return False

    async def close(self) -> None:
        """Stop serving; the socket's file is the caller's. May be called twice."""
        streams = list(self._streams)
        for task in streams:
            task.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def handle(self, request: Request) -> Response:
        """Answer one request; never raises but for cancellation."""
        if request.credentials is None or not await self._may_ask(request.credentials.uid, request):
            return _refusal(403, "only root and the daemon's own user may ask: try with sudo")
        route = self._routes.get((request.method, request.path))
        if route is None:
            known = any(path == request.path for _, path in self._routes)
            return _refusal(405 if known else 404, f"{request.method} {request.path} is not part of this API")
        try:
            return await route(request)
        except _BadRequest as error:
            return _refusal(400, str(error))
        except TimeoutError as error:
            return _refusal(504, str(error) or "no answer in time")
        except NconnectError as error:
            return _refusal(409, str(error))
        except Exception as error:
            log.exception("%s %s failed", request.method, request.path)
            return _refusal(500, f"a bug in the daemon ({type(error).__name__}): see its log")

    async def _may_ask(self, uid: int, request: Request) -> bool:
        if uid in self._uids:
            return True
        return (request.method, request.path) in READABLE and await self._backend.may_read(uid)

    async def _status(self, request: Request) -> Response:
        return Response.json((await self._backend.status()).to_json())

    async def _wait(self, request: Request) -> Response:
        timeout_s = _seconds(request.query.get("timeout_s", DEFAULT_WAIT_S))
        await self._backend.wait(request.query.get("peer") or None, timeout_s)
        return Response.json({})

    async def _pending(self, request: Request) -> Response:
        return Response.json({"pending": to_json(list(self._backend.pending()))})

    async def _offers(self, request: Request) -> Response:
        return Response.json({"offers": to_json(list(self._backend.offers()))})

    async def _usage(self, request: Request) -> Response:
        since = request.query.get("since", "0")
        try:
            at = float(since)
        except ValueError:
            at = math.nan
        if not 0 <= at <= MAX_SINCE:
            raise _BadRequest("since must be a time, in seconds since the Unix epoch")
        return Response.json(to_json(await self._backend.used(at)))

    async def _reload(self, request: Request) -> Response:
        await self._backend.reload()
        return Response.json({})

    async def _down(self, request: Request) -> Response:
        self._backend.request_stop()
        return Response.json({})

    async def _ping(self, request: Request) -> Response:
        content = _object(request)
        if not isinstance(content.get("peer"), str):
            raise _BadRequest('the body must be {"peer": NAME, "timeout_s": SECONDS}')
        reply = await self._backend.ping(content["peer"], _seconds(content.get("timeout_s", 5.0)))
        return Response.json(to_json(reply))

    async def _stream(self, request: Request) -> Response:
        content = _object(request)
        host, port = content.get("host"), content.get("port")
        if not isinstance(host, str) or type(port) is not int or not 0 < port < 1 << 16:
            raise _BadRequest('the body must be {"host": ADDRESS OR NAME, "port": PORT}')
        if request.header("upgrade").lower() != UPGRADE:
            raise _BadRequest(f"the request must have the header `Upgrade: {UPGRADE}`")
        try:
            stream = await self._backend.open_stream(host, port)
        except StreamRefused as refused:
            return Response.json({"error": refused.reason, "code": int(refused.code)}, status=409)

        def upgraded(reader: StreamReader, writer: StreamWriter) -> None:
            task = asyncio.ensure_future(join_streams(FramedStream(reader, writer), stream))
            self._streams.add(task)
            task.add_done_callback(self._streams.discard)

        return Response(101, headers=(("connection", "Upgrade"), ("upgrade", UPGRADE)), upgraded=upgraded)


class _BadRequest(Exception):
    """The request's own fault."""


def _object(request: Request) -> dict[str, Any]:
    """The JSON object in a request; an empty one if it has none."""
    try:
        content = json.loads(request.body)
    except (ValueError, RecursionError):
        content = None
    return content if isinstance(content, dict) else {}


def _seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if isinstance(value, bool) or not 0 <= seconds <= MAX_WAIT_S:
        raise _BadRequest(f"timeout_s must be a number from 0 to {MAX_WAIT_S:.0f}")
    return seconds


def _refusal(status: int, text: str) -> Response:
    return Response.json({"error": text}, status=status)
