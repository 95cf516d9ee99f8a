"""The prefix that is proposed in place of an overlapping one."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.config.file import parse_config
from nconnect.host.overlap import free_prefix, proposal


@pytest.mark.parametrize(
    ("prefix", "taken", "found"),
    [
        ("192.168.1.0/24", [], "10.99.1.0/24"),
        ("192.168.1.0/24", ["10.99.1.0/24"], "10.99.2.0/24"),
        ("192.168.1.0/24", ["10.99.0.0/16"], "10.98.1.0/24"),
        ("192.168.1.16/28", [], "10.99.1.16/28"),
        ("192.168.1.7/32", [], "10.99.1.7/32"),
        ("172.16.0.0/16", [], "10.99.0.0/16"),
        ("fd50:0:0:7::/64", [], "fd99:0:0:7::/64"),
        ("fd50::/64", ["fd99::/64", "10.99.0.0/16"], "fd99:0:0:1::/64"),
    ],
)
def test_the_first_that_is_free(prefix: str, taken: list[str], found: str) -> None:
    assert free_prefix(ip_network(prefix), map(ip_network, taken)) == ip_network(found)


@pytest.mark.parametrize(("prefix", "taken"), [("10.0.0.0/8", []), ("10.1.0.0/16", ["10.98.0.0/15"])])
def test_none_is_free(prefix: str, taken: list[str]) -> None:
    assert free_prefix(ip_network(prefix), map(ip_network, taken)) is None
    assert proposal(ip_network(prefix), map(ip_network, taken)) == ""


@given(st.integers(0, 2**32 - 1), st.integers(16, 32), st.lists(st.integers(0, 511), max_size=300))
def test_it_overlaps_nothing_that_is_taken(address: int, length: int, blocks: list[int]) -> None:
    prefix = ip_network((address >> (32 - length) << (32 - length), length))
    taken = [ip_network((int(ip_network("10.98.0.0/15").network_address) + (n << 8), 24)) for n in blocks]
    found = free_prefix(prefix, taken)
    if found is not None:
        assert found.prefixlen == length
        assert not any(found.overlaps(other) for other in taken)


def test_the_line_is_one_that_a_configuration_takes() -> None:
    line = proposal(ip_network("192.168.1.0/24"), []).partition("subnets")[2].partition("]")[0] + "]"
    text = f'[interface]\nseed = "{"11" * 32}"\naddress = ["10.86.0.1/24"]\n[provide]\nsubnets{line}\n'
    config = parse_config(
        text, interface="nc0", source="x", read_seed_file=lambda _: "", public_key_of=lambda seed: seed
    )
    assert str(config.provide.subnets[0].seen) == "10.99.1.0/24"
