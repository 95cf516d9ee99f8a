"""Reading ctnetlink's messages; that the kernel takes the deletions is in netns_tests/test_many_flows.py."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.host.judge import Flow
from nconnect.io.system import conntrack
from nconnect.io.system.netlink_socket import NetlinkError


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(source: str, destination: str, protocol: int, ports: tuple[int, int] | None) -> memoryview:
    """As the kernel writes it: the original direction, then the reply's, which is the other way round."""
    ends = [ip_address(text).packed for text in (source, destination)]
    kinds = (1, 2) if len(ends[0]) == 4 else (3, 4)
    told = attribute(1, bytes([protocol]))
    if ports is not None:
        told += b"".join(
            attribute(kind, struct.pack(">H", port)) for kind, port in zip((2, 3), ports, strict=True)
        )

    def direction(first: bytes, second: bytes) -> bytes:
        return attribute(0x8001, attribute(kinds[0], first) + attribute(kinds[1], second)) + attribute(
            0x8002, told
        )

    body = attribute(0x8001, direction(*ends)) + attribute(0x8002, direction(*reversed(ends)))
    return memoryview(
        struct.pack("=BBH", 2 if len(ends[0]) == 4 else 10, 0, 0) + body + attribute(18, b"\0\x07")
    )


def test_the_original_direction_counts() -> None:
    entry = conntrack.parse(message("10.86.0.3", "192.168.50.10", 6, (48686, 8000)))
    assert entry is not None
    assert entry.flow() == Flow("tcp", ip_address("10.86.0.3"), ip_address("192.168.50.10"), 48686, 8000)
    assert (entry.family, entry.zone) == (2, b"\0\x07")


def test_a_ping_has_no_ports() -> None:
    entry = conntrack.parse(message("fd86::2", "fd50::10", 58, None))
    assert entry is not None
    assert entry.flow() == Flow("icmp", ip_address("fd86::2"), ip_address("fd50::10"))


@pytest.mark.parametrize(("source", "version"), [("10.86.0.3", 4), ("fd86::2", 6)])
def test_who_opened_it_is_read_without_the_rest(source: str, version: int) -> None:
    whole = message(source, "192.168.50.10" if version == 4 else "fd50::10", 6, (1, 2))
    assert conntrack.opener(whole, version) == ip_address(source).packed
    for broken, read_as in ((whole[:19], version), (whole, 10 - version), (whole[4:], version)):
        with pytest.raises(NetlinkError):
            conntrack.opener(broken, read_as)


@given(st.binary())
def test_any_bytes_are_read(data: bytes) -> None:
    conntrack.parse(memoryview(data))


@given(st.integers(0, 200))
def test_a_message_that_is_cut_short_is_read(size: int) -> None:
    conntrack.parse(message("10.86.0.3", "192.168.50.10", 6, (48686, 8000))[:size])


def test_an_address_lies_in_the_prefixes_of_its_version() -> None:
    prefixes = [ip_network(p) for p in ("10.86.0.0/24", "10.87.0.3/32", "fd86::/64")]
    four, six = (conntrack._membership(prefixes, version) for version in (4, 6))
    assert [four(ip_address(a).packed) for a in ("10.86.0.9", "10.87.0.3", "10.87.0.4")] == [
        True,
        True,
        False,
    ]
    assert [six(ip_address(a).packed) for a in ("fd86::9", "fd87::9")] == [True, False]
