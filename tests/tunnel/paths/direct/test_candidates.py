"""Which addresses are told, and which are probed."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.model import Endpoint
from nconnect.tunnel.paths.direct.candidates import (
    LocalAddress,
    Network,
    Route,
    is_forbidden,
    is_private,
    may_probe,
    own_candidates,
    to_probe,
    whereabouts,
)
from nconnect.wire.direct import MAX_CANDIDATES, Candidate, CandidateKind, NatVerdict

PORT = 41641
HOST, MAPPED, REFLEXIVE, FORWARDED = CandidateKind
LAPTOP = Network(
    addresses=(
        LocalAddress(ip_interface("127.0.0.1/8")),
        LocalAddress(ip_interface("::1/128")),
        LocalAddress(ip_interface("172.17.0.1/16"), is_bridge=True),
        LocalAddress(ip_interface("192.168.1.7/24")),
        LocalAddress(ip_interface("fe80::7/64")),
        LocalAddress(ip_interface("2001:db8:1::7/64")),
        LocalAddress(ip_interface("2001:db8:1::bad/64"), is_deprecated=True),
        LocalAddress(ip_interface("10.88.0.2/24"), is_tunnel=True),
    ),
    routes=(
        Route(ip_network("0.0.0.0/0")),
        Route(ip_network("::/0")),
        Route(ip_network("192.168.1.0/24")),
        Route(ip_network("2001:db8:1::/64")),
        Route(ip_network("172.17.0.0/16")),
        Route(ip_network("10.88.0.0/24"), is_tunnel=True),
        Route(ip_network("192.168.50.0/24"), is_tunnel=True),
        Route(ip_network("203.0.113.128/25"), is_tunnel=True),
        Route(ip_network("10.20.0.0/16")),  # a static route to another site
    ),
)


def at(address: str, port: int = PORT) -> Endpoint:
    return Endpoint(ip_address(address), port)


def test_what_a_laptop_tells() -> None:
    told = own_candidates(
        LAPTOP, PORT, reflexive=[at("198.51.100.9", 50001)], mapped=[at("198.51.100.9", 50002)]
    )
    assert told == (
        Candidate(HOST, at("2001:db8:1::7")),
        Candidate(HOST, at("192.168.1.7")),
        Candidate(HOST, at("172.17.0.1")),
        Candidate(MAPPED, at("198.51.100.9", 50002)),
        Candidate(REFLEXIVE, at("198.51.100.9", 50001)),
        Candidate(FORWARDED, at("198.51.100.9")),
    )


def test_without_hosts_and_switched_off() -> None:
    reflexive = [at("198.51.100.9")]
    told = own_candidates(LAPTOP, PORT, mode="no-host", reflexive=reflexive)
    assert told == (Candidate(REFLEXIVE, at("198.51.100.9")),)
    assert own_candidates(LAPTOP, PORT, mode="off", reflexive=reflexive) == ()


def test_without_hosts_a_server_in_the_same_network_gives_nothing_away() -> None:
    seen = [at("192.168.1.7"), at("2001:db8:1::7")]
    told = own_candidates(LAPTOP, PORT, mode="no-host", reflexive=seen)
    assert {candidate.endpoint for candidate in told} == {at("2001:db8:1::7")}  # the internet's


def test_many_addresses_leave_room_for_what_the_internet_sees() -> None:
    addresses = tuple(LocalAddress(ip_interface(f"10.0.{n}.1/24")) for n in range(20))
    reflexive = [at("198.51.100.9", 5), at("2001:db8::9", 5)]
    told = own_candidates(Network(addresses), PORT, reflexive=reflexive)
    assert len(told) == MAX_CANDIDATES
    assert {REFLEXIVE, FORWARDED} <= {candidate.kind for candidate in told}


def test_a_public_address_is_told_once() -> None:
    network = Network((LocalAddress(ip_interface("198.51.100.1/24")),))
    told = own_candidates(network, PORT, reflexive=[at("198.51.100.1")])
    assert told == (Candidate(HOST, at("198.51.100.1")),)


PROBED = {
    "198.51.100.20": True,
    "2001:db8:77::1": True,
    "192.168.1.20": True,  # on our own network
    "10.20.3.4": True,  # a route that is not the default one
    "192.168.7.20": False,  # private, and only the default route leads there
    "100.64.3.3": False,
    "fd00::5": False,
    "10.88.0.9": False,  # into our tunnel
    "192.168.50.9": False,
    "203.0.113.200": False,  # public, and routed into our tunnel
    "203.0.113.100": True,
    "192.168.1.7": False,  # this device
    "192.168.1.255": False,  # broadcast
    "127.0.0.1": False,
    "127.9.9.9": False,
    "::1": False,
    "169.254.1.1": False,
    "fe80::1": False,
    "224.0.0.251": False,
    "ff02::1": False,
    "0.0.0.0": False,
    "0.1.2.3": False,
    "::": False,
    "255.255.255.255": False,
    "240.0.0.1": False,
    "::ffff:198.51.100.20": False,
    "::198.51.100.20": False,
    "64:ff9b::198.51.100.20": False,
    "2002:c633:6414::1": False,
    "2001:0:c633:6414::1": False,
    "fec0::1": False,
}


@pytest.mark.parametrize("address", PROBED)
def test_what_is_probed(address: str) -> None:
    assert may_probe(LAPTOP, at(address)) is PROBED[address]


def test_behind_the_same_public_address_private_ones_are_probed() -> None:
    told = [Candidate(HOST, at("192.168.7.20")), Candidate(REFLEXIVE, at("198.51.100.9", 7000))]
    assert to_probe(LAPTOP, told) == (told[1:], 0)
    assert to_probe(LAPTOP, told, own_reflexive=[at("198.51.100.9")]) == (told, 0)
    assert to_probe(LAPTOP, told, own_reflexive=[at("198.51.100.8")]) == (told[1:], 0)


def test_even_then_nothing_into_a_tunnel() -> None:
    assert not may_probe(LAPTOP, at("10.88.0.9"), same_nat=True)
    assert not may_probe(LAPTOP, at("127.0.0.1"), same_nat=True)


def test_without_a_route_nothing_is_probed() -> None:
    only_v4 = Network(LAPTOP.addresses, (Route(ip_network("0.0.0.0/0")),))
    assert not may_probe(only_v4, at("2001:db8:77::1"))
    assert may_probe(only_v4, at("198.51.100.20"))


def test_two_equal_routes_and_one_leads_into_a_tunnel() -> None:
    both = Network(
        (), (Route(ip_network("198.51.100.0/24")), Route(ip_network("198.51.100.0/24"), is_tunnel=True))
    )
    assert not may_probe(both, at("198.51.100.1"))


def test_what_no_honest_peer_tells_is_counted_and_the_rest_is_used() -> None:
    told = [
        Candidate(REFLEXIVE, at("198.51.100.20")),
        Candidate(HOST, at("127.0.0.1")),
        Candidate(HOST, at("224.0.0.1")),
        Candidate(HOST, at("192.168.7.20")),
        Candidate(HOST, at("2001:db8:77::1")),
        Candidate(HOST, at("2001:db8:77::1")),
    ]
    usable, refused = to_probe(LAPTOP, told)
    assert [str(candidate.endpoint.address) for candidate in usable] == ["2001:db8:77::1", "198.51.100.20"]
    assert refused == 2


@given(st.ip_addresses())
def test_no_address_is_probed_that_is_forbidden_or_in_the_tunnel(address: object) -> None:
    endpoint = at(str(address))
    if may_probe(LAPTOP, endpoint, same_nat=True):
        assert not is_forbidden(endpoint.address)
        route = LAPTOP.route_to(endpoint.address)
        assert route is not None
        assert not route.is_tunnel
    if may_probe(LAPTOP, endpoint) and is_private(endpoint.address):
        route = LAPTOP.route_to(endpoint.address)
        assert route is not None
        assert route.prefix.prefixlen


def test_behind_a_hard_nat_another_port_is_no_other_place() -> None:
    one, two = ((Candidate(REFLEXIVE, at("198.51.100.9", port)),) for port in (1, 2))
    assert whereabouts(one, NatVerdict.HARD) == whereabouts(two, NatVerdict.HARD)
    assert whereabouts(one, NatVerdict.EASY) != whereabouts(two, NatVerdict.EASY)
