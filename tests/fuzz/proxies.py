"""Targets for what programs send to a listener of `nconnect.streams`."""

from __future__ import annotations

from nconnect.streams.entry import ProxyEntry
from nconnect.streams.socks5 import Datagram, encode_datagram
from nconnect.streams.target import DialTarget, RefusedRequest, clean_host
from tests.fuzz.draw import Draw

PASSWORD = b"open"
LOGIN = b"\5\1\2\1\1u\4open"
CONNECT = b"CONNECT 10.0.0.1:80 HTTP/1.1\r\nHost: a\r\n"
BASIC = b"Proxy-Authorization: Basic dTpvcGVu\r\n"


def proxy_requests(data: bytes) -> None:
    draw = Draw(data)
    nearly = (
        draw.changed(draw.of((b"\5\1\0", b"\5\2\0\2", LOGIN)))
        + draw.changed(draw.of((b"\5\1\0\1\x0a\0\0\1\0\x50", b"\5\1\0\3\1a\0\x50", b"\5\3\0\1" + bytes(6)))),
        draw.changed(CONNECT) + draw.of((b"", BASIC)) + draw.of((b"\r\n", b"\r\nearly", b"")),
    )
    for given in (data, *nearly, draw.rest()):
        for password in (None, PASSWORD):
            whole, pieces = _read(given, len(given), password), _read(given, 1, password)
            assert whole == pieces, "the cutting decides"


def _read(data: bytes, size: int, password: bytes | None) -> object:
    """What becomes of it in pieces of `size` bytes."""
    entry, said = ProxyEntry(password), b""
    while data and not entry.is_complete:
        try:
            said += entry.receive(data[:size])
        except RefusedRequest as refusal:
            return refusal.why, said + refusal.answer
        data = data[size:]
    if (target := entry.target) is not None:
        assert entry.is_complete
        assert DialTarget.of(target.host, target.port) == target
    return said, entry.target, entry.is_udp, entry.early + data


def proxy_datagrams(data: bytes) -> None:
    draw = Draw(data)
    for given in (data, draw.changed(encode_datagram(draw.of(("10.0.0.1", "fd00::1", "a")), 53, data))):
        found = Datagram.decode(given)
        if found is not None:
            assert 0 < found.port < 65536
            assert clean_host(found.host) == found.host
            again = Datagram.decode(encode_datagram(found.host, found.port, found.data))
            assert again == found
