from __future__ import annotations

import random
from ipaddress import ip_interface, ip_network

from nconnect.config.draw import tunnel_addresses
from nconnect.config.private import is_private_prefix


def test_each_draw_is_a_private_network_of_its_own() -> None:
    rng = random.Random(1).randbytes
    drawn = [tunnel_addresses(rng) for _ in range(64)]
    for pair in drawn:
        four, six = map(ip_interface, pair)
        assert is_private_prefix(four.network)
        assert is_private_prefix(six.network)
        assert four.ip == four.network[1]
        assert four.network.prefixlen == 24
        assert six.network.prefixlen == 64
    assert len(set(drawn)) == 64


def test_what_is_taken_is_left_out() -> None:
    taken = [ip_network("10.0.0.0/9"), ip_network("10.128.0.0/10"), ip_network("0.0.0.0/0")]
    rng = random.Random(2).randbytes
    for _ in range(64):
        network = ip_interface(tunnel_addresses(rng, taken)[0]).network
        assert not any(network.overlaps(other) for other in taken if other.prefixlen)


def test_a_full_range_still_gives_one() -> None:
    four, _ = tunnel_addresses(random.Random(3).randbytes, [ip_network("10.0.0.0/8")])
    assert ip_interface(four).ip in ip_network("10.0.0.0/8")
