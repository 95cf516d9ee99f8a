"""SOCKS5 and HTTP CONNECT on one port, told apart by the first byte. Pure."""

from __future__ import annotations

from nconnect.model import Buffer
from nconnect.streams import http_connect, socks5
from nconnect.streams.dialler import RefusalCode
from nconnect.streams.http_connect import HttpConnect
from nconnect.streams.socks5 import Socks5
from nconnect.streams.target import DialTarget, RefusedRequest

_SOCKS4_REFUSED = bytes([0, 0x5B]) + bytes(6)  # "request rejected or failed", of the SOCKS 4 protocol


class ProxyEntry:
    """One connection, from its first byte to the answer to its request.

    Feed `receive` until `is_complete`; then there is a `target`, or `is_udp`. Answer once with `granted` or
    `refused`. Everything raises `RefusedRequest` only, which has what to send before the end.
    """

    def __init__(self, password: bytes | None = None) -> None:
        """Without a `password` nobody has to log in."""
        self._password = password
        self._protocol: Socks5 | HttpConnect | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the request is there."""
        return self._protocol is not None and self._protocol.is_complete

    @property
    def is_udp(self) -> bool:
        """Whether it asks for UDP ASSOCIATE."""
        return isinstance(self._protocol, Socks5) and self._protocol.is_udp

    @property
    def target(self) -> DialTarget | None:
        """Where to connect to."""
        return None if self._protocol is None else self._protocol.target

    @property
    def early(self) -> bytes:
        """What came after the request: the beginning of the data."""
        return b"" if self._protocol is None else self._protocol.early

    def receive(self, data: Buffer) -> bytes:
        """Take bytes, cut anywhere, and return what to send at once."""
        if self._protocol is None:
            if not data:
                return b""
            first = data[0]
            if first == socks5.FIRST_BYTE:
                self._protocol = Socks5(self._password)
            elif 0x41 <= first <= 0x5A:  # a letter: methods are upper case (RFC 9110, section 9.1)
                self._protocol = HttpConnect(self._password)
            elif first == 4:
                raise RefusedRequest("SOCKS version 4 is not spoken here: use 5", _SOCKS4_REFUSED)
            elif first == 0x16:
                raise RefusedRequest("TLS to the proxy itself is not spoken here: use http:// or socks5h://")
            else:
                raise RefusedRequest("neither SOCKS5 nor HTTP")
        return self._protocol.receive(data)

    def granted(self, host: str = "0.0.0.0", port: int = 0) -> bytes:
        """The answer to a request that succeeded. `host`, `port`: of UDP ASSOCIATE, where to send to."""
        if isinstance(self._protocol, HttpConnect):
            return http_connect.ESTABLISHED
        return socks5.reply(socks5.DONE, host, port)

    def refused(self, reason: str, code: RefusalCode) -> bytes:
        """The answer to one that did not."""
        if isinstance(self._protocol, HttpConnect):
            return http_connect.refused(reason, code)
        return socks5.reply(socks5.REPLIES[code])
