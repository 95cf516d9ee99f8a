"""Disjoint ranges, compared with a naive implementation."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_network
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from nconnect.host.intervals import AddressRange, merged_ranges, owned_ranges

# Within 10.0.0.0/24, so that every address can be tried.
_prefixes = st.builds(
    lambda host, length: ip_network((0x0A000000 + host, length), strict=False),
    st.integers(0, 255),
    st.integers(24, 32),
)


@given(st.lists(st.tuples(_prefixes, st.sampled_from("abc")), max_size=12, unique_by=lambda e: e[0]))
def test_the_longest_prefix_owns_each_address(table: list[tuple[IPv4Network, str]]) -> None:
    ranges = owned_ranges(table, 4)
    for number in range(0x0A000000, 0x0A000100):
        holders = [(p.prefixlen, o) for p, o in table if int(p[0]) <= number <= int(p[-1])]
        found = [o for r, o in ranges.items() if r.first <= number <= r.last]
        assert found == ([max(holders)[1]] if holders else [])


@given(st.lists(_prefixes, max_size=12))
def test_merged_ranges_never_touch(prefixes: list[IPv4Network]) -> None:
    ranges = merged_ranges(prefixes, 4)
    assert all(one.last + 1 < other.first for one, other in pairwise(ranges))
    assert sum(r.last - r.first + 1 for r in ranges) == len({a for p in prefixes for a in p})


def test_versions_do_not_mix() -> None:
    prefixes = [ip_network("10.0.0.0/31"), ip_network("fd00::1/128")]
    assert [str(r) for r in merged_ranges(prefixes, 4)] == ["10.0.0.0-10.0.0.1"]
    assert [str(r) for r in merged_ranges(prefixes, 6)] == ["fd00::1"]
    assert merged_ranges([], 4) == ()


def test_of_equal_prefixes_the_first_wins() -> None:
    net = ip_network("10.0.0.0/30")
    assert owned_ranges([(net, "a"), (net, "b")], 4) == {AddressRange(4, 0x0A000000, 0x0A000003): "a"}


def test_both_ends_of_the_address_space() -> None:
    everything = ip_network("0.0.0.0/0")
    assert [str(r) for r in merged_ranges([everything], 4)] == ["0.0.0.0-255.255.255.255"]
    split = owned_ranges([(everything, "a"), (ip_network("255.255.255.255/32"), "b")], 4)
    assert [(str(r), o) for r, o in split.items()] == [
        ("0.0.0.0-255.255.255.254", "a"),
        ("255.255.255.255", "b"),
    ]
