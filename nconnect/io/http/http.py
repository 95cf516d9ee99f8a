"""HTTP/1.1 as values: a request, an answer, and who asks. `http_server` and `http_client` move them."""

from __future__ import annotations

import json
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl

import h11

Headers = tuple[tuple[str, str], ...]  # names in lower case


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who is at the other end of a unix socket (SO_PEERCRED), at the time when it connected."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Request:
    """One request, its body whole. `peer_host` is empty and `credentials` set on a unix socket."""

    method: str
    target: str  # as sent: path and query
    headers: Headers
    body: bytes = b""
    peer_host: str = ""
    credentials: Credentials | None = None

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters; of a repeated one the last."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def host(self) -> str:
        """The Host header as sent (perhaps with a port), "" when there is none."""
        return self.header("host")

    def header(self, name: str) -> str:
        """The first header of that name (lower case), "" when there is none."""
        return _header(self.headers, name)


Upgraded = Callable[[StreamReader, StreamWriter], object]


@dataclass(frozen=True, slots=True)
class Response:
    """One answer. The server adds Content-Length and Date, and Connection where it closes.

    `upgraded`, with status 101 (RFC 9110, section 15.2.2), takes the connection from there on; it is called
    in the loop's thread, and closes it.
    """

    status: int
    body: bytes = b""
    headers: Headers = ()
    upgraded: Upgraded | None = None

    @classmethod
    def json(cls, value: object, status: int = 200, headers: Headers = ()) -> Response:
        body = json.dumps(value, separators=(",", ":")).encode()
        return cls(status, body, (("content-type", "application/json"), *headers))

    def header(self, name: str) -> str:
        """The first header of that name (lower case), "" when there is none."""
        return _header(self.headers, name)


def framed(wire: h11.Connection, body: bytes) -> bytes:
    """Frame a whole body and its end."""
    data = wire.send(h11.Data(data=body)) or b"" if body else b""
    return data + (wire.send(h11.EndOfMessage()) or b"")


def header_texts(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    return tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in headers)


def _header(headers: Headers, wanted: str) -> str:
    for name, value in headers:
        if name == wanted:
            return value
    return ""
