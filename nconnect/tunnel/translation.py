"""A provider's addresses as this device sees them: 1:1 translation of packets, for one peer. Pure.

Two providers may have the same networks, even give this device the same address, so that no address in a
packet tells them apart. So everything on this side of the tunnel (routes, firewall, sockets) has addresses
*as seen* here, which are unique, and packets have *real* ones between the peers only.

    to the peer     source: this device's address, seen -> real    destination: seen -> real
    from the peer   source: real -> seen                           destination: this device's, real -> seen

The packet that an ICMP error quotes is translated too, in the other direction of the two ends. Checksums are
updated by the difference (RFC 1624), so that a wrong one stays wrong: of IPv4's header, and of TCP, UDP,
UDP-Lite, DCCP and ICMPv6, whose checksums cover the addresses. An AH header (RFC 4302) does not survive it.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from struct import Struct

from nconnect.ip.checksum import word_sum
from nconnect.ip.offload import NEEDS_CSUM
from nconnect.ip.packet import IPV6_HEADER_BYTES, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP
from nconnect.model import Address, MappedPrefix, Prefix
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES

MAX_ADDRESS_PAIRS = 8192  # whose translation is kept

_U16 = Struct("!H")
_DCCP, _UDP_LITE = 33, 136
_CHECKSUM_AT = {PROTOCOL_TCP: 16, PROTOCOL_UDP: 6, _UDP_LITE: 6, _DCCP: 6, PROTOCOL_ICMPV6: 2}
_IPV4_ERRORS = frozenset((3, 4, 5, 11, 12))  # RFC 792
_FIRST_INFORMATIONAL = 128  # RFC 4443, section 2.1: types below are errors
_ICMP_HEADER_BYTES = 8
_FRAGMENT = 44
_EXTENSIONS = frozenset((0, 43, _FRAGMENT, 60))  # hop-by-hop, routing, fragment, destination options
_MAX_EXTENSION_HEADERS = 8


class _Direction:
    """New addresses for packets of one direction; the pairs of a flow are looked up once."""

    def __init__(self, sources: Moves, destinations: Moves) -> None:
        self._sources = sources
        self._destinations = destinations
        self._known: dict[bytes, tuple[bytes, int]] = {}

    def of(self, pair: bytes) -> tuple[bytes, int]:
        """For the addresses of a header, source and destination: the new ones, and how much their sum grows
        (modulo 0xffff)."""
        found = self._known.get(pair)
        if found is None:
            half = len(pair) // 2
            moved = self._sources.moved(pair[:half]) + self._destinations.moved(pair[half:])
            found = moved, (word_sum(moved) - word_sum(pair)) % 0xFFFF
            if len(self._known) >= MAX_ADDRESS_PAIRS:
                self._known.clear()
            self._known[pair] = found
        return found


class Moves:
    """Moves addresses from a prefix into another of the same length; others stay. The longest one counts."""

    def __init__(self, prefixes: Iterable[tuple[Prefix, Prefix]]) -> None:
        ordered = sorted(prefixes, key=lambda pair: pair[0].prefixlen, reverse=True)
        self._prefixes = [
            (old.max_prefixlen // 8, int(old.netmask), int(old.network_address), int(new.network_address))
            for old, new in ordered
        ]

    def moved(self, address: bytes) -> bytes:
        """`address` is packed: 4 or 16 bytes."""
        value = int.from_bytes(address)
        for size, mask, old, new in self._prefixes:
            if size == len(address) and value & mask == old:
                return (value - old + new).to_bytes(size)
        return address


class Translation:
    """One peer's. Both methods change a record in place: a virtio-net header, then a well-formed packet."""

    def __init__(self, mapped: Iterable[MappedPrefix], own: Iterable[Address]) -> None:
        """`own`: this device's addresses in the peer's tunnel network, as seen here."""
        pairs = tuple(mapped)
        to_real, to_seen = Moves((p.seen, p.real) for p in pairs), Moves(pairs)
        ours = [(ip_network(a), ip_network(to_real.moved(a.packed))) for a in own]
        own_to_real, own_to_seen = Moves(ours), Moves((real, seen) for seen, real in ours)
        self._to_peer = _Direction(own_to_real, to_real)
        self._from_peer = _Direction(to_seen, own_to_seen)
        # What an error quotes went the other way.
        self._quoted_to_peer = _Direction(to_real, own_to_real)
        self._quoted_from_peer = _Direction(own_to_seen, to_seen)

    def to_peer(self, record: memoryview) -> None:
        """A packet of this device, with addresses as seen here."""
        _translate(record, self._to_peer, self._quoted_to_peer)

    def from_peer(self, record: memoryview) -> None:
        """A packet of the peer, with real addresses."""
        _translate(record, self._from_peer, self._quoted_from_peer)


def _translate(record: memoryview, direction: _Direction, quoted: _Direction) -> None:
    packet = record[VIRTIO_HEADER_BYTES:]
    if packet[0] >> 4 == 4:
        pair = bytes(packet[12:20])
        moved, grown = direction.of(pair)
        if moved != pair:
            packet[12:20] = moved
            _subtract(packet, 10, grown)
        protocol, at = packet[9], (packet[0] & 15) << 2
        if packet[6] & 0x1F or packet[7]:
            return  # a later fragment: no transport header
        if protocol == PROTOCOL_ICMP:
            if len(packet) > at and packet[at] in _IPV4_ERRORS:
                _translate_quoted(packet[at + _ICMP_HEADER_BYTES :], quoted)
            return
    else:
        pair = bytes(packet[8:40])
        moved, grown = direction.of(pair)
        if moved != pair:
            packet[8:40] = moved
        protocol, at = _transport6(packet)
        if not at:
            return
        if protocol == PROTOCOL_ICMPV6 and len(packet) > at and packet[at] < _FIRST_INFORMATIONAL:
            grown += _translate_quoted(packet[at + _ICMP_HEADER_BYTES :], quoted)
    offset = _CHECKSUM_AT.get(protocol)
    if offset is None or not grown or at + offset + 2 > len(packet):
        return
    if record[0] & NEEDS_CSUM:
        total = (_U16.unpack_from(packet, at + offset)[0] + grown) % 0xFFFF
        _U16.pack_into(packet, at + offset, total or 0xFFFF)
    elif protocol != PROTOCOL_UDP or packet[at + offset] or packet[at + offset + 1]:
        _subtract(packet, at + offset, grown, zero=0xFFFF if protocol == PROTOCOL_UDP else 0)


def _translate_quoted(packet: memoryview, quoted: _Direction) -> int:
    """The packet in an ICMP error, which may be cut off behind its IP header. By how much its sum grows.

    Its own transport checksum stays: nobody reads it. In IPv4 its header's checksum makes up for the
    addresses, so that the sum stays.
    """
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        moved, grown = quoted.of(bytes(packet[12:20]))
        packet[12:20] = moved
        _subtract(packet, 10, grown)
    elif len(packet) >= IPV6_HEADER_BYTES and packet[0] >> 4 == 6:
        moved, grown = quoted.of(bytes(packet[8:40]))
        packet[8:40] = moved
        return grown
    return 0


def _subtract(packet: memoryview, at: int, grown: int, *, zero: int = 0) -> None:
    """Update the checksum at `at` of words that have grown. `zero` is written for 0."""
    value = (_U16.unpack_from(packet, at)[0] - grown) % 0xFFFF
    _U16.pack_into(packet, at, value or zero)


def _transport6(packet: memoryview) -> tuple[int, int]:
    """(protocol, offset) of the header behind the extension headers; offset 0 if there is none here."""
    protocol, at, size = packet[6], IPV6_HEADER_BYTES, len(packet)
    for _ in range(_MAX_EXTENSION_HEADERS):
        if protocol not in _EXTENSIONS:
            return protocol, at
        if at + 8 > size or (protocol == _FRAGMENT and (packet[at + 2] or packet[at + 3] & 0xF8)):
            break
        protocol, at = packet[at], at + (8 if protocol == _FRAGMENT else (packet[at + 1] + 1) << 3)
    return protocol, 0
