"""Generic receive offload for datagrams: consecutive datagrams of one flow and size become one record.

Most programs send datagrams without UDP_SEGMENT, and each of them is a record of its own. Joined into a
super-packet like those that UDP_SEGMENT makes, they are queued, sealed, checked and written as one, and the
kernel at the other end cuts them again. Only records that were read without waiting are joined, so none is
delayed, and the order of all packets stays.

Datagrams are joined only if cutting restores them bit for bit: they have equal size; our own kernel left
their checksums to be completed (so that a wrong checksum is not made right); and in IPv4 they may not be
fragmented, so that their identification has no meaning (RFC 6864, section 4.1) and is counted up from the
first one's.
"""

from __future__ import annotations

from struct import Struct

from nconnect.ip import offload
from nconnect.ip.offload import (
    GSO_NONE,
    GSO_UDP_L4,
    HEADER,
    NEEDS_CSUM,
    UDP_CHECKSUM_AT,
    UDP_HEADER_BYTES,
)
from nconnect.ip.packet import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, PROTOCOL_UDP, is_well_formed
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES

MAX_JOINED = 64  # packets: UDP_MAX_SEGMENTS of <linux/udp.h> before Linux 6.9
MAX_JOINED_BYTES = VIRTIO_HEADER_BYTES + 65535  # the largest record: IPv4's total length has 16 bits
MAX_DATAGRAM_BYTES = MAX_JOINED_BYTES // 2  # a larger record has no room for another one

NO_RECORD = -1  # no record has this size
_DF = 0x40
_U16 = Struct("!H")
# All headers but IPv4's identification and header checksum: the virtio-net header, IP and UDP.
_COMMON4 = Struct("14s2x4s2x16s")
_COMMON6 = Struct("58s")


class Run:
    """The last record of a batch under construction, and how many datagrams it holds so far.

    The caller reads records into `arena`. For each record that starts a new run it sets `start` and `size`;
    before that, and after the last record, it calls `finish` if `count` is above 1.
    """

    __slots__ = ("_arena", "_common", "_headers", "_view", "count", "end", "size", "start")

    def __init__(self, arena: bytearray) -> None:
        """`arena` must extend at least 58 bytes beyond the beginning of any record."""
        self.start = 0
        self.size = NO_RECORD  # of the first datagram's record, virtio-net header and packet
        self.count = 1
        self.end = 0  # of the whole run, valid after `extend`
        self._arena = arena
        self._view = memoryview(arena)
        self._headers = 0  # their length; 0 if the record cannot be joined with another
        self._common: tuple[bytes, ...] = ()

    def extend(self, at: int) -> bool:
        """Join the record at `at`, which has the same `size` (at most 32 KiB) and follows all others.

        Its payload is moved to the end of the run. Returns False, and changes nothing, if it does not belong
        to this run.
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
        """End the run: write a super-packet's headers; return (start, end) of the record."""
        start, end = self.start, self.end
        _write_headers(self._view[start:end], self.size - self._headers)
        self.size, self.count = NO_RECORD, 1
        return start, end


def _joinable_headers(record: memoryview) -> int:
    """The length of a record's headers (virtio-net, IP, UDP); 0 if it may not be joined with others."""
    if record[0] != NEEDS_CSUM or record[1] != GSO_NONE:
        return 0
    packet = record[VIRTIO_HEADER_BYTES:]
    if packet[0] == 0x45:
        start = IPV4_HEADER_BYTES
        if packet[9] != PROTOCOL_UDP or packet[6] != _DF:
            return 0
    elif packet[0] >> 4 == 6 and packet[6] == PROTOCOL_UDP:
        start = IPV6_HEADER_BYTES
    else:
        return 0
    headers = VIRTIO_HEADER_BYTES + start + UDP_HEADER_BYTES
    if len(record) <= headers or not is_well_formed(packet) or not offload.check(record):
        return 0
    return headers


def _common(arena: bytearray, at: int) -> tuple[bytes, ...]:
    """The header fields that must be equal in all records of a run."""
    return (_COMMON4 if arena[at + VIRTIO_HEADER_BYTES] == 0x45 else _COMMON6).unpack_from(arena, at)


def _write_headers(record: memoryview, segment_bytes: int) -> None:
    """Turn the first datagram's headers into those of the whole `record`: see `nconnect.ip.offload`.

    Checksums are updated by the difference of the lengths (RFC 1624), so a wrong checksum stays wrong.
    """
    packet = record[VIRTIO_HEADER_BYTES:]
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
