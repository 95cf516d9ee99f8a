"""IPv4 packets of an attacker."""

from __future__ import annotations

import socket
import struct

from nconnect.ip.checksum import checksum

ICMP, UDP, MORE_FRAGMENTS = 1, 17, 0x2000


def ipv4(
    source: str, destination: str, protocol: int, body: bytes, *, options: bytes = b"", fragment: int = 0
) -> bytes:
    """A packet. `options`: a multiple of 4 bytes; `fragment`: flags and offset in units of 8 bytes."""
    size = 20 + len(options)
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x40 | size // 4, 0, size + len(body), 0x4E43, fragment, 64, protocol, 0,
        socket.inet_aton(source), socket.inet_aton(destination),
    ) + options  # fmt: skip
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + body


def udp(source_port: int, port: int, text: bytes) -> bytes:
    """A datagram without a checksum."""
    return struct.pack(">HHHH", source_port, port, 8 + len(text), 0) + text


def unreachable(quoted: bytes) -> bytes:
    """ICMP: the port that `quoted` went to is closed (RFC 792)."""
    body = bytes((3, 3)) + bytes(6) + quoted
    return body[:2] + struct.pack(">H", checksum(body)) + body[4:]


def source_route(kind: int, *hops: str) -> bytes:
    """An IP option, loose (131) or strict (137), RFC 791 section 3.1."""
    body = b"".join(map(socket.inet_aton, hops))
    option = bytes((kind, 3 + len(body), 4)) + body
    return option + bytes(-len(option) % 4)
