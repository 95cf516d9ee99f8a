"""Second opinions: what the specifications say, written down naively and a second time.

Slow, plain, and without a line of the product's parsers. A target compares the two, so that a parser which
takes what it must refuse, or reads it wrongly, is a finding although nothing crashes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

from nconnect.errors import RemoteProtocolError

Fields = list[tuple[int, int | bytes]]
KEY = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"  # RFC 8032, 7.1, test 1
# What may stand where something else belongs.
ODD: tuple[Any, ...] = (
    1,
    True,
    None,
    [],
    {},
    "",
    "zz",
    "a b",
    "1",
    "ab" * 33,
    "ab" * 65,
    "11 " * 32,
    "\ud800",
    -1,
    1.5,
    [1],
)


def agree(parse: Callable[[], object], expected: object) -> None:
    """`parse` gives what is expected; where that is None, it refuses."""
    try:
        found = parse()
    except RemoteProtocolError:
        assert expected is None, "refused, and nothing is wrong"
        return
    assert expected is not None, f"taken: {found!r}"
    assert found == expected
    assert type(found) is type(expected)


def shown(value: object) -> str:
    """What of a member is shown: a string that can be encoded, or nothing."""
    return value if isinstance(value, str) and value.encode(errors="ignore").decode() == value else ""


def number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")


# --- Protocol Buffers ---


def varint(data: bytes, at: int) -> tuple[int, int] | None:
    """(value, where it ends); None when it is cut short, longer than it must be, or over 64 bits."""
    for end in range(at + 1, min(at + 10, len(data)) + 1):
        last = data[end - 1]
        if last < 128:
            value = sum((byte & 127) << (7 * i) for i, byte in enumerate(data[at:end]))
            return (value, end) if value < 1 << 64 and (last or end == at + 1) else None
    return None


def fields(data: bytes, most: int = 64) -> Fields | None:
    """All fields of a message but those of fixed width; None when it must be refused."""
    found: Fields = []
    at = count = 0
    while at < len(data):
        tag = varint(data, at)
        count += 1
        if tag is None or not 8 <= tag[0] < 1 << 32 or count > most:
            return None
        kind, at = tag[0] & 7, tag[1]
        if kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind in (0, 2):
            value = varint(data, at)
            if value is None:
                return None
            content, at = value
            if kind == 0:
                found.append((tag[0] >> 3, content))
            else:
                found.append((tag[0] >> 3, data[at : at + content]))
                at += content
        else:
            return None
        if at > len(data):
            return None
    return found


# --- websocket (RFC 6455) ---


def frame_header(data: bytes, most: int) -> tuple[int, bool, bytes, int, int] | str | None:
    """(opcode, fin, mask, header's size, payload's size); None: more bytes are needed; text: refused."""
    if len(data) < 2:
        return None
    fin, reserved, opcode = data[0] & 128, data[0] & 112, data[0] & 15
    masked, size, at = data[1] & 128, data[1] & 127, 2
    if reserved or opcode not in (0, 1, 2, 8, 9, 10):
        return "reserved"
    if opcode >= 8 and (not fin or size > 125):
        return "control"
    for marker, width, least in ((126, 2, 126), (127, 8, 65536)):
        if data[1] & 127 == marker:
            if len(data) < 2 + width:
                return None
            size, at = number(data, 2, width), 2 + width
            if size < least:
                return "not minimal"
    if size > most:
        return "too large"
    if not masked:
        return opcode, bool(fin), b"", at, size
    return (opcode, bool(fin), data[at : at + 4], at + 4, size) if len(data) >= at + 4 else None


def close_code(data: bytes) -> bool:
    """Whether a close frame may have this payload (section 7.4)."""
    if not data:
        return True
    code = number(data, 0, 2)
    defined = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
    return len(data) >= 2 and code in defined and _is_utf8(data[2:])


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# --- IP ---


def is_packet(data: bytes) -> bool:
    """Exactly one IPv4 or IPv6 packet, by the lengths in its fixed header."""
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= 20:
        header = 4 * (data[0] & 15)
        return header >= 20 and header <= len(data) and number(data, 2, 2) == len(data)
    return version == 6 and len(data) >= 40 and 40 + number(data, 4, 2) == len(data)


def addresses(data: bytes) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address]:
    """Source and destination."""
    at, size = (12, 4) if data[0] >> 4 == 4 else (8, 16)
    return ip_address(data[at : at + size]), ip_address(data[at + size : at + 2 * size])


_NEVER = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
            "::/96", "::ffff:0:0/96", "fe80::/10", "ff00::/8",
        ),
    )
)  # fmt: skip


def is_never_a_source(address: IPv4Address | IPv6Address) -> bool:
    return any(address in network for network in _NEVER if network.version == address.version)


def transport(data: bytes) -> tuple[int, int]:
    """(protocol, where its header begins or 0), as `nconnect.ip.packet.transport` promises it."""
    if data[0] >> 4 == 4:
        is_fragment = number(data, 6, 2) & 0x3FFF
        return data[9], 0 if is_fragment else 4 * (data[0] & 15)
    kind, at = data[6], 40
    for _ in range(8):
        if kind in (44, 59):
            return kind, 0
        if kind not in (0, 43, 60, 135):
            return kind, at
        if at + 8 > len(data):
            return kind, 0
        kind, at = data[at], at + 8 * (data[at + 1] + 1)
    return kind, 0


def ones_sum(data: bytes) -> int:
    """The one's complement sum of 16-bit words (RFC 1071); 0xffff when a checksum in it is right."""
    padded = data + bytes(len(data) % 2)
    total = sum(number(padded, at, 2) for at in range(0, len(padded), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(data: bytes, protocol: int, size: int) -> bytes:
    at, width = (12, 8) if data[0] >> 4 == 4 else (8, 32)
    return data[at : at + width] + size.to_bytes(4, "big") + protocol.to_bytes(4, "big")


def is_offload_sane(record: bytes) -> bool:
    """Whether Linux would emit this virtio-net header for this (well-formed) packet."""
    flags, kind = record[0], record[1]
    header_bytes, segment, start, offset = (
        int.from_bytes(record[at : at + 2], "little") for at in (2, 4, 6, 8)
    )
    data = record[10:]
    if not any(record[1:10]) and flags in (0, 2):
        return True
    if flags != 1 or header_bytes > len(data) or not is_packet(data):
        return False
    protocol, at = transport(data)
    if not at or at != start or protocol not in (6, 17):
        return False
    if protocol == 6:
        size = 4 * (data[at + 12] >> 4) if at + 20 <= len(data) else 0
        if offset != 16 or size < 20 or at + size > len(data):
            return False
        if not kind:
            return not segment
        own = 1 if data[0] >> 4 == 4 else 4
        return kind in (own, own | 128) and 8 <= segment < 65535 and at + size < len(data)
    if offset != 6 or at + 8 > len(data) or number(data, at + 4, 2) != len(data) - at:
        return False
    if not kind:
        return not segment
    payload = len(data) - at - 8
    return kind == 5 and 0 < payload <= 128 * segment and segment < 65535


# --- our own frames (docs/protocol.md) ---


def records(batch: bytes) -> tuple[list[bytes], list[tuple[int, bytes]]] | None:
    """The packets and the other records of a batch; None when it must be refused."""
    sizes = {1: 8, 2: 8, 4: 25, 6: 6, 128: 4, 129: 2, 133: 25, 135: 10, 138: 12}
    packets, others, at = [], [], 0
    while at < len(batch):
        if at + 4 > len(batch):
            return None
        size, kind = int.from_bytes(batch[at : at + 3], "little"), batch[at + 3]
        body, at = batch[at + 4 : at + 4 + size], at + 4 + size
        if at > len(batch) or 7 <= kind < 128 or size != sizes.get(kind, size):
            return None
        if kind == 0:
            packets.append(body)
        elif kind <= 138:
            others.append((kind, body))
    return packets, others


def handshake(data: bytes) -> tuple[int, int, int, int, bytes] | None:
    """(kind, suite, sender, receiver, noise); None when it must be refused."""
    if len(data) < 12 or data[2] != 1 or data[3] not in (1, 2):
        return None
    sender = int.from_bytes(data[8:12], "little")
    if data[3] == 1:
        return 1, data[4], sender, 0, data[12:]
    return (2, data[4], sender, int.from_bytes(data[12:16], "little"), data[16:]) if len(data) >= 16 else None


def links(body: bytes) -> tuple[int, dict[int, int]] | None:
    entries = [body[at : at + 5] for at in range(4, len(body), 5)]
    found = {entry[0]: int.from_bytes(entry[1:], "little") for entry in entries}
    if not entries or len(entries[-1]) != 5 or len(found) != len(entries) or max(found) > 7:
        return None
    return int.from_bytes(body[:4], "little"), found


def candidates(body: bytes) -> list[tuple[int, IPv4Address | IPv6Address, int]] | None:
    """(kind, address, port) of each candidate; None when the list must be refused."""
    if len(body) < 16 or body[4] > 4:
        return None
    found: list[tuple[int, IPv4Address | IPv6Address, int]] = []
    rest = body[16:]
    while rest:
        if len(rest) < 8 or rest[0] not in (1, 2, 3, 4) or rest[1] not in (4, 6) or rest[2:4] == b"\0\0":
            return None
        kind, port = rest[0], int.from_bytes(rest[2:4], "little")
        size = 4 if rest[1] == 4 else 16
        address, rest = rest[4 : 4 + size], rest[4 + size :]
        if len(address) != size:
            return None
        found.append((kind, ip_address(address), port))
    return found if len(found) <= 8 else None


def join_frame(data: bytes) -> tuple[int, bytes, bytes] | str:
    """(kind, token id, what follows) of an invitation's frame; "none" or "refused"."""
    if not 12 <= len(data) <= 8192:
        return "refused"
    if data[:3] != b"nc\x01" or data[3] not in (3, 4, 5):
        return "none"
    rest = data[12:]
    if (data[3] == 3 and len(rest) < 17) or (data[3] == 5 and len(rest) != 17):
        return "refused"
    return data[3], data[4:12], rest


# --- STUN (RFC 8489), PCP (RFC 6887), NAT-PMP (RFC 6886) ---


def stun_attributes(data: bytes) -> list[tuple[int, bytes]] | None:
    """The attributes of a STUN message; None when it must be refused."""
    if not 20 <= len(data) <= 1280 or data[0] > 63 or data[4:8] != b"\x21\x12\xa4\x42":
        return None
    found: list[tuple[int, bytes]] = []
    rest = data[20:]
    if len(rest) != number(data, 2, 2) or len(rest) % 4:
        return None
    while rest:
        kind, size = number(rest, 0, 2), number(rest, 2, 2)
        value = rest[4 : 4 + size]
        crc = binascii.crc32(data[: len(data) - len(rest)]) ^ 0x5354554E
        if len(value) != size or (kind == 0x8028 and value != crc.to_bytes(4, "big")):
            return None
        found.append((kind, value))
        rest = rest[4 + size + (4 - size % 4) % 4 :]
    return None if any(kind == 0x8028 for kind, _ in found[:-1]) else found


def stun_address(data: bytes) -> tuple[IPv4Address | IPv6Address, int] | None:
    """The address and port that a well-formed STUN message tells; None: it tells none."""
    attributes = dict(reversed(stun_attributes(data) or []))  # the first of a kind counts
    key = bytes(16)
    value = attributes.get(0x0001, b"")
    if 0x0020 in attributes:
        key, value = data[4:20], attributes[0x0020]
    if data[:2] != b"\x01\x01" or value[1:2] + bytes([len(value)]) not in (b"\x01\x08", b"\x02\x14"):
        return None
    plain = bytes(a ^ b for a, b in zip(value[4:], key, strict=False))
    return ip_address(plain), number(value, 2, 2) ^ number(key, 0, 2)


def port_answer(data: bytes) -> tuple[object, ...] | None:
    """What a router says on port 5351; None when it must be refused.

    (protocol, internal port, external port, external address, lifetime, epoch, nonce) of a mapping,
    (external address, epoch) of an announcement, (is PCP, result, lifetime, protocol, nonce) of an error.
    """
    if not 2 <= len(data) <= 1100 or data[1] < 128 or data[0] not in (0, 2):
        return None
    opcode = data[1] - 128
    if data[0] == 2:
        protocol = {17: "udp", 6: "tcp"}.get(data[36]) if len(data) >= 60 else None
        lifetime, epoch = number(data, 4, 4), number(data, 8, 4)
        if len(data) < 24 or len(data) % 4:
            return None
        is_map = opcode == 1 and len(data) >= 60
        if data[3]:
            told = (protocol, data[24:36]) if is_map else (None, b"")
            return True, data[3], lifetime, *told
        if opcode == 0:
            return None, epoch
        if not is_map or protocol is None:
            return None
        outside = IPv6Address(data[44:60])
        ports = number(data, 40, 2), number(data, 42, 2)
        return protocol, *ports, outside.ipv4_mapped or outside, lifetime, epoch, data[24:36]
    if len(data) < 8:
        return None
    result, epoch, protocol = number(data, 2, 2), number(data, 4, 4), {1: "udp", 2: "tcp"}.get(opcode)
    if result:
        return False, result, 0, protocol, b""
    if opcode == 0 and len(data) >= 12:
        return IPv4Address(data[8:12]), epoch
    if protocol is None or len(data) < 16:
        return None
    return protocol, number(data, 8, 2), number(data, 10, 2), None, number(data, 12, 4), epoch, b""


# --- tokens ---

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def token_letters(body: bytes) -> str:
    """The letters behind a token's prefix, checksum included."""
    data = body + hashlib.sha256(b"nconnect token 1" + body).digest()[:4]
    bits = "".join(f"{byte:08b}" for byte in data)
    bits += "0" * (-len(bits) % 5)
    return "".join(_CROCKFORD[int(bits[at : at + 5], 2)] for at in range(0, len(bits), 5))


# --- JSON ---


def strict_json(data: bytes) -> tuple[Any] | None:
    """The value, in a tuple; None when it is no JSON, or has NaN or an infinity in it."""

    def refuse(name: str) -> Any:
        raise ValueError(name)

    try:
        value = json.loads(data.decode(), parse_constant=refuse)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return (value,)


def is_host_port(text: str) -> tuple[str, int] | None:
    """(host, port) of host:port, where an IPv6 address may stand in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        return None
    if ":" in host:
        inside = re.fullmatch(r"\[([^][]*)\]|([^][]*)", host, re.DOTALL)
        address = inside and (inside[1] or inside[2])
        try:
            IPv6Address(address or "")
        except ValueError:
            return None
        return (address, int(port)) if address and "%" not in address else None
    labels = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
    ends = labels - set(".-")
    bare = host.removesuffix(".")
    if not bare or len(bare) > 253 or not set(host) <= labels or bare[0] not in ends or bare[-1] not in ends:
        return None
    return host, int(port)


def websocket_accept(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
