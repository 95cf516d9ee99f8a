"""The HTTP upgrade that opens a websocket (RFC 6455 section 4), for both sides, on h11.

Pure: bytes in, bytes out. Bytes that follow the handshake in the same read are handed on, not lost.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import h11

from nconnect.errors import RemoteProtocolError
from nconnect.wire.websocket import accept_key

MAX_HEAD_BYTES = 8192


class ClientUpgrade:
    """The client's side: send `request`, feed what arrives, until `receive` returns the bytes left over."""

    def __init__(self, host: str, path: str, nonce: bytes) -> None:
        """`host` is the Host header (with port), `nonce` 16 random bytes."""
        self._key = base64.b64encode(nonce)
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        request = h11.Request(
            method="GET",
            target=path,
            headers=[
                ("Host", host),
                ("Upgrade", "websocket"),
                ("Connection", "Upgrade"),
                ("Sec-WebSocket-Key", self._key.decode()),
                ("Sec-WebSocket-Version", "13"),
            ],
        )
        sent = self._connection.send(request)
        assert sent is not None
        self.request: bytes = sent

    def receive(self, data: bytes) -> bytes | None:
        """Take bytes; None when more are needed. Raises `RemoteProtocolError` when it is no websocket."""
        try:
            self._connection.receive_data(data)
            event = self._connection.next_event()
        except h11.RemoteProtocolError as error:
            raise RemoteProtocolError(f"the server did not answer as a websocket: {error}") from error
        if event is h11.NEED_DATA:
            return None
        if not isinstance(event, h11.InformationalResponse) or event.status_code != 101:
            status = getattr(event, "status_code", "no answer")
            raise RemoteProtocolError(f"the server refused the websocket: {status}")
        headers = dict(event.headers)
        if headers.get(b"sec-websocket-accept") != accept_key(self._key.decode()).encode():
            raise RemoteProtocolError("the server's websocket handshake does not match our key")
        if b"sec-websocket-extensions" in headers:
            raise RemoteProtocolError("the server chose a websocket extension that nobody offered")
        return bytes(self._connection.trailing_data[0])


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """A client's valid request: what to answer, and what followed it."""

    response: bytes
    host: str  # the Host header, "" when there is none
    trailing: bytes


class ServerUpgrade:
    """The server's side: feed what arrives until `receive` returns the request."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)

    def receive(self, data: bytes) -> UpgradeRequest | None:
        """Take bytes; None when more are needed.

        Raises `RemoteProtocolError` whose text is the HTTP answer's reason.
        """
        try:
            self._connection.receive_data(data)
            event = self._connection.next_event()
        except h11.RemoteProtocolError as error:
            raise RemoteProtocolError(f"bad request: {error}") from error
        if event is h11.NEED_DATA:
            return None
        if not isinstance(event, h11.Request):
            raise RemoteProtocolError("no request")
        headers = dict(event.headers)
        key = headers.get(b"sec-websocket-key", b"")
        if (
            event.method != b"GET"
            or headers.get(b"upgrade", b"").lower() != b"websocket"
            or b"upgrade"
            not in {token.strip() for token in headers.get(b"connection", b"").lower().split(b",")}
            or headers.get(b"sec-websocket-version") != b"13"
            or not _is_key(key)
        ):
            raise RemoteProtocolError("this port speaks websocket only")
        # A client that sends frames before it has seen the answer: h11 keeps them as trailing data.
        trailing = bytes(self._connection.trailing_data[0])
        answer = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_key(key.decode()).encode() + b"\r\n\r\n"
        )
        return UpgradeRequest(answer, headers.get(b"host", b"").decode("latin-1"), trailing)


def refusal(reason: str) -> bytes:
    """The HTTP answer to a request that is no websocket handshake."""
    body = reason.encode() + b"\n"
    return (
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
        b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
    )


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False
