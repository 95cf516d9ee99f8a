"""Fields, well-formedness, flow hashing, sources that are refused, congestion marks."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.all import GRE, ICMP, IPOption_NOP, IPv6ExtHdrFragment

from nconnect.ip import packet
from nconnect.ip.checksum import checksum
from tests.ip.packets import (
    TCP,
    UDP,
    ICMPv6EchoRequest,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    Raw,
    ipv4,
    ipv6,
    view,
)

TCP4 = ipv4(TCP(sport=1000, dport=8000) / Raw(b"hello"))
TCP6 = ipv6(TCP(sport=1000, dport=8000) / Raw(b"hello"))


def test_fields_of_ipv4() -> None:
    found = view(TCP4)
    assert packet.is_well_formed(found)
    assert packet.transport(found) == (6, 20)


def test_fields_of_ipv6() -> None:
    found = view(TCP6)
    assert packet.is_well_formed(found)
    assert packet.transport(found) == (6, 40)


@pytest.mark.parametrize("whole", [TCP4, TCP6], ids=["ipv4", "ipv6"])
def test_a_length_that_is_not_the_buffers_is_refused(whole: bytes) -> None:
    for size in range(len(whole)):
        assert not packet.is_well_formed(view(whole[:size]))
    assert not packet.is_well_formed(view(whole + b"\0"))


def test_the_largest_packets_are_well_formed() -> None:
    four = bytearray(65_535)
    four[0], four[2:4] = 0x45, b"\xff\xff"
    assert packet.is_well_formed(memoryview(four))
    six = bytearray(65_575)
    six[0], six[4:6] = 0x60, b"\xff\xff"
    assert packet.is_well_formed(memoryview(six))


@pytest.mark.parametrize("first", [0x44, 0x40, 0x4F, 0x05, 0x55, 0x75, 0x00, 0xFF])
def test_other_versions_and_impossible_header_lengths_are_refused(first: int) -> None:
    data = bytearray(TCP4)
    data[0] = first
    if first == 0x4F:
        data = data[:44]
        data[2:4] = (44).to_bytes(2, "big")  # shorter than the header says it is
    assert not packet.is_well_formed(memoryview(data))


def test_options_move_the_transport_header() -> None:
    data = view(ipv4(TCP(), options=[IPOption_NOP()] * 8))
    assert packet.is_well_formed(data)
    assert packet.transport(data) == (6, 28)


def test_extension_headers_are_walked() -> None:
    data = view(ipv6(IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP(sport=5, dport=6)))
    assert packet.transport(data) == (17, 56)


def test_the_walk_is_bounded() -> None:
    chain = IPv6ExtHdrDestOpt()
    for _ in range(20):
        chain = chain / IPv6ExtHdrDestOpt()
    assert packet.transport(view(ipv6(chain / UDP())))[1] == 0


def test_fragments_have_no_transport_header() -> None:
    assert packet.transport(view(ipv4(UDP() / Raw(b"12345678"), flags="MF"))) == (17, 0)
    assert packet.transport(view(ipv4(Raw(b"12345678"), frag=1, proto=17))) == (17, 0)
    assert packet.transport(view(ipv4(UDP(), flags="DF"))) == (17, 20)
    assert packet.transport(view(ipv6(IPv6ExtHdrFragment(m=1) / UDP())))[1] == 0


# Flows


def test_a_flow_keeps_its_hash_and_others_have_another() -> None:
    def hashed(sport: int = 1, dport: int = 2, payload: bytes = b"x", make=ipv4, layer=TCP) -> int:  # type: ignore[no-untyped-def]
        return packet.flow_hash(view(make(layer(sport=sport, dport=dport) / Raw(payload))))

    for make in (ipv4, ipv6):
        same = hashed(make=make)
        assert same == hashed(payload=b"something else", make=make)
        others = {
            hashed(sport=3, make=make),
            hashed(dport=3, make=make),
            hashed(layer=UDP, make=make),
            hashed(sport=2, dport=1, make=make),
        }
        assert len(others) == 4
        assert same not in others
    assert hashed() != hashed(make=ipv6)


def test_options_do_not_change_what_a_flow_hash_sees() -> None:
    one = packet.flow_hash(view(ipv4(TCP(sport=1, dport=2), options=[IPOption_NOP()] * 4)))
    two = packet.flow_hash(view(ipv4(TCP(sport=1, dport=3), options=[IPOption_NOP()] * 4)))
    assert one != two
    one = packet.flow_hash(view(ipv6(IPv6ExtHdrHopByHop() / UDP(sport=1, dport=2))))
    two = packet.flow_hash(view(ipv6(IPv6ExtHdrHopByHop() / UDP(sport=1, dport=3))))
    assert one != two


def test_all_fragments_of_a_datagram_have_one_hash() -> None:
    first = packet.flow_hash(view(ipv4(UDP(sport=9, dport=9) / Raw(b"x" * 8), flags="MF", id=1)))
    later = packet.flow_hash(view(ipv4(Raw(b"abcdefgh"), proto=17, frag=2, id=1)))
    assert first == later
    six = [
        packet.flow_hash(view(ipv6(IPv6ExtHdrFragment(m=1, nh=17) / Raw(data))))
        for data in (b"a" * 8, b"b" * 8)
    ]
    assert six[0] == six[1]


@pytest.mark.parametrize("layer", [ICMP(), GRE()])
def test_without_ports_the_addresses_make_the_flow(layer: object) -> None:
    one, two = (packet.flow_hash(view(ipv4(layer / Raw(data)))) for data in (b"one", b"two"))
    assert one == two


def test_hashes_spread_over_buckets() -> None:
    buckets = [0] * 64
    data = view(TCP4)
    for port in range(6400):
        data[20:22] = port.to_bytes(2, "big")
        buckets[packet.flow_hash(data) % 64] += 1
    assert max(buckets) < 200
    assert min(buckets) > 50


@given(st.binary(min_size=1, max_size=120), st.sampled_from([0x45, 0x46, 0x4F, 0x60, 0x6F]))
def test_what_is_well_formed_can_be_read(data: bytes, first: int) -> None:
    sample = bytearray(data.ljust(40, b"\0"))
    sample[0] = first
    at, extra = (2, 0) if first >> 4 == 4 else (4, 40)
    sample[at : at + 2] = (len(sample) - extra).to_bytes(2, "big")
    whole = memoryview(sample)
    assert packet.is_well_formed(whole) == (first != 0x4F or len(whole) >= 60)
    if packet.is_well_formed(whole):
        assert 0 <= packet.flow_hash(whole) < 1 << 32
        assert packet.transport(whole)[1] < 1 << 16
        packet.mark_congestion(whole)
        packet.is_forbidden_source(bytes(whole[12:16] if first >> 4 == 4 else whole[8:24]))


@given(st.binary(max_size=80))
def test_any_bytes_are_judged(data: bytes) -> None:
    packet.is_well_formed(memoryview(data))


# Sources


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255", "169.254.0.1", "224.0.0.1", "239.255.255.255",
        "240.0.0.1", "255.255.255.255",
        "::", "::1", "::10.0.0.1", "::ffff:10.0.0.1", "fe80::1", "febf::1", "ff02::1", "ff0e::1",
    ],
)  # fmt: skip
def test_forbidden_sources(address: str) -> None:
    assert packet.is_forbidden_source(ip_address(address).packed)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1", "192.168.50.10", "172.16.0.1", "1.1.1.1", "169.253.0.1", "169.255.0.1", "126.0.0.1",
        "128.0.0.1", "223.255.255.255",
        "fd86::2", "2001:db8::1", "fec0::1", "fe00::1", "64:ff9b::1", "::1:0:0:1", "::fffe:a00:1",
    ],
)  # fmt: skip
def test_ordinary_sources(address: str) -> None:
    assert not packet.is_forbidden_source(ip_address(address).packed)


# Congestion marks


@pytest.mark.parametrize("tos", [0x01, 0x02, 0xB9, 0xBA])
def test_what_takes_marks_is_marked(tos: int) -> None:
    four = view(ipv4(TCP(), tos=tos))
    assert packet.mark_congestion(four)
    assert four[1] == tos | 3
    assert checksum(four[:20]) == 0
    six = view(ipv6(TCP(), tc=tos))
    assert packet.mark_congestion(six)
    assert (six[0] << 4 | six[1] >> 4) & 0xFF == tos | 3
    assert bytes(six[2:]) == ipv6(TCP(), tc=tos)[2:]


@pytest.mark.parametrize("tos", [0x00, 0xB8])
def test_what_takes_none_is_left_alone(tos: int) -> None:
    for whole in (ipv4(TCP(), tos=tos), ipv6(TCP(), tc=tos)):
        found = view(whole)
        assert not packet.mark_congestion(found)
        assert bytes(found) == whole


def test_what_is_marked_already_stays_so() -> None:
    for whole in (ipv4(TCP(), tos=3), ipv6(TCP(), tc=3)):
        found = view(whole)
        assert packet.mark_congestion(found)
        assert bytes(found) == whole


@given(st.integers(0, 0xFFFF), st.sampled_from([1, 2]))
def test_the_header_checksum_follows_the_mark(identification: int, tos: int) -> None:
    found = view(ipv4(UDP(), id=identification, tos=tos))
    assert packet.mark_congestion(found)
    assert checksum(found[:20]) == 0


def test_ping_of_ipv6_has_a_transport_offset() -> None:
    assert packet.transport(view(ipv6(ICMPv6EchoRequest()))) == (packet.PROTOCOL_ICMPV6, 40)
