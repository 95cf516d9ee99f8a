"""Targets for IP packets and their virtio-net headers."""

from __future__ import annotations

from ipaddress import ip_address

from nconnect.errors import RemoteProtocolError
from nconnect.ip import offload, packet
from tests.fuzz import oracles
from tests.fuzz.draw import Draw

Refused = RemoteProtocolError

# --- IP ---


def _nearly_ip(draw: Draw) -> bytes:
    """A packet whose lengths are right, most often, in front of whatever bytes come."""
    body = bytearray(draw.take(20 if draw.flag() else 40) + draw.piece(120))
    if len(body) < 40 or body[0] & 1:
        body[0] = 0x40 | draw.of((5, 5, 5, 6, 15, 4, 0))
        body[2:4] = (len(body) + draw.of((0, 0, 0, 0, 1, -1))).to_bytes(2, "big")
        body[9] = draw.of((6, 17, 1, body[9]))
        if draw.flag():
            body[6:8] = bytes(2)
    else:
        body[0] = 0x60 | body[0] & 15
        body[4:6] = (len(body) - 40 + draw.of((0, 0, 0, 0, 1))).to_bytes(2, "big")
        body[6] = draw.of((6, 17, 58, 0, 43, 44, 60, 59, body[6]))
    return bytes(body)


def packets(data: bytes) -> None:
    made = _nearly_ip(Draw(data))
    for content in (data, made, made[:-1]):
        _packet(content)
    for size in (4, 16):
        if len(data) >= size:
            address = data[:size]
            forbidden = oracles.is_never_a_source(ip_address(address))
            assert packet.is_forbidden_source(address) is forbidden, address.hex()


def _packet(data: bytes) -> None:
    view = memoryview(bytearray(data))
    assert packet.is_well_formed(view) is oracles.is_packet(data)
    if not oracles.is_packet(data):
        return
    source, _ = oracles.addresses(data)
    assert packet.is_forbidden_source(source.packed) is oracles.is_never_a_source(source)
    protocol, at = packet.transport(view)
    assert (protocol, at) == oracles.transport(data)
    _flow(data, protocol, at)
    _congestion(data)


def _flow(data: bytes, protocol: int, at: int) -> None:
    """The hash does not look at what differs within a flow, and does at its ends."""
    changed = bytearray(data)
    changed[8 if data[0] >> 4 == 4 else 7] ^= 0xFF  # the hop limit
    if at and protocol in (6, 17) and at + 8 <= len(data):
        changed[at + 4 :] = bytes(len(data) - at - 4)
    assert packet.flow_hash(memoryview(changed)) == packet.flow_hash(memoryview(bytearray(data)))
    changed[16 if data[0] >> 4 == 4 else 24] ^= 1
    assert packet.flow_hash(memoryview(changed)) != packet.flow_hash(memoryview(bytearray(data)))


def _congestion(data: bytes) -> None:
    """Only the two bits change, and an IPv4 header's checksum stays right, whatever it was."""
    fixed = bytearray(data)
    if data[0] >> 4 == 6:
        _marked(fixed)
        return
    for wanted in (None, 0, 1, 2, 0xFFFE):
        size = 4 * (data[0] & 15)
        fixed[10:12] = bytes(2)
        if wanted is not None:  # by the identification
            fixed[4:6] = bytes(2)
            rest = oracles.ones_sum(bytes(fixed[:size]))
            fixed[4:6] = ((0xFFFF - wanted - rest) % 0xFFFF).to_bytes(2, "big")
        fixed[10:12] = (0xFFFF - oracles.ones_sum(bytes(fixed[:size]))).to_bytes(2, "big")
        _marked(fixed)


def _marked(fixed: bytearray) -> None:
    is_ipv4, size = fixed[0] >> 4 == 4, 4 * (fixed[0] & 15)
    ecn = fixed[1] & 3 if is_ipv4 else fixed[1] >> 4 & 3
    marked, fixed = bytearray(fixed), bytearray(fixed)
    assert packet.mark_congestion(memoryview(marked)) is (ecn != 0)
    if not ecn:
        assert marked == fixed
        return
    fixed[1] |= 3 if is_ipv4 else 0x30
    assert marked[:10] == fixed[:10]
    assert marked[12:] == fixed[12:]
    if is_ipv4:
        assert oracles.ones_sum(bytes(marked[:size])) == 0xFFFF
    else:
        assert marked == fixed


def super_packets(data: bytes) -> None:
    """The header's check is what the second opinion says, and what is split adds up to what was whole."""
    for record in (data, _nearly_offload(Draw(data))):
        if len(record) < 11 or not oracles.is_packet(record[10:]):
            continue
        assert offload.check(memoryview(bytearray(record))) is oracles.is_offload_sane(record)
        if oracles.is_offload_sane(record):
            _pieces(record)


def _nearly_offload(draw: Draw) -> bytes:
    """A TCP or UDP record with a virtio-net header that is right, but for one field perhaps."""
    is_tcp, is_ipv4 = draw.flag(), draw.flag()
    options = 4 * draw.of((0, 0, 3, 10)) if is_tcp else 0
    payload = draw.piece(60) + bytes(draw.of((0, 1, 50)))
    transport = bytearray(draw.take(20 if is_tcp else 8)) + bytes(options)
    if is_tcp:
        transport[12] = draw.of(((20 + options) << 2,) * 5 + (0x40, 0x60, 0xF0))
    else:
        transport[4:6] = (8 + len(payload)).to_bytes(2, "big")
    ip = bytearray(draw.take(20 if is_ipv4 else 40))
    length = len(transport) + len(payload)
    if is_ipv4:
        ip[0], ip[2:4], ip[6:8], ip[9] = 0x45, (20 + length).to_bytes(2, "big"), bytes(2), 6 if is_tcp else 17
    else:
        ip[0], ip[4:6], ip[6] = 0x60, length.to_bytes(2, "big"), 6 if is_tcp else 17
    kind = draw.of((0, (1 if is_ipv4 else 4) if is_tcp else 5, 0x81, 0x84))
    segment = draw.of((8, 9, 20, 48)) if kind else 0
    header = [1, kind, len(ip) + len(transport), segment, len(ip), 16 if is_tcp else 6]
    _complete(ip, transport, payload, 6 if is_tcp else 17, segment or len(payload), zero=draw.flag())
    if draw.flag():
        header[draw.below(6)] = draw.of((0, 1, 2, 3, 5, 7, 128, 129, 255, draw.number()))
    if draw.flag():
        (transport if draw.flag() else ip)[draw.below(20) % 8] ^= draw.number()
    return offload.HEADER.pack(*header) + bytes(ip) + bytes(transport) + payload


def _complete(
    ip: bytearray, transport: bytearray, payload: bytes, protocol: int, segment: int, *, zero: bool
) -> None:
    """The pseudo-header's sum where the checksum goes; with `zero` ports with which the first is 0."""
    at = 16 if protocol == 6 else 6
    first = bytearray(transport)
    if protocol == 17:
        first[4:6] = (8 + len(payload[:segment])).to_bytes(2, "big")
    if zero:
        first[:2] = first[at : at + 2] = bytes(2)
        pseudo = oracles.pseudo_header(bytes(ip), protocol, len(first) + len(payload[:segment]))
        total = oracles.ones_sum(pseudo + bytes(first) + payload[:segment])
        transport[:2] = (0xFFFF - total).to_bytes(2, "big")
    pseudo = oracles.pseudo_header(bytes(ip), protocol, len(transport) + len(payload))
    transport[at : at + 2] = oracles.ones_sum(pseudo).to_bytes(2, "big")


def _pieces(record: bytes) -> None:
    whole = record[10:]
    protocol, start = oracles.transport(whole)
    for made, finished in (
        (offload.split(memoryview(bytearray(record))), True),
        (offload.cut(memoryview(bytearray(record)), 90), False),
    ):
        assert made
        for piece in made:
            assert oracles.is_packet(piece[10:])
            assert oracles.is_offload_sane(piece)
        if not record[1] and finished and record[0] & 1:
            _finished(record, made[0][10:], protocol, start)
        if not record[1] or made == [record]:
            continue
        head = start + (4 * (whole[start + 12] >> 4) if protocol == 6 else 8)
        assert b"".join(piece[10 + head :] for piece in made) == whole[head:]
        at = 0
        for number, piece in enumerate(made):
            content = piece[10:]
            _piece(record, content, start, at, number + 1 == len(made), finished)
            at += len(content) - head


def _finished(record: bytes, content: bytes, protocol: int, start: int) -> None:
    """A packet whose checksum was half done, if it was, has a whole one."""
    at = start + (16 if protocol == 6 else 6)
    pseudo = oracles.pseudo_header(content, protocol, len(content) - start)
    if record[10 + at : 12 + at] == oracles.ones_sum(pseudo).to_bytes(2, "big"):
        assert oracles.ones_sum(pseudo + content[start:]) == 0xFFFF
        assert protocol == 6 or content[at : at + 2] != b"\0\0"


def _piece(record: bytes, content: bytes, start: int, at: int, is_last: bool, finished: bool) -> None:
    """One piece's headers, `at` bytes into the payload."""
    whole, segment = record[10:], int.from_bytes(record[4:6], "little")
    is_tcp, is_ipv4 = record[1] != 5, whole[0] >> 4 == 4
    if is_ipv4:
        assert oracles.ones_sum(content[:start]) == 0xFFFF
        identification = oracles.number(whole, 4, 2) + at // segment
        assert oracles.number(content, 4, 2) == identification & 0xFFFF
        assert content[6:10] == whole[6:10]
    assert oracles.addresses(content) == oracles.addresses(whole)
    assert content[start : start + 4] == whole[start : start + 4]  # the ports
    if is_tcp:
        assert (
            oracles.number(content, start + 4, 4) == (oracles.number(whole, start + 4, 4) + at) & 0xFFFFFFFF
        )
        flags = whole[start + 13]
        flags &= 0xFF if is_last else ~0x09  # FIN and PSH belong to the end
        assert content[start + 13] == (flags if not at else flags & ~0x80)  # CWR to the beginning
    else:
        assert oracles.number(content, start + 4, 2) == len(content) - start
    protocol, checksum_at = (6, start + 16) if is_tcp else (17, start + 6)
    pseudo = oracles.pseudo_header(content, protocol, len(content) - start)
    if finished:
        assert oracles.ones_sum(pseudo + content[start:]) == 0xFFFF
        assert is_tcp or content[checksum_at : checksum_at + 2] != b"\0\0"
    else:
        assert oracles.number(content, checksum_at, 2) % 0xFFFF == oracles.ones_sum(pseudo) % 0xFFFF
