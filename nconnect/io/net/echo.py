"""ICMP echo to one host, blocking: whether it answers, and how large a packet comes back unfragmented."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterable
from ipaddress import ip_address

_ECHO, _REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}  # RFC 792, RFC 4443
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PROBE = 10, 23, 3  # linux/in.h, linux/in6.h: set DF, ignore the cache
_HEADER_BYTES = {4: 20 + 8, 6: 40 + 8}
_WAIT_S = 0.6


def answers(host: str, size_bytes: int = 84, *, wait_s: float = _WAIT_S) -> bool:
    """Whether an echo of that many bytes, IP header included, comes back unfragmented.

    Needs CAP_NET_RAW or a place in ping_group_range: raises `PermissionError` without.
    """
    version = ip_address(host).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    ident, number = os.getpid() & 0xFFFF, int.from_bytes(os.urandom(2), "big")
    body = os.urandom(max(0, size_bytes - _HEADER_BYTES[version]))
    with _open(family, protocol) as (echo, raw):
        level, option = (
            (socket.IPPROTO_IP, _IP_MTU_DISCOVER)
            if version == 4
            else (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER)
        )
        echo.setsockopt(level, option, _PROBE)
        head = struct.pack(">BBHHH", _ECHO[version], 0, 0, ident, number)
        if version == 4:
            head = struct.pack(">BBHHH", _ECHO[4], 0, _checksum(head + body), ident, number)
        try:
            echo.sendto(head + body, (host, 0))
        except OSError:
            return False  # too large, no route, a broadcast address
        return _wait(echo, version, number, body, raw, wait_s)


def largest(host: str, sizes: Iterable[int]) -> int | None:
    """The first of `sizes` (largest first) that comes back; None when none does.

    What did not come back is tried once more from there upwards: it may have been lost by chance.
    """
    tried: list[int] = []
    for size in sizes:
        if answers(host, size):
            while tried and answers(host, tried[-1]):
                size = tried.pop()
            return size
        tried.append(size)
    return None


class _open:
    """A datagram socket for echoes where the kernel grants one, else a raw one (then replies come whole)."""

    def __init__(self, family: int, protocol: int) -> None:
        self._raw = False
        try:
            self._socket = socket.socket(family, socket.SOCK_DGRAM, protocol)
        except OSError:
            self._socket = socket.socket(family, socket.SOCK_RAW, protocol)
            self._raw = True

    def __enter__(self) -> tuple[socket.socket, bool]:
        return self._socket, self._raw

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def _wait(echo: socket.socket, version: int, number: int, body: bytes, raw: bool, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while (left_s := deadline - time.monotonic()) > 0:
        echo.settimeout(left_s)
        try:
            data = echo.recv(65_535)
        except OSError:
            return False
        at = (data[0] & 15) * 4 if raw and version == 4 and data else 0
        if data[at : at + 1] == bytes([_REPLY[version]]) and data[at + 6 : at + 8] == number.to_bytes(
            2, "big"
        ):
            return data[at + 8 :] == body
    return False


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + b"\0" * (len(data) & 1)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
