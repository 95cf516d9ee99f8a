"""A translated packet is the packet that its sender would have made for the other addresses."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.ip import offload
from nconnect.ip.checksum import checksum, word_sum
from nconnect.model import Address, MappedPrefix
from nconnect.tunnel.translation import Translation

MAPPED = (
    MappedPrefix(ip_network("10.86.0.0/24"), ip_network("10.201.7.0/24")),
    MappedPrefix(ip_network("192.168.1.0/24"), ip_network("10.202.3.0/24")),
    MappedPrefix(ip_network("192.168.0.0/16"), ip_network("10.203.0.0/16")),
    MappedPrefix(ip_network("fd86::/64"), ip_network("fd99:1::/64")),
    MappedPrefix(ip_network("fd50::/48"), ip_network("fd99:2::/48")),
)
OWN = (ip_address("10.201.7.2"), ip_address("fd99:1::2"))  # as seen here
TRANSLATION = Translation(MAPPED, OWN)

# (this device, the other end) as seen here, and in truth
ENDS = [
    (("10.201.7.2", "10.201.7.1"), ("10.86.0.2", "10.86.0.1")),
    (("10.201.7.2", "10.202.3.9"), ("10.86.0.2", "192.168.1.9")),  # the longest prefix
    (("10.201.7.2", "10.203.9.9"), ("10.86.0.2", "192.168.9.9")),
    (("10.201.7.2", "172.16.0.9"), ("10.86.0.2", "172.16.0.9")),  # not mapped
    (("192.168.1.50", "10.202.3.9"), ("192.168.1.50", "192.168.1.9")),  # of a subnet that this side provides
    (("fd99:1::2", "fd99:1::1"), ("fd86::2", "fd86::1")),
    (("fd99:1::2", "fd99:2:0:5::9"), ("fd86::2", "fd50:0:0:5::9")),
]


def pseudo(source: Address, destination: Address, protocol: int, size: int) -> int:
    return word_sum(source.packed + destination.packed) + protocol + size


def ip_header(source: Address, destination: Address, protocol: int, size: int, fragment: int = 0) -> bytes:
    if isinstance(source, IPv6Address):
        return struct.pack("!IHBB", 6 << 28, size, protocol, 64) + source.packed + destination.packed
    addresses = source.packed + destination.packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 7, fragment, 64, protocol, 0) + addresses
    return header[:10] + checksum(header).to_bytes(2) + header[12:]


def packet(ends: tuple[str, str], protocol: int, body: bytes, at: int | None, *, partial: bool) -> bytes:
    """A record. `at`: of the checksum in `body`."""
    source, destination = ip_address(ends[0]), ip_address(ends[1])
    header = offload.PLAIN
    if at is not None:
        total = pseudo(source, destination, protocol, len(body))
        value = total % 0xFFFF or 0xFFFF if partial else checksum(body, total)
        if protocol == 17 and not value:
            value = 0xFFFF
        body = body[:at] + value.to_bytes(2) + body[at + 2 :]
        if partial:
            start = 20 if source.version == 4 else 40
            header = offload.HEADER.pack(offload.NEEDS_CSUM, 0, start + 20, 0, start, at)
    return header + ip_header(source, destination, protocol, len(body)) + body


def translated(record: bytes, *, outward: bool) -> bytes:
    view = memoryview(bytearray(record))
    (TRANSLATION.to_peer if outward else TRANSLATION.from_peer)(view)
    return bytes(view)


@pytest.mark.parametrize(("seen", "real"), ENDS)
@pytest.mark.parametrize(("protocol", "at"), [(6, 16), (17, 6), (136, 6), (47, None)])
@pytest.mark.parametrize("partial", [False, True])
def test_both_directions(
    seen: tuple[str, str], real: tuple[str, str], protocol: int, at: int | None, partial: bool
) -> None:
    body = bytes(range(40))
    there = [packet(ends, protocol, body, at, partial=partial) for ends in (seen, real)]
    back = [packet(ends[::-1], protocol, body, at, partial=partial) for ends in (seen, real)]
    assert translated(there[0], outward=True) == there[1]
    if seen[0] in map(str, OWN):
        assert translated(back[1], outward=False) == back[0]


@given(body=st.binary(min_size=20, max_size=64), end=st.sampled_from(ENDS[:4]))
def test_checksums_stay_right(body: bytes, end: tuple[tuple[str, str], tuple[str, str]]) -> None:
    for protocol, at in ((6, 16), (17, 6)):
        there = [packet(ends, protocol, body, at, partial=False) for ends in end]
        assert translated(there[0], outward=True) == there[1]


def test_a_datagram_without_checksum_stays_without() -> None:
    seen, real = ENDS[1]
    body = struct.pack("!HHHH", 1, 2, 12, 0) + b"data"
    assert translated(packet(seen, 17, body, None, partial=False), outward=True) == packet(
        real, 17, body, None, partial=False
    )


def test_a_wrong_checksum_stays_wrong() -> None:
    seen, _ = ENDS[1]
    record = bytearray(packet(seen, 6, bytes(20), 16, partial=False))
    record[-1] ^= 1
    view = memoryview(bytearray(translated(bytes(record), outward=True)))[10:]
    source, destination = IPv4Address(bytes(view[12:16])), IPv4Address(bytes(view[16:20]))
    assert checksum(view[20:], pseudo(source, destination, 6, 20)) != 0


def test_later_fragments_have_no_checksum_to_update() -> None:
    seen, real = ENDS[1]
    both = [
        offload.PLAIN + ip_header(ip_address(a), ip_address(b), 17, 32, fragment=0x0010) + bytes(32)
        for a, b in (seen, real)
    ]
    assert translated(both[0], outward=True) == both[1]


def test_the_first_ipv6_fragment_has_one() -> None:
    def first(ends: tuple[str, str]) -> bytes:
        source, destination = map(ip_address, ends)
        body = bytearray(bytes(range(32)))
        # of the whole datagram, whose other words are zeros
        body[6:8] = b"\0\0"
        body[6:8] = checksum(body, pseudo(source, destination, 17, 100)).to_bytes(2)
        fragment = struct.pack("!BBHI", 17, 0, 1, 9)
        return offload.PLAIN + ip_header(source, destination, 44, 40) + fragment + bytes(body)

    seen, real = ENDS[6]
    assert translated(first(seen), outward=True) == first(real)


@pytest.mark.parametrize(("seen", "real"), [ENDS[1], ENDS[6]])
def test_what_an_error_quotes_is_translated_too(seen: tuple[str, str], real: tuple[str, str]) -> None:
    """A router at the other end says that our packet did not get through; and we say it of theirs."""
    version = ip_address(seen[0]).version
    protocol = 1 if version == 4 else 58

    def error(ends: tuple[str, str], quoted: tuple[str, str]) -> bytes:
        inner = ip_header(ip_address(quoted[0]), ip_address(quoted[1]), 17, 8) + bytes(range(8))
        body = struct.pack("!BBHI", 3 if version == 4 else 1, 3, 0, 0) + inner
        source, destination = map(ip_address, ends)
        total = pseudo(source, destination, protocol, len(body)) if version == 6 else 0
        body = body[:2] + checksum(body, total).to_bytes(2) + body[4:]
        return offload.PLAIN + ip_header(source, destination, protocol, len(body)) + body

    assert translated(error(real[::-1], real), outward=False) == error(seen[::-1], seen)
    assert translated(error(seen, seen[::-1]), outward=True) == error(real, real[::-1])


@given(st.binary(min_size=20, max_size=120), st.booleans())
def test_nothing_that_is_well_formed_breaks_it(data: bytes, outward: bool) -> None:
    if data[0] >> 4 == 6 and len(data) < 40:
        return
    first = 0x60 if data[0] & 0x80 and len(data) >= 40 else 0x45
    translated(offload.PLAIN + bytes([first]) + data[1:], outward=outward)
