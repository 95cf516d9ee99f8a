"""The HTTP upgrade that opens a websocket (RFC 6455 section 4), for both sides, on h11.

Pure: bytes in, bytes out. Bytes that follow the handshake in the same read are returned to the caller.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import h11

from nconnect.errors import RemoteProtocolError
from nconnect.wire.websocket import accept_key

MAX_HEAD_BYTES = 8192
_GET = b"GET "


class ClientUpgrade:
    """The client's side: send `request`, then feed what arrives until `receive` returns the rest."""

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
        """Take bytes; None if more are needed. Raises `RemoteProtocolError` if this is not a websocket."""
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
    """A client's valid request: the answer to send, and the bytes that followed it."""

    response: bytes
    host: str  # the Host header, "" when there is none
    trailing: bytes


@dataclass(frozen=True, slots=True)
class OtherRequest:
    """A request that does not ask for a websocket, on a port that also serves HTTP."""

    received: bytes  # everything so far, from the first byte of the request


class ServerUpgrade:
    """The server's side: feed what arrives until `receive` returns the request."""

    def __init__(self, *, shared: bool = False) -> None:
        """`shared`: the port also serves HTTP, so a request for anything else is an `OtherRequest`."""
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._shared = shared
        self._received = b""

    def receive(self, data: bytes) -> UpgradeRequest | OtherRequest | None:
        """Take bytes; None when more are needed.

        A request with a method other than GET is recognised at once, a GET when its head is complete (its
        Upgrade header asks for a websocket: RFC 9110, section 7.8). Raises `RemoteProtocolError`, whose text
        is the reason in the HTTP answer.
        """
        if self._shared:
            self._received += data
            if not _GET.startswith(self._received[: len(_GET)]):
                return OtherRequest(self._received)
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
        if self._shared and headers.get(b"upgrade", b"").lower() != b"websocket":
            return OtherRequest(self._received)
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
        # If a client sends frames before it has seen the answer, h11 keeps them as trailing data.
        trailing = bytes(self._connection.trailing_data[0])
        answer = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_key(key.decode()).encode() + b"\r\n\r\n"
        )
        return UpgradeRequest(answer, headers.get(b"host", b"").decode("latin-1"), trailing)


def refusal(reason: str) -> bytes:
    """The HTTP answer to a request that is not a websocket handshake."""
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
