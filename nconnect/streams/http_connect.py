"""HTTP CONNECT, the proxy's side (RFC 9110 section 9.3.6); h11 reads and writes HTTP. Pure.

Only CONNECT is granted: a proxy that fetched http:// URLs itself would see what goes to them. curl and
browsers use CONNECT for https:// URLs and, when told to tunnel (`curl --proxytunnel`), for others.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from http import HTTPStatus

import h11

from nconnect.model import Buffer
from nconnect.streams.dialler import RefusalCode
from nconnect.streams.target import DialTarget, RefusedRequest, is_password

MAX_HEAD_BYTES = 16 << 10  # guessed: of a request's line and fields; browsers send less than 1 KiB
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
STATUSES: Mapping[RefusalCode, int] = {
    RefusalCode.FAILED: 502,
    RefusalCode.NOT_ALLOWED: 403,
    RefusalCode.NO_ROUTE: 403,  # there is no exit
    RefusalCode.UNKNOWN_NAME: 502,
    RefusalCode.NET_UNREACHABLE: 502,
    RefusalCode.HOST_UNREACHABLE: 502,
    RefusalCode.CONNECTION_REFUSED: 502,
    RefusalCode.TIMED_OUT: 504,
    RefusalCode.TOO_MANY: 503,
    RefusalCode.NO_PEER: 504,
}


class HttpConnect:
    """One connection until its request. `receive` takes bytes; then `target` may be set."""

    def __init__(self, password: bytes | None = None) -> None:
        """Without a `password` nobody has to log in."""
        self.target: DialTarget | None = None
        self.early = b""  # what came after the request: the beginning of the data
        self._password = password
        self._wire = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)

    @property
    def is_complete(self) -> bool:
        """Whether the request is there."""
        return self.target is not None

    def receive(self, data: Buffer) -> bytes:
        """Take bytes, cut anywhere; return what to send: nothing, until it is known whether it succeeds.

        Raises `RefusedRequest`, with a whole HTTP answer. After the request nothing is received any more.
        """
        self._wire.receive_data(bytes(data))
        try:
            event = self._wire.next_event()
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            raise RefusedRequest("not HTTP", answer(status, "this is not HTTP/1.1")) from None
        if isinstance(event, h11.Request):
            self.target = self._target(event)
            self.early = self._wire.trailing_data[0]
        return b""

    def _target(self, request: h11.Request) -> DialTarget:
        method = request.method
        if method != b"CONNECT":
            raise RefusedRequest(
                "another method than CONNECT",
                answer(
                    405,
                    "this proxy grants CONNECT alone: have the program tunnel http:// URLs too"
                    " (curl --proxytunnel), or use it as a SOCKS5 proxy",
                    ("Allow", "CONNECT"),
                ),
            )
        fields = dict(request.headers)
        if self._password is not None and not self._is_login(fields.get(b"proxy-authorization", b"")):
            raise RefusedRequest(
                "a missing or wrong password",
                answer(
                    407,
                    "this proxy wants a password (any user)",
                    ("Proxy-Authenticate", 'Basic realm="nconnect"'),
                ),
                is_login=True,
            )
        if b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0":
            raise RefusedRequest("CONNECT with a body", answer(400, "CONNECT has no body"))
        host, colon, port = request.target.decode("latin-1").rpartition(":")
        try:
            if not colon or not port.isascii() or not port.isdecimal() or len(port) > 5:
                raise ValueError("CONNECT wants HOST:PORT")
            if host[:1] == "[" and host[-1:] == "]":
                host = host[1:-1]
            elif ":" in host:
                raise ValueError("an IPv6 address stands in brackets")
            return DialTarget.of(host, int(port))
        except ValueError as error:
            raise RefusedRequest(str(error), answer(400, str(error))) from None

    def _is_login(self, field: bytes) -> bool:
        scheme, _, given = field.partition(b" ")
        if scheme.lower() != b"basic":
            return False
        try:
            _, _, password = base64.b64decode(given.strip(), validate=True).partition(b":")
        except binascii.Error:
            return False
        assert self._password is not None
        return is_password(password, self._password)


def refused(reason: str, code: RefusalCode) -> bytes:
    """The answer when no stream could be opened."""
    return answer(STATUSES[code], reason)


def answer(status: int, text: str, *fields: tuple[str, str]) -> bytes:
    """A whole answer, with one line as its body, after which the connection ends."""
    body = text.encode() + b"\n"
    wire = h11.Connection(h11.SERVER)
    headers = [
        *fields,
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
    ]
    head = wire.send(h11.Response(status_code=status, headers=headers, reason=_reason(status)))
    return (head or b"") + (wire.send(h11.Data(data=body)) or b"")


def _reason(status: int) -> bytes:
    return HTTPStatus(status).phrase.encode()
