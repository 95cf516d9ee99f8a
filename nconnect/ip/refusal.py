"""The packet that refuses another one, as the host at its destination would send it. Pure.

A TCP segment is answered with a reset (RFC 9293, section 3.10.7.1: what a closed port sends), everything else
with the ICMP error "administratively prohibited" (RFC 1812, section 5.2.7.1: type 3, code 13; RFC 4443,
section 3.1: type 1, code 1), from the destination's address.
"""

from __future__ import annotations

import struct

from nconnect.ip.checksum import checksum, word_sum
from nconnect.ip.packet import (
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    PROTOCOL_ICMP,
    PROTOCOL_ICMPV6,
    PROTOCOL_TCP,
    transport,
)

_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_TCP = struct.Struct(">HHIIBBHHH")
_HOP_LIMIT = 64
_MAX_IPV4_ERROR_BYTES = 576  # RFC 1812, section 4.3.2.3
_MAX_IPV6_ERROR_BYTES = 1280  # RFC 4443, section 2.4
_IPV6_ECHO_REQUEST, _IPV4_ECHO_REQUEST = 128, 8


def opens(view: memoryview) -> bool:
    """Whether the packet is surely the first of its connection: TCP's SYN, or an ICMP message.

    A datagram of UDP may be one of many. The packet must be well-formed (`packet.is_well_formed`).
    """
    protocol, at = transport(view)
    if protocol == PROTOCOL_TCP:
        return 0 < at <= len(view) - _TCP.size and view[at + 13] & (_SYN | _ACK) == _SYN
    return protocol in (PROTOCOL_ICMP, PROTOCOL_ICMPV6)


def refusal_of(view: memoryview) -> bytes | None:
    """The IP packet that refuses this one; None where none may be sent (RFC 1122, section 3.2.2): to a reset,
    an ICMP message other than an echo request, a fragment, from or to a group.

    The packet must be well-formed (`packet.is_well_formed`).
    """
    protocol, at = transport(view)
    is_4 = view[0] >> 4 == 4
    source, target = (view[12:16], view[16:20]) if is_4 else (view[8:24], view[24:40])
    if not 0 < at < len(view) or _is_group(target) or _is_group(source):
        return None
    if protocol == PROTOCOL_TCP:
        reset = _reset(view, at)
        return None if reset is None else _packet(is_4, PROTOCOL_TCP, target, source, reset, 16)
    if protocol == (PROTOCOL_ICMP if is_4 else PROTOCOL_ICMPV6):
        echo = _IPV4_ECHO_REQUEST if is_4 else _IPV6_ECHO_REQUEST
        if view[at] != echo:
            return None
    if is_4:
        quoted = bytes(view[: _MAX_IPV4_ERROR_BYTES - IPV4_HEADER_BYTES - 8])
        return _packet(True, PROTOCOL_ICMP, target, source, bytearray((3, 13, *bytes(6), *quoted)), 2)
    quoted = bytes(view[: _MAX_IPV6_ERROR_BYTES - IPV6_HEADER_BYTES - 8])
    return _packet(False, PROTOCOL_ICMPV6, target, source, bytearray((1, 1, *bytes(6), *quoted)), 2)


def _reset(view: memoryview, at: int) -> bytearray | None:
    if len(view) < at + _TCP.size:
        return None
    source, target, sequence, acknowledged, offset, flags, *_ = _TCP.unpack_from(view, at)
    if flags & _RST:
        return None
    if flags & _ACK:
        return bytearray(_TCP.pack(target, source, acknowledged, 0, 5 << 4, _RST, 0, 0, 0))
    size = max(0, len(view) - at - (offset >> 4) * 4) + bool(flags & _SYN) + bool(flags & _FIN)
    return bytearray(
        _TCP.pack(target, source, 0, (sequence + size) & 0xFFFFFFFF, 5 << 4, _RST | _ACK, 0, 0, 0)
    )


def _packet(
    is_4: bool, protocol: int, source: memoryview, target: memoryview, content: bytearray, sum_at: int
) -> bytes:
    """`sum_at`: where the checksum lies in `content`."""
    pseudo = (
        0 if protocol == PROTOCOL_ICMP else word_sum(bytes(source) + bytes(target)) + protocol + len(content)
    )
    struct.pack_into(">H", content, sum_at, checksum(content, pseudo))
    if not is_4:
        head = struct.pack(">IHBB", 6 << 28, len(content), protocol, _HOP_LIMIT)
        return b"".join((head, source, target, content))
    size = IPV4_HEADER_BYTES + len(content)
    header = bytearray(struct.pack(">BBHHHBBH", 0x45, 0, size, 0, 0x4000, _HOP_LIMIT, protocol, 0))
    header += bytes(source) + bytes(target)
    struct.pack_into(">H", header, 10, checksum(header))
    return bytes(header + content)


def _is_group(address: memoryview) -> bool:
    """Multicast, limited broadcast, or no address at all."""
    if len(address) == 4:
        return address[0] >= 224 or not any(address)
    return address[0] == 0xFF or not any(address)
