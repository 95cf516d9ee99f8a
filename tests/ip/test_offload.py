"""The virtio-net header's check, and super-packets split and cut, with scapy as the judge of every byte."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nconnect.ip import offload
from nconnect.ip.checksum import checksum
from nconnect.ip.packet import is_well_formed
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES
from tests.ip.packets import (
    ACK,
    CWR,
    FIN,
    IP,
    PSH,
    TCP,
    UDP,
    ICMPv6EchoRequest,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    Raw,
    assert_finished,
    ipv4,
    ipv6,
    noise,
    partial,
    plain,
    tcp_super,
    udp_super,
    view,
)

SMALL = {
    "tcp4": ipv4(TCP(sport=1, dport=2) / Raw(b"hello")),
    "tcp6": ipv6(TCP(sport=1, dport=2) / Raw(b"hello")),
    "udp4": ipv4(UDP(sport=1, dport=2) / Raw(b"hello!")),
    "udp6": ipv6(UDP(sport=1, dport=2) / Raw(b"hello!")),
}
SUPER = {
    "tcp4": tcp_super(10_000, 1448),
    "tcp6": tcp_super(10_000, 1428, version=6),
    "tcp4-ecn": tcp_super(10_000, 1448, flags=ACK | CWR),
    "udp4": udp_super(10_000, 1400),
    "udp6": udp_super(10_000, 1400, version=6),
}


def changed(record: memoryview, **fields: int) -> memoryview:
    """A copy of the record with other values in its virtio-net header."""
    names = ("flags", "gso_type", "hdr_len", "gso_size", "start", "offset")
    values = dict(zip(names, offload.HEADER.unpack_from(record), strict=True)) | fields
    copy = view(bytes(record))
    offload.HEADER.pack_into(copy, 0, *(values[name] for name in names))
    return copy


def split(record: memoryview, *, mtu: int | None = None) -> list[bytes]:
    """The packets of the records that `offload.split` gives."""
    records = offload.split(record, mtu=mtu)
    assert all(made[:VIRTIO_HEADER_BYTES] == offload.PLAIN for made in records)
    return [made[VIRTIO_HEADER_BYTES:] for made in records]


def payload_of(packets: list[bytes]) -> bytes:
    joined = b""
    for packet in packets:
        parsed = assert_finished(packet)
        joined += bytes((parsed[TCP] if TCP in parsed else parsed[UDP]).payload)
    return joined


# What passes


@pytest.mark.parametrize("name", SMALL)
def test_ordinary_packets_pass(name: str) -> None:
    assert offload.check(plain(SMALL[name]))
    assert offload.check(partial(SMALL[name]))
    assert offload.check(changed(plain(SMALL[name]), flags=offload.DATA_VALID))


@pytest.mark.parametrize("name", SUPER)
def test_super_packets_pass(name: str) -> None:
    record = SUPER[name]
    assert is_well_formed(record[VIRTIO_HEADER_BYTES:])
    assert offload.check(record)
    assert offload.check(changed(record, hdr_len=0))
    assert offload.check(changed(record, hdr_len=len(record) - 10))  # a linear buffer: the kernel says all


def test_packets_behind_extension_headers_pass() -> None:
    packet = ipv6(IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2) / Raw(b"hello"))
    assert offload.check(partial(packet))
    assert not offload.check(changed(partial(packet), start=40))


def test_what_is_neither_tcp_nor_udp_passes_only_when_finished() -> None:
    packet = ipv6(ICMPv6EchoRequest(data=b"x" * 40))
    assert offload.check(plain(packet))
    assert not offload.check(changed(plain(packet), flags=1, start=40, offset=2))
    assert not offload.check(changed(plain(packet), flags=1, start=40, offset=16))


# What does not


@pytest.mark.parametrize("name", SUPER)
@pytest.mark.parametrize(
    "fields",
    [
        {"flags": 0},
        {"flags": 2},
        {"flags": 3},
        {"flags": 5},
        {"flags": 0x81},
        {"gso_size": 0},
        {"gso_size": 0xFFFF},
        {"gso_type": 0, "flags": 1},  # a size without a type
        {"gso_type": 2},
        {"gso_type": 3},  # UFO: long gone
        {"gso_type": 0x80},
        {"gso_type": 0x85},
        {"gso_type": 0x40 | 1},
        {"start": 0},
        {"start": 14},
        {"start": 65_535},
        {"offset": 0},
        {"offset": 8},
        {"offset": 65_535},
        {"hdr_len": 65_535},
    ],
    ids=str,
)
def test_headers_that_contradict_the_packet_are_refused(name: str, fields: dict[str, int]) -> None:
    assert not offload.check(changed(SUPER[name], **fields))


@pytest.mark.parametrize("name", SUPER)
@pytest.mark.parametrize("gso_type", [1, 4, 5, 0x81, 0x84])
def test_a_type_of_another_protocol_is_refused(name: str, gso_type: int) -> None:
    fits = {"tcp4": (1, 0x81), "tcp6": (4, 0x84), "tcp4-ecn": (1, 0x81), "udp4": (5,), "udp6": (5,)}
    assert offload.check(changed(SUPER[name], gso_type=gso_type)) == (gso_type in fits[name])


def test_a_finished_packet_must_have_an_empty_header() -> None:
    record = plain(SMALL["tcp4"])
    for name in ("gso_type", "hdr_len", "gso_size", "start", "offset"):
        assert not offload.check(changed(record, **{name: 1}))
    for flags in (3, 4, 0x80):
        assert not offload.check(changed(record, flags=flags))


@pytest.mark.parametrize("at_and_bits", [(16, 0x20), (16, 0x1F), (17, 0x01)], ids=str)
def test_a_fragment_has_no_checksum_to_finish(at_and_bits: tuple[int, int]) -> None:
    at, bits = at_and_bits
    for record in (partial(SMALL["udp4"]), SUPER["tcp4"]):
        fragment = view(bytes(record))
        fragment[at] |= bits
        assert not offload.check(fragment)
    harmless = partial(SMALL["udp4"])
    harmless[16] |= 0x40  # don't fragment
    assert offload.check(harmless)


def test_a_tcp_header_that_does_not_fit_is_refused() -> None:
    record = SUPER["tcp4"]
    for words in (0, 4):
        copy = view(bytes(record))
        copy[10 + 20 + 12] = words << 4
        assert not offload.check(copy)
    short = partial(SMALL["tcp4"])
    short[10 + 20 + 12] = 0xF0  # 60 bytes of header in a packet of 45
    assert not offload.check(short)
    assert not offload.check(tcp_super(0, 1448))  # headers alone are nothing to split


def test_a_udp_length_that_is_not_the_rest_is_refused() -> None:
    for record in (partial(SMALL["udp4"]), view(bytes(SUPER["udp6"]))):
        at = 10 + (20 if record[10] >> 4 == 4 else 40) + 4
        record[at + 1] ^= 1
        assert not offload.check(record)


def test_one_record_never_becomes_very_many_packets() -> None:
    assert not offload.check(changed(SUPER["tcp4"], gso_size=7))
    assert offload.check(changed(SUPER["tcp4"], gso_size=8))
    assert offload.check(udp_super(128 * 10, 10))
    assert not offload.check(udp_super(128 * 10 + 1, 10))


@pytest.mark.parametrize("name", SUPER)
def test_truncated_records_are_refused(name: str) -> None:
    headers = 10 + (20 if "4" in name else 40) + (32 if "tcp" in name else 8)
    for size in range(headers + 1):
        assert not offload.check(SUPER[name][:size])


@given(st.binary(max_size=120))
def test_any_bytes_are_judged(data: bytes) -> None:
    offload.check(memoryview(data))


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(SUPER)),
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=6),
    st.integers(0, 120),
)
def test_what_passes_can_be_split_and_cut(name: str, edits: list[tuple[int, int]], size: int) -> None:
    """Records close to real ones: whatever passes is handled, and no piece leaves its bounds."""
    record = view(bytes(SUPER[name]))
    for at, value in edits:
        record[at] = value
    if size:
        record = record[:size]
    if not offload.check(record) or not is_well_formed(record[10:]):
        return
    for packet in split(record):
        assert is_well_formed(memoryview(packet))
    for piece in offload.cut(record, 4000):
        assert offload.check(memoryview(piece))
        assert is_well_formed(memoryview(piece)[10:])


# Finishing a checksum


@pytest.mark.parametrize("name", SMALL)
def test_complete_writes_the_checksum(name: str) -> None:
    record = partial(SMALL[name])
    assert bytes(record[10:]) != SMALL[name]
    offload.complete(record)
    assert bytes(record) == offload.PLAIN + SMALL[name]
    offload.complete(record)
    assert bytes(record) == offload.PLAIN + SMALL[name]


def udp_that_sums_to_zero() -> bytes:
    """A datagram whose checksum comes out as 0, which UDP must send as 0xffff."""
    base = ipv4(UDP(sport=1, dport=2) / Raw(b"\0\0rest"))
    found = int.from_bytes(base[26:28], "big")
    return ipv4(UDP(sport=1, dport=2) / Raw(found.to_bytes(2, "big") + b"rest"))


def test_udp_never_goes_out_without_a_checksum() -> None:
    packet = udp_that_sums_to_zero()
    assert packet[26:28] == b"\xff\xff"  # scapy knows too
    record = partial(packet)
    offload.complete(record)
    assert bytes(record[10:]) == packet
    assert split(partial(packet)) == [packet]
    # The same as the last segment of a super-packet.
    longer = ipv4(UDP(sport=1, dport=2) / Raw(packet[28:] * 3))
    record = partial(longer, gso_type=offload.GSO_UDP_L4, gso_size=6)
    for segment in split(record):
        assert segment[26:28] == b"\xff\xff"


# Splitting


@pytest.mark.parametrize("name", SMALL)
def test_split_finishes_an_ordinary_packet(name: str) -> None:
    assert split(plain(SMALL[name])) == [SMALL[name]]
    record = partial(SMALL[name])
    before = bytes(record)
    assert split(record) == [SMALL[name]]
    assert bytes(record) == before


@pytest.mark.parametrize("name", SUPER)
def test_split_gives_finished_segments_with_the_same_payload(name: str) -> None:
    record = SUPER[name]
    segments = split(record)
    assert payload_of(segments) == noise(10_000)
    sizes = {len(segment) for segment in segments[:-1]}
    assert len(sizes) == 1
    assert len(segments[-1]) <= len(segments[0])


def test_tcp_segments_number_their_bytes_and_packets() -> None:
    record = tcp_super(5000, 1000, seq=0xFFFFFA00, id=0xFFFE)
    parsed = [assert_finished(segment) for segment in split(record)]
    assert [p[TCP].seq for p in parsed] == [(0xFFFFFA00 + n * 1000) % (1 << 32) for n in range(5)]
    assert [p[IP].id for p in parsed] == [0xFFFE, 0xFFFF, 0, 1, 2]
    assert {p[TCP].ack for p in parsed} == {7}
    assert {len(p[TCP].options) for p in parsed} == {12}


def test_flags_of_the_first_and_the_last_segment_only() -> None:
    record = tcp_super(3000, 1000, flags=FIN | PSH | ACK | CWR)
    flags = [int(assert_finished(segment)[TCP].flags) for segment in split(record)]
    assert flags == [ACK | CWR, ACK, FIN | PSH | ACK]


def test_split_to_a_smaller_mtu() -> None:
    segments = split(SUPER["tcp4"], mtu=1280)
    assert {len(s) for s in segments[:-1]} == {1280}
    assert payload_of(segments) == noise(10_000)
    assert {len(s) for s in split(SUPER["tcp6"], mtu=9000)[:-1]} == {40 + 32 + 1428}
    datagrams = split(SUPER["udp4"], mtu=1280)
    assert {len(s) for s in datagrams[:-1]} == {1428}  # a datagram stays whole


@settings(max_examples=60)
@given(
    st.sampled_from(["tcp", "udp"]),
    st.sampled_from([4, 6]),
    st.integers(1, 20_000),
    st.integers(200, 9000),
    st.integers(0, 10),
)
def test_split_then_join_is_the_same_payload(
    protocol: str, version: int, size: int, segment: int, options: int
) -> None:
    if protocol == "tcp":
        record = tcp_super(size, segment, version=version, options=options)
    else:
        record = udp_super(size, segment, version=version)
    assert offload.check(record)
    segments = split(record)
    assert len(segments) == -(-size // segment)
    assert payload_of(segments) == noise(size)


# Cutting


@pytest.mark.parametrize("name", SUPER)
@pytest.mark.parametrize("max_bytes", [1, 1400, 3000, 4600, 9000])
def test_cut_pieces_stand_for_the_same_segments(name: str, max_bytes: int) -> None:
    record = SUPER[name]
    pieces = offload.cut(record, max_bytes)
    segments = []
    for piece in pieces:
        assert offload.check(memoryview(piece))
        assert is_well_formed(memoryview(piece)[10:])
        own = split(memoryview(piece))
        assert len(piece) <= max_bytes or len(own) == 1
        assert (piece[1] != offload.GSO_NONE) == (len(own) > 1)
        segments += own
    assert segments == split(record)


def test_cut_leaves_alone_what_fits() -> None:
    record = SUPER["tcp4"]
    assert offload.cut(record, len(record)) == [bytes(record)]
    assert len(offload.cut(record, len(record) - 1)) == 2
    assert offload.cut(plain(SMALL["udp4"]), 1) == [bytes(plain(SMALL["udp4"]))]
    assert offload.cut(partial(SMALL["udp4"]), 1) == [bytes(partial(SMALL["udp4"]))]


def test_cut_keeps_the_ecn_bit_with_cwr() -> None:
    pieces = [memoryview(p) for p in offload.cut(SUPER["tcp4-ecn"], 4600)]
    assert [p[1] for p in pieces] == [0x81, 1, 0]
    assert [bool(p[10 + 20 + 13] & CWR) for p in pieces] == [True, False, False]


def test_cut_writes_right_ipv4_headers() -> None:
    for piece in offload.cut(SUPER["tcp4"], 4000):
        assert checksum(piece[10:30]) == 0
