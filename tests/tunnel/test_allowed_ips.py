"""Cryptokey routing against a naive list, and against py-radix."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
import radix
from hypothesis import given, settings
from hypothesis import strategies as st

from nconnect.model import Prefix
from nconnect.tunnel import allowed_ips
from nconnect.tunnel.allowed_ips import AllowedIps

# Few distinct bits, so that prefixes nest and addresses hit them.
BITS4 = st.lists(st.sampled_from([0, 1, 2, 127, 128, 255]), min_size=4, max_size=4).map(bytes)
BITS6 = st.lists(st.sampled_from([0, 1, 0x80, 0xFD, 0xFF]), min_size=16, max_size=16).map(bytes)
PREFIX4 = st.tuples(BITS4, st.integers(0, 32)).map(lambda t: ip_network((t[0], t[1]), strict=False))
PREFIX6 = st.tuples(BITS6, st.integers(0, 128)).map(lambda t: ip_network((t[0], t[1]), strict=False))
ENTRIES = st.lists(st.tuples(st.one_of(PREFIX4, PREFIX6), st.integers(0, 5)), max_size=30)
ADDRESS = st.one_of(BITS4, BITS6, st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))


def naive(entries: list[tuple[Prefix, int]], address: bytes) -> int | None:
    """The last owner named for the longest prefix that holds the address."""
    asked: IPv4Address | IPv6Address = ip_address(address)
    best: tuple[int, int] | None = None
    for prefix, owner in entries:
        if (
            prefix.version == asked.version
            and asked in prefix
            and (best is None or prefix.prefixlen >= best[0])
        ):
            best = prefix.prefixlen, owner
    return None if best is None else best[1]


@settings(max_examples=200)
@given(ENTRIES, st.lists(ADDRESS, min_size=1, max_size=20))
def test_against_a_naive_list_and_py_radix(entries: list[tuple[Prefix, int]], addresses: list[bytes]) -> None:
    table = AllowedIps(entries)
    tree = radix.Radix()
    for prefix, owner in entries:
        tree.add(str(prefix)).data["owner"] = owner
    for address in [*addresses, *(prefix.network_address.packed for prefix, _ in entries)]:
        expected = naive(entries, address)
        assert table.owner(address) == expected
        assert table.owner(address) == expected  # from the cache
        found = tree.search_best(str(ip_address(address)))
        assert (found.data["owner"] if found else None) == expected


def test_the_versions_do_not_mix() -> None:
    table = AllowedIps([(ip_network("0.0.0.0/0"), "four"), (ip_network("fd00::/8"), "six")])
    assert table.owner(bytes(4)) == "four"
    assert table.owner(bytes(16)) is None
    assert table.owner(ip_address("::ffff:10.0.0.1").packed) is None
    assert table.owner(ip_address("fd00::1").packed) == "six"


def test_an_empty_table_owns_nothing() -> None:
    assert AllowedIps[str]().owner(bytes(4)) is None


def test_the_cache_is_bounded_and_stays_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowed_ips, "MAX_CACHED", 100)
    table = AllowedIps([(ip_network("10.0.0.0/8"), "a")])
    for number in range(1000):
        assert table.owner(number.to_bytes(4)) is None
        assert table.owner((10 << 24 | number).to_bytes(4)) == "a"
        assert len(table.cache) <= 100
