"""RFC 6052's own examples, any address there and back, and which prefix RFC 7050 finds."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.ip.nat64 import (
    PREFIX_LENGTHS,
    WELL_KNOWN_ADDRESSES,
    WELL_KNOWN_PREFIX,
    extract,
    find_prefix,
    may_pass,
    synthesize,
)

# RFC 6052, section 2.4, tables 1 and 2
EXAMPLES = [
    ("2001:db8::/32", "2001:db8:c000:221::"),
    ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
    ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
    ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
]


@st.composite
def prefixes(draw: st.DrawFn) -> IPv6Network:
    length = draw(st.sampled_from(PREFIX_LENGTHS))
    raw = draw(st.binary(min_size=16, max_size=16))
    # RFC 6052, section 2.2: bits 64 to 71 of a /96 are zero too
    return IPv6Network((IPv6Address(raw[:8] + b"\0" + raw[9:]), length), strict=False)


@pytest.mark.parametrize(("prefix", "expected"), EXAMPLES)
def test_the_examples_of_rfc_6052(prefix: str, expected: str) -> None:
    made = synthesize(IPv6Network(prefix), IPv4Address("192.0.2.33"))
    assert made == IPv6Address(expected)
    assert extract(IPv6Network(prefix).prefixlen, made) == IPv4Address("192.0.2.33")


@given(prefixes(), st.ip_addresses(v=4))
def test_there_and_back(prefix: IPv6Network, address: IPv4Address) -> None:
    made = synthesize(prefix, address)
    assert made in prefix
    assert made.packed[8] == 0
    assert extract(prefix.prefixlen, made) == address


@pytest.mark.parametrize("length", sorted(set(range(129)) - set(PREFIX_LENGTHS)))
def test_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32, 40, 48, 56, 64 or 96"):
        synthesize(IPv6Network(("::", length)), IPv4Address("192.0.2.33"))


@given(prefixes(), st.sampled_from(sorted(WELL_KNOWN_ADDRESSES)))
def test_the_prefix_is_found(prefix: IPv6Network, address: IPv4Address) -> None:
    mapped = prefix.network_address.packed[:12] == bytes(10) + b"\xff\xff"
    assert find_prefix([synthesize(prefix, address)]) == (None if mapped else prefix)


@given(st.ip_addresses(v=6))
def test_what_holds_no_well_known_address_is_no_prefix(address: IPv6Address) -> None:
    found = find_prefix([address])
    assert found is None or extract(found.prefixlen, address) in WELL_KNOWN_ADDRESSES


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        ([], None),
        (["64:ff9b::c000:aa"], "64:ff9b::/96"),
        (["2001:db8::1", "64:ff9b::c000:ab"], "64:ff9b::/96"),
        (["2001:db8:64::c000:aa", "64:ff9b::c000:ab"], "2001:db8:64::/96"),
        (["64:ff9b::c000:221"], None),  # 192.0.2.33
        (["2001:db8:c000:aa::c000:aa"], "2001:db8:c000:aa::/96"),  # no /32: what follows must be zero
        (["2001:db8:c000:aa::1"], None),  # what follows must be zero
        (["2001:db8:122:344:100::c000:aa"], None),  # bits 64 to 71 must be zero
        (["::ffff:192.0.0.170"], None),
    ],
)
def test_which_prefix_is_found(addresses: list[str], expected: str | None) -> None:
    found = find_prefix(map(IPv6Address, addresses))
    assert found == (IPv6Network(expected) if expected else None)


def test_only_global_addresses_pass_the_well_known_prefix() -> None:
    assert may_pass(WELL_KNOWN_PREFIX, IPv4Address("8.8.8.8"))
    assert not may_pass(WELL_KNOWN_PREFIX, IPv4Address("192.168.50.10"))
    assert may_pass(IPv6Network("2001:db8:64::/96"), IPv4Address("192.168.50.10"))
