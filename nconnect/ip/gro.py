"""Generic receive offload for datagrams: equal ones of one flow, read one after another, become one record.

A program that sends datagrams without UDP_SEGMENT (most do) makes a record of each. Joined to a super-packet
of the kind that UDP_SEGMENT makes, they are queued, sealed, checked and written as one, and the kernel at the
other end cuts them again. Only what was read without waiting is joined, so none is later for it, and the
order of all packets stays.

What may be joined is what cutting gives back bit for bit: datagrams of equal size, whose checksums our own
kernel left to be completed (so that a wrong one is not made right), and which in IPv4 are never fragmented,
so that their identification means nothing (RFC 6864, section 4.1); it is counted on from the first one's.
"""

from __future__ import annotations

from struct import Struct

from nconnect.ip.offload import (
    GSO_NONE,
    GSO_UDP_L4,
    HEADER,
    HEADER_BYTES,
    NEEDS_CSUM,
    UDP_CHECKSUM_AT,
    UDP_HEADER_BYTES,
    check,
)
from nconnect.ip.packet import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, PROTOCOL_UDP, is_well_formed

MAX_JOINED = 64  # packets: UDP_MAX_SEGMENTS of <linux/udp.h> before Linux 6.9
MAX_JOINED_BYTES = HEADER_BYTES + 65535  # a record, by what IPv4's total length can tell
MAX_DATAGRAM_BYTES = MAX_JOINED_BYTES // 2  # a record of more has no room for another

NO_RECORD = -1  # no record has this size
_DF = 0x40
_U16 = Struct("!H")
# All headers but IPv4's identification and header checksum: the virtio-net header, IP and UDP.
_COMMON4 = Struct("14s2x4s2x16s")
_COMMON6 = Struct("58s")


class Run:
    """The last record of a batch under construction, and how many datagrams it stands for by now.

    Whoever reads records into `arena` sets `start` and `size` of each that begins anew, and calls `finish`
    before the next one, and after the last, if `count` is above 1.
    """

    __slots__ = ("_arena", "_common", "_headers", "_view", "count", "end", "size", "start")

    def __init__(self, arena: bytearray) -> None:
        """The arena reaches at least 58 bytes behind any record's beginning."""
        self.start = 0
        self.size = NO_RECORD  # of the first datagram's record, virtio-net header and packet
        self.count = 1
        self.end = 0  # of all of it, valid after `extend`
        self._arena = arena
        self._view = memoryview(arena)
        self._headers = 0  # how long they are; 0 if the record can't be joined with any
        self._common: tuple[bytes, ...] = ()

    def clear(self) -> None:
        """A batch begins: there is no record yet."""
        self.size = NO_RECORD
        self.count = 1

    def extend(self, at: int) -> bool:
        """Take the record at `at`, of the same `size` (at most 32 KiB) and behind all others, into this one.

        Its payload is moved to the end. False, and nothing is changed, when it does not belong here.
        """
        arena, start = self._arena, self.start
        if self.count == 1:
            self.end = start + self.size
            self._headers = _joinable_headers(self._view[start : self.end])
            if self._headers:
                self._common = _common(arena, start)
        headers = self._headers
        if not headers or self.count >= MAX_JOINED or _common(arena, at) != self._common:
            return False
        end = self.end + self.size - headers
        if end - start > MAX_JOINED_BYTES:
            return False
        self._view[self.end : end] = self._view[at + headers : at + self.size]
        self.end = end
        self.count += 1
        return True

    def finish(self) -> tuple[int, int]:
        """Make its headers those of a super-packet; (start, end) of the record. Ends the run."""
        start, end = self.start, self.end
        _write_headers(self._view[start:end], self.size - self._headers)
        self.clear()
        return start, end


def _joinable_headers(record: memoryview) -> int:
    """How long the headers (virtio-net, IP, UDP) of a record are that may be joined with others; else 0."""
    if record[0] != NEEDS_CSUM or record[1] != GSO_NONE:
        return 0
    packet = record[HEADER_BYTES:]
    if packet[0] == 0x45:
        start = IPV4_HEADER_BYTES
        if packet[9] != PROTOCOL_UDP or packet[6] != _DF:
            return 0
    elif packet[0] >> 4 == 6 and packet[6] == PROTOCOL_UDP:
        start = IPV6_HEADER_BYTES
    else:
        return 0
    headers = HEADER_BYTES + start + UDP_HEADER_BYTES
    if len(record) <= headers or not is_well_formed(packet) or not check(record):
        return 0
    return headers


def _common(arena: bytearray, at: int) -> tuple[bytes, ...]:
    """What the record at `at` has in common with all that may be joined with it."""
    return (_COMMON4 if arena[at + HEADER_BYTES] == 0x45 else _COMMON6).unpack_from(arena, at)


def _write_headers(record: memoryview, segment_bytes: int) -> None:
    """Turn the first datagram's headers into those of all that is in `record`: see `nconnect.ip.offload`.

    The sums change by what the lengths do (RFC 1624): one that was wrong stays wrong.
    """
    packet = record[HEADER_BYTES:]
    if packet[0] >> 4 == 4:
        start = IPV4_HEADER_BYTES
        grown = len(packet) - _U16.unpack_from(packet, 2)[0]
        _U16.pack_into(packet, 2, len(packet))
        _U16.pack_into(packet, 10, (_U16.unpack_from(packet, 10)[0] - grown) % 0xFFFF)
    else:
        start = IPV6_HEADER_BYTES
        grown = len(packet) - start - _U16.unpack_from(packet, 4)[0]
        _U16.pack_into(packet, 4, len(packet) - start)
    _U16.pack_into(packet, start + 4, len(packet) - start)
    checksum_at = start + UDP_CHECKSUM_AT
    pseudo_sum = (_U16.unpack_from(packet, checksum_at)[0] + grown) % 0xFFFF
    _U16.pack_into(packet, checksum_at, pseudo_sum or 0xFFFF)
    HEADER.pack_into(
        record, 0, NEEDS_CSUM, GSO_UDP_L4, start + UDP_HEADER_BYTES, segment_bytes, start, UDP_CHECKSUM_AT
    )
