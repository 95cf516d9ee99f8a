"""Which packet an ICMP error quotes: built by scapy, cut, in fragments and behind extension headers."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.all import (
    AH,
    ICMP,
    IP,
    TCP,
    UDP,
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Raw,
)
from scapy.packet import Packet

from nconnect.ip import packet
from nconnect.ip.icmp import NEVER_ERRORS, UNREADABLE, quoted_destination
from tests.ip.packets import ipv4, ipv6, view

QUOTED4 = IP(src="192.168.50.10", dst="10.86.0.3") / UDP(sport=7000, dport=4000) / Raw(b"answer")
QUOTED6 = IPv6(src="fd50::10", dst="fd86::3") / UDP(sport=7000, dport=4000) / Raw(b"answer")
DESTINATION4, DESTINATION6 = ip_address("10.86.0.3").packed, ip_address("fd86::3").packed


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12])
def test_an_ipv4_error_is_about_the_packet_that_it_quotes(kind: int) -> None:
    assert quoted_destination(view(ipv4(ICMP(type=kind) / QUOTED4))) == DESTINATION4


def test_the_header_s_options_are_skipped() -> None:
    padded = IP(src="10.86.0.2", dst="192.168.50.10", options=b"\1" * 8) / ICMP(type=3) / QUOTED4
    assert quoted_destination(view(bytes(padded))) == DESTINATION4


@pytest.mark.parametrize(
    "error", [ICMPv6DestUnreach(), ICMPv6PacketTooBig(), ICMPv6TimeExceeded(), ICMPv6ParamProblem()]
)
def test_an_ipv6_error_is_about_the_packet_that_it_quotes(error: Packet) -> None:
    assert quoted_destination(view(ipv6(error / QUOTED6))) == DESTINATION6


@pytest.mark.parametrize(
    "before",
    [
        IPv6ExtHdrHopByHop(),
        IPv6ExtHdrDestOpt(),
        IPv6ExtHdrRouting(addresses=[]),
        IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt(),
        AH(nh=58, payloadlen=4, icv=b"0123456789ab"),
    ],
    ids=lambda header: header.summary(),
)
def test_an_ipv6_error_is_found_behind_extension_headers(before: Packet) -> None:
    assert quoted_destination(view(ipv6(before / ICMPv6DestUnreach() / QUOTED6))) == DESTINATION6


@pytest.mark.parametrize(
    "harmless",
    [
        ipv4(ICMP(type=8) / Raw(b"x" * 100)),
        ipv4(ICMP(type=0)),
        ipv4(UDP() / QUOTED4),
        ipv4(TCP()),
        ipv4(ICMP(type=8) / Raw(b"x" * 100), flags="MF"),
        ipv4(Raw(bytes(ICMP(type=3) / QUOTED4)), proto=1, frag=3),
        ipv6(ICMPv6EchoRequest()),
        ipv6(IPv6ExtHdrFragment(m=1, id=7) / ICMPv6EchoRequest() / Raw(b"x" * 100)),
        ipv6(IPv6ExtHdrFragment(offset=4, id=7, nh=58) / Raw(bytes(ICMPv6DestUnreach() / QUOTED6))),
        ipv6(IPv6ExtHdrDestOpt() / UDP() / Raw(b"x")),
    ],
)
def test_what_is_no_error_quotes_nothing(harmless: bytes) -> None:
    assert quoted_destination(view(harmless)) is None


@pytest.mark.parametrize(
    "hidden",
    [
        ipv4(ICMP(type=3)),
        ipv4(Raw(b"\3\3\0"), proto=1),
        ipv4(ICMP(type=3) / QUOTED4, flags="MF"),
        ipv4(Raw(b""), proto=1, flags="MF"),
        ipv4(ICMP(type=3) / QUOTED6),
        ipv6(ICMPv6DestUnreach() / Raw(bytes(QUOTED6)[:39])),
        ipv6(ICMPv6DestUnreach() / Raw(bytes(QUOTED4) + bytes(40))),
        ipv6(IPv6ExtHdrFragment(m=1, id=7) / ICMPv6DestUnreach() / QUOTED6),
        ipv6(IPv6ExtHdrFragment(id=7) / ICMPv6DestUnreach() / QUOTED6),
        # The header of the error comes with the next fragment.
        ipv6(IPv6ExtHdrFragment(m=1, id=7, nh=60) / Raw(b"\x3a\x01" + bytes(6))),
        ipv6(IPv6ExtHdrFragment(m=1, id=7) / IPv6ExtHdrFragment(id=8) / ICMPv6DestUnreach() / QUOTED6),
        ipv6(Raw(b"".join(bytes((60, 0)) + bytes(6) for _ in range(30))), nh=60),
    ],
)
def test_what_may_hide_an_error_is_unreadable(hidden: bytes) -> None:
    assert quoted_destination(view(hidden)) == UNREADABLE


@given(st.integers(0, 200), st.booleans())
def test_an_error_that_is_cut_short_is_never_passed_as_none(size: int, four: bool) -> None:
    """Whatever is left of it: the whole destination, or unreadable."""
    header = 20 if four else 40
    whole = ipv4(ICMP(type=3) / QUOTED4) if four else ipv6(ICMPv6DestUnreach() / QUOTED6)
    cut = bytearray(whole[: header + size])
    if four:
        cut[2:4] = len(cut).to_bytes(2)
    else:
        cut[4:6] = (len(cut) - 40).to_bytes(2)
    destination = DESTINATION4 if four else DESTINATION6
    assert quoted_destination(memoryview(cut)) == (destination if size >= 8 + header else UNREADABLE)


HEADERS = st.lists(st.sampled_from((0, 43, 51, 60)), min_size=1, max_size=12)


@given(HEADERS, st.integers(0, 3))
def test_a_chain_of_any_headers_ends_at_the_error_or_unreadable(chain: list[int], units: int) -> None:
    """A second way to the same answer: the chain is laid out from what its headers say of their length."""
    body = b""
    for kind, following in zip(chain, [*chain[1:], 58], strict=True):
        length = (units + 2) * 4 if kind == 51 else (units + 1) * 8
        body += bytes((following, units)) + bytes(length - 2)
    error = bytes(ICMPv6DestUnreach()) + bytes(QUOTED6)
    made = ipv6(Raw(body + error), nh=chain[0])
    assert quoted_destination(view(made)) == (DESTINATION6 if len(chain) < 8 else UNREADABLE)


@given(st.binary(min_size=20, max_size=200), st.sampled_from((1, 6, 17, 58, 0, 43, 44, 51, 60)))
def test_any_well_formed_packet_is_read(data: bytes, protocol: int) -> None:
    for first, at in ((0x45, 9), (0x60, 6)):
        made = bytearray(data)
        made[0], made[at] = first, protocol
        made[2:4] = len(made).to_bytes(2)
        if first == 0x60:
            if len(made) < 40:
                continue
            made[4:6] = (len(made) - 40).to_bytes(2)
        seen = memoryview(made)
        assert packet.is_well_formed(seen)
        found = quoted_destination(seen)
        assert found is None or len(found) in (0, 4 if first == 0x45 else 16)
        if first == 0x60 and protocol in NEVER_ERRORS:
            assert found is None
