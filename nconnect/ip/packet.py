"""Fields of IPv4 and IPv6 packets, each read from a view when it is asked for.

Check `is_well_formed` first: every other function here reads what it accepts without an error. A view begins
at the version nibble (in a TUN record, after the virtio-net header) and ends with the packet.
"""

from __future__ import annotations

from zlib import crc32

IPV4_HEADER_BYTES = 20  # without options
IPV6_HEADER_BYTES = 40
PROTOCOL_ICMP = 1
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
PROTOCOL_ICMPV6 = 58

_WITH_PORTS = frozenset((PROTOCOL_TCP, PROTOCOL_UDP, 33, 132, 136))  # also DCCP, SCTP, UDP-Lite
_FRAGMENT = 44
_NO_NEXT_HEADER = 59
_EXTENSION_HEADERS = frozenset((0, 43, 60, 135))  # hop-by-hop, routing, destination options, mobility
# More extension headers than a real packet has (RFC 8200, section 4.1 lists at most 7), and few enough that
# a packet made of nothing else costs little.
_MAX_EXTENSION_HEADERS = 8


def is_well_formed(view: memoryview) -> bool:
    """Whether the view is exactly one IPv4 or IPv6 packet, by its fixed header.

    The length in the header must equal the view's. That holds for super-packets too: the kernel writes
    their real length, up to 65535. (Above that it would write 0, "BIG TCP", which needs a larger
    gso_max_size than a TUN device has.) The kernel checks the header's checksum.
    """
    size = len(view)
    if size < IPV4_HEADER_BYTES:
        return False
    first = view[0]
    if first >> 4 == 4:
        return IPV4_HEADER_BYTES <= (first & 15) << 2 <= size == (view[2] << 8 | view[3])
    return (
        first >> 4 == 6 and size >= IPV6_HEADER_BYTES and size == (view[4] << 8 | view[5]) + IPV6_HEADER_BYTES
    )


def transport(view: memoryview) -> tuple[int, int]:
    """(protocol, offset) of the transport header of a well-formed packet.

    The offset is 0 if no transport header can be read: in a fragment (the first one too, so that all
    fragments of a packet are treated alike), or behind more or longer extension headers than are followed.
    The protocol is then that of the header at which the search ended.
    """
    if view[0] >> 4 == 4:
        if view[6] & 0x3F or view[7]:  # more fragments, or an offset
            return view[9], 0
        return view[9], (view[0] & 15) << 2
    protocol, at = view[6], IPV6_HEADER_BYTES
    if protocol in _WITH_PORTS:
        return protocol, at
    size = len(view)
    for _ in range(_MAX_EXTENSION_HEADERS):
        if protocol not in _EXTENSION_HEADERS:
            return protocol, 0 if protocol in (_FRAGMENT, _NO_NEXT_HEADER) else at
        if at + 8 > size:
            break
        protocol, at = view[at], at + 8 + (view[at + 1] << 3)
    return protocol, 0


def flow_hash(view: memoryview) -> int:
    """A 32-bit number that is the same for all packets of one flow in one direction.

    It is made from addresses, protocol and ports; without ports (fragments, ICMP, ESP, …) from addresses and
    protocol. It is the same in every process and on every run. It does not resist deliberate collisions,
    which can only slow down flows to the same peer.
    """
    if view[0] == 0x45 and not (view[6] & 0x3F or view[7]) and len(view) >= 24:
        protocol = view[9]
        # The ports follow the addresses.
        return crc32(view[12:24] if protocol in _WITH_PORTS else view[12:20], protocol)
    protocol, at = transport(view)
    addresses = view[12:20] if view[0] >> 4 == 4 else view[8:40]
    hashed = crc32(addresses, protocol)
    if at and protocol in _WITH_PORTS and at + 4 <= len(view):
        hashed = crc32(view[at : at + 4], hashed)
    return hashed


def is_forbidden_source(address: bytes) -> bool:
    """Whether a packet from a peer may never have this source, whatever its allowed_ips say.

    These are unspecified and "this network", loopback, link-local, multicast, reserved and broadcast
    addresses; in IPv6 also those that represent IPv4 addresses (mapped and compatible).
    """
    first = address[0]
    if len(address) == 4:
        return first >= 224 or first in (0, 127) or (first == 169 and address[1] == 254)
    if first == 0xFF or (first == 0xFE and address[1] & 0xC0 == 0x80):
        return True
    # ::/96: unspecified, loopback and IPv4-compatible; ::ffff:0:0/96: IPv4-mapped.
    return first == 0 and not any(address[:10]) and address[10:12] in (b"\0\0", b"\xff\xff")


def mark_congestion(view: memoryview) -> bool:
    """Mark a well-formed packet "congestion experienced" (RFC 3168, section 5), in place.

    Returns False, and changes nothing, if the sender does not support ECN (not-ECT). The mark of a
    super-packet applies to all of its segments. The view must be writable.
    """
    if view[0] >> 4 == 6:
        ecn = view[1] >> 4 & 3
        if ecn:
            view[1] |= 0x30
        return ecn != 0
    ecn = view[1] & 3
    if ecn in (1, 2):
        view[1] |= 3
        # The word grew by 3 - ecn, so its checksum shrinks by that (RFC 1624).
        header_checksum = ((view[10] << 8 | view[11]) - (3 - ecn)) % 0xFFFF
        view[10], view[11] = header_checksum >> 8, header_checksum & 0xFF
    return ecn != 0
