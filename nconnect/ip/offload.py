"""Records of a TUN device with offload: the virtio-net header, its check, and cutting super-packets.

A record is `struct virtio_net_hdr` (virtio 1.2, section 5.1.6), little-endian, and the packet:

    offset  0      1         2        4         6           8            10
            flags  gso_type  hdr_len  gso_size  csum_start  csum_offset  packet ...

A record from a peer must pass `check` before the kernel sees it. The other functions take records that come
from our own kernel or have passed `check` (and `packet.is_well_formed`). They never trust `hdr_len`: the
kernel writes the length of a buffer's linear part there, not of the headers.

A packet with NEEDS_CSUM has the sum of its pseudo-header (with the packet's whole length) in the checksum
field. As in Linux, 0xffff replaces a sum of 0: NAT takes 0 for "this datagram has no checksum" (RFC 768).
"""

from __future__ import annotations

from struct import Struct

from nconnect.ip.checksum import checksum, word_sum
from nconnect.ip.packet import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, PROTOCOL_TCP, PROTOCOL_UDP, transport
from nconnect.model import Buffer
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES

PLAIN = bytes(VIRTIO_HEADER_BYTES)  # a finished packet: no checksum to complete, nothing to cut

NEEDS_CSUM = 1  # flags (virtio 1.2, section 5.1.6; <linux/virtio_net.h>)
DATA_VALID = 2
GSO_NONE = 0  # gso_type
GSO_TCPV4 = 1
GSO_TCPV6 = 4
GSO_UDP_L4 = 5
GSO_ECN = 0x80  # a bit beside a TCP type: the first segment has CWR

HEADER = Struct("<BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset

FINISHED = frozenset((PLAIN, bytes((DATA_VALID,)) + PLAIN[1:]))
_TCP_HEADER_BYTES = 20  # without options
UDP_HEADER_BYTES = 8
_TCP_CHECKSUM_AT = 16
UDP_CHECKSUM_AT = 6
MAX_PACKET_BYTES = 0xFFFF  # of IPv4's total length, and of IPv6's payload length
_GSO_BY_FRAGS = 0xFFFF  # the kernel's internal marker in gso_size; it refuses it from outside

# Bounds on how many packets the kernel can make of one record. TCP: Linux sends no segment under 48 bytes
# (TCP_MIN_SND_MSS), of which up to 40 may be options. UDP: UDP_MAX_SEGMENTS of <linux/udp.h>.
_MIN_TCP_SEGMENT_BYTES = 8
_MAX_UDP_SEGMENTS = 128

_FIN, _PSH, _CWR = 0x01, 0x08, 0x80
_U16 = Struct("!H")
_U32 = Struct("!I")


def check(record: memoryview) -> bool:
    """Whether the virtio-net header of a record from a peer is true of its packet.

    Never raises, whatever the bytes. It checks what the header claims about the packet;
    `packet.is_well_formed` checks the packet itself. Only what Linux emits passes: TCP or UDP with the
    checksum at that protocol's offset, GSO of the packet's own type and with NEEDS_CSUM, no fragment.
    Cost, measured: 0.2 us for a finished packet, 0.8 us for a super-packet.
    """
    header = bytes(record[:VIRTIO_HEADER_BYTES])
    if header in FINISHED:
        return True
    size = len(record) - VIRTIO_HEADER_BYTES
    if size < 28:  # the smallest packet that can need a checksum: IPv4 and UDP
        return False
    fields: tuple[int, int, int, int, int, int] = HEADER.unpack(header)
    flags, gso_type, hdr_len, gso_size, start, offset = fields
    if flags != NEEDS_CSUM or hdr_len > size or start + UDP_HEADER_BYTES > size:
        return False
    first = record[10]
    if first >> 4 == 4:
        protocol, at, gso_tcp = record[19], (first & 15) << 2, GSO_TCPV4
        if at < 20 or record[16] & 0x3F or record[17]:
            return False
    elif first >> 4 == 6 and size >= IPV6_HEADER_BYTES:
        protocol, at, gso_tcp = record[16], IPV6_HEADER_BYTES, GSO_TCPV6
        if start != at:  # extension headers: rare
            protocol, at = transport(record[VIRTIO_HEADER_BYTES:])
    else:
        return False
    if start != at or not at:
        return False
    if protocol == PROTOCOL_TCP:
        if offset != _TCP_CHECKSUM_AT or start + _TCP_HEADER_BYTES > size:
            return False
        tcp_bytes = record[start + 22] >> 4 << 2
        if tcp_bytes < _TCP_HEADER_BYTES or start + tcp_bytes > size:
            return False
        if gso_type == GSO_NONE:
            return gso_size == 0
        return (
            gso_type & ~GSO_ECN == gso_tcp
            and _MIN_TCP_SEGMENT_BYTES <= gso_size < _GSO_BY_FRAGS
            and start + tcp_bytes < size
        )
    if protocol == PROTOCOL_UDP:
        # The length field counts everything from the UDP header on, in a super-packet too.
        if offset != UDP_CHECKSUM_AT or record[start + 14] << 8 | record[start + 15] != size - start:
            return False
        if gso_type == GSO_NONE:
            return gso_size == 0
        payload = size - start - UDP_HEADER_BYTES
        return (
            gso_type == GSO_UDP_L4
            and gso_size < _GSO_BY_FRAGS
            and 0 < payload <= gso_size * _MAX_UDP_SEGMENTS
        )
    return False


def complete(record: memoryview) -> None:
    """Complete the checksum in place, for a receiver without checksum offload.

    The record must be writable and not a super-packet. Afterwards its header is `PLAIN`.
    """
    flags, _, _, _, start, offset = HEADER.unpack_from(record)
    if flags & NEEDS_CSUM:
        at = VIRTIO_HEADER_BYTES + start
        value = checksum(record[at:])
        if value == 0 and offset == UDP_CHECKSUM_AT:
            value = 0xFFFF
        _U16.pack_into(record, at + offset, value)
    record[:VIRTIO_HEADER_BYTES] = PLAIN


def split(record: memoryview, *, mtu: int | None = None) -> list[bytes]:
    """The finished packets that a record represents, as records whose headers are `PLAIN`.

    For a receiver without offload. They take more room than the record did, because each segment repeats
    all headers. TCP segments are made small enough for `mtu` if the record's own segment size is larger;
    datagrams keep their size. A record that is not a super-packet gives its one packet, with the checksum
    completed.
    """
    if record[1] == GSO_NONE:
        if record[0] & NEEDS_CSUM:
            copy = memoryview(bytearray(record))
            complete(copy)
            return [bytes(copy)]
        return [PLAIN + record[VIRTIO_HEADER_BYTES:]]
    super_packet = _SuperPacket(record)
    step = super_packet.segment_bytes
    if mtu is not None and super_packet.is_tcp:
        step = max(_MIN_TCP_SEGMENT_BYTES, min(step, mtu - super_packet.header_bytes))
    return super_packet.pieces(step, finished=True)


def cut(record: memoryview, max_bytes: int) -> list[bytes]:
    """Records of at most `max_bytes` each (virtio-net header included) that represent the same segments.

    For a slow link, which a whole super-packet would occupy for too long. A piece has at least one segment,
    even if that exceeds `max_bytes`; a piece of one segment is an ordinary packet whose checksum is still
    partial. A record that is short enough, or not a super-packet, is returned as it is.
    """
    if record[1] == GSO_NONE or len(record) <= max_bytes:
        return [bytes(record)]
    super_packet = _SuperPacket(record)
    room = max_bytes - VIRTIO_HEADER_BYTES - super_packet.header_bytes
    segments = max(1, room // super_packet.segment_bytes)
    return super_packet.pieces(segments * super_packet.segment_bytes, finished=False)


def set_segment_bytes(record: memoryview, segment_bytes: int) -> None:
    """Turn a TCP packet with a partial checksum, or a super-packet, into one with segments of this size.

    The record must be writable.
    """
    flags, gso_type, _, _, start, offset = HEADER.unpack_from(record)
    if gso_type == GSO_NONE:
        gso_type = GSO_TCPV4 if record[VIRTIO_HEADER_BYTES] >> 4 == 4 else GSO_TCPV6
    header_bytes = start + (record[VIRTIO_HEADER_BYTES + start + 12] >> 4 << 2)
    HEADER.pack_into(record, 0, flags, gso_type, header_bytes, segment_bytes, start, offset)


def part(headers: bytes, payload: bytes, segment: int, *, is_last: bool) -> bytes | None:
    """A record with a part of a super-packet: `payload` begins with the whole's segment `segment` (from 0).

    `headers` are the whole's, its virtio-net header first. They may come from a peer: None when they are not
    the headers of a super-packet, else the record still needs `check`.
    """
    if len(headers) < VIRTIO_HEADER_BYTES + IPV4_HEADER_BYTES + UDP_HEADER_BYTES:
        return None
    flags, gso_type, _, segment_bytes, start, _ = HEADER.unpack_from(headers)
    size = len(headers) - VIRTIO_HEADER_BYTES
    least = UDP_HEADER_BYTES if gso_type == GSO_UDP_L4 else _TCP_HEADER_BYTES
    if flags != NEEDS_CSUM or gso_type == GSO_NONE or not segment_bytes or start + least > size:
        return None
    if start < (IPV4_HEADER_BYTES if headers[VIRTIO_HEADER_BYTES] >> 4 == 4 else IPV6_HEADER_BYTES):
        return None
    if gso_type != GSO_UDP_L4 and headers[VIRTIO_HEADER_BYTES + start + 12] >> 4 < _TCP_HEADER_BYTES >> 2:
        return None  # the data offset (RFC 9293) is within the fixed header
    whole = _SuperPacket(memoryview(headers))
    if whole.header_bytes != size or size + len(payload) > MAX_PACKET_BYTES:
        return None
    return whole.piece(payload, segment * segment_bytes, segment, is_last=is_last)


class _SuperPacket:
    """The headers of a super-packet; makes pieces of it, each with its own headers.

    The pieces' headers differ in a few words only (lengths, IP identification, sequence number, flags), so
    the sum over the rest of the headers is computed once.
    """

    __slots__ = (
        "_fixed_ip_sum", "_fixed_transport_sum", "_flags", "_gso_type", "_headers", "_identification",
        "_is_ipv4", "_payload", "_pseudo_sum", "_sequence", "_start", "header_bytes", "is_tcp",
        "segment_bytes",
    )  # fmt: skip

    def __init__(self, record: memoryview) -> None:
        _, self._gso_type, _, self.segment_bytes, start, _ = HEADER.unpack_from(record)
        self._start: int = start
        self.is_tcp = self._gso_type != GSO_UDP_L4
        packet = record[VIRTIO_HEADER_BYTES:]
        self.header_bytes = start + (packet[start + 12] >> 4 << 2 if self.is_tcp else UDP_HEADER_BYTES)
        self._payload = packet[self.header_bytes :]
        self._headers = headers = bytearray(packet[: self.header_bytes])
        self._is_ipv4 = headers[0] >> 4 == 4
        protocol = PROTOCOL_TCP if self.is_tcp else PROTOCOL_UDP
        (self._sequence,) = _U32.unpack_from(headers, start + 4)
        (self._identification,) = _U16.unpack_from(headers, 4)
        self._flags = headers[start + 13] if self.is_tcp else 0
        addresses = headers[12:20] if self._is_ipv4 else headers[8:40]
        self._pseudo_sum = word_sum(addresses) + protocol  # without the length
        ip = headers[:start]
        ip[2:6] = bytes(4)  # total length, identification
        ip[10:12] = bytes(2)  # header checksum
        self._fixed_ip_sum = word_sum(ip)
        rest = headers[start:]
        if self.is_tcp:
            rest[4:8] = bytes(4)  # sequence number
            rest[13] = 0  # flags
            rest[16:18] = bytes(2)
        else:
            rest[4:8] = bytes(4)  # length, checksum
        self._fixed_transport_sum = word_sum(rest)

    def pieces(self, step: int, *, finished: bool) -> list[bytes]:
        """Records of up to `step` payload bytes each, with finished or with partial checksums."""
        payload, size = self._payload, len(self._payload)
        per_piece = -(-step // self.segment_bytes)
        return [
            self.piece(
                payload[at : at + step], at, number * per_piece, is_last=at + step >= size, finished=finished
            )
            for number, at in enumerate(range(0, size, step))
        ]

    def piece(self, part: Buffer, at: int, packets: int, *, is_last: bool, finished: bool = False) -> bytes:
        """A record with this part of the payload, which begins at `at`, after so many `packets`."""
        headers, start = self._headers, self._start
        length = self.header_bytes - start + len(part)  # transport header and payload
        self._write_ip(length, self._identification + packets)
        total = self._pseudo_sum + length
        if self.is_tcp:
            own = self._flags if at == 0 else self._flags & ~_CWR
            if not is_last:
                own &= ~(_FIN | _PSH)
            own_sequence = (self._sequence + at) & 0xFFFFFFFF
            _U32.pack_into(headers, start + 4, own_sequence)
            headers[start + 13] = own
            checksum_at = start + _TCP_CHECKSUM_AT
            varying = own_sequence + own
        else:
            _U16.pack_into(headers, start + 4, length)
            checksum_at = start + UDP_CHECKSUM_AT
            varying = length
        if not finished:
            _U16.pack_into(headers, checksum_at, total % 0xFFFF or 0xFFFF)
            return b"".join((self._virtio_header(at, len(part)), headers, part))
        value = -(total + self._fixed_transport_sum + varying + word_sum(part)) % 0xFFFF
        if value == 0 and not self.is_tcp:
            value = 0xFFFF
        _U16.pack_into(headers, checksum_at, value)
        return b"".join((PLAIN, headers, part))

    def _write_ip(self, transport_bytes: int, identification: int) -> None:
        """Write a piece's length, and in IPv4 its identification and checksum, into the headers."""
        headers = self._headers
        if self._is_ipv4:
            total = self._start + transport_bytes
            identification &= 0xFFFF
            _U16.pack_into(headers, 2, total)
            _U16.pack_into(headers, 4, identification)
            _U16.pack_into(headers, 10, -(self._fixed_ip_sum + total + identification) % 0xFFFF)
        else:
            _U16.pack_into(headers, 4, self._start + transport_bytes - IPV6_HEADER_BYTES)

    def _virtio_header(self, at: int, payload_bytes: int) -> bytes:
        """The virtio-net header of the piece that begins at `at` in the payload."""
        gso_type, gso_size = self._gso_type, self.segment_bytes
        if payload_bytes <= gso_size:
            gso_type = gso_size = GSO_NONE
        elif at:
            gso_type &= ~GSO_ECN  # CWR is in the first piece only
        checksum_at = _TCP_CHECKSUM_AT if self.is_tcp else UDP_CHECKSUM_AT
        return HEADER.pack(NEEDS_CSUM, gso_type, self.header_bytes, gso_size, self._start, checksum_at)
