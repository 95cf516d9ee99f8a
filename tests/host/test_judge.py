"""Which connections stay after a change."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from nconnect.host.judge import Flow, judge, owner_of
from nconnect.model import AllowRule, Config, Exposed, ProvidedSubnet
from tests.host.examples import PROVIDER, USER

OWN = frozenset(map(ip_address, ("10.86.0.1", "fd86::1", "192.168.50.1", "127.0.0.1")))
ALICE, BOB, CARL = "10.86.0.2", "10.86.0.3", "10.86.0.4"


def allowed(source: str, destination: str, what: str, config: Config = PROVIDER) -> bool:
    port, _, protocol = what.rpartition("/")
    flow = Flow(protocol, ip_address(source), ip_address(destination), 40000, int(port) if port else None)
    return judge(config, OWN)(flow)


def bob_may(*rules: AllowRule) -> Config:
    peers = tuple(replace(p, allow=rules) if p.name == "bob" else p for p in PROVIDER.peers)
    return replace(PROVIDER, peers=peers)


@pytest.mark.parametrize(
    ("source", "destination", "what", "expected"),
    [
        (ALICE, "192.168.50.10", "8000/tcp", True),
        (ALICE, "192.168.50.10", "/icmp", True),
        (ALICE, "192.168.60.10", "8000/tcp", False),
        (ALICE, "192.168.50.1", "8000/tcp", True),
        (ALICE, "192.168.50.1", "8000/udp", False),
        (ALICE, "192.168.50.1", "22/tcp", False),
        (ALICE, "192.168.50.1", "/icmp", True),
        ("fd86::2", "fd50::10", "1/udp", True),
        ("fd86::2", "fd51::10", "1/udp", False),
        (BOB, "192.168.50.10", "8000/tcp", True),
        (BOB, "192.168.50.10", "8000/udp", False),
        (BOB, "192.168.50.10", "8001/tcp", False),
        (BOB, "192.168.50.10", "/icmp", False),
        (BOB, "10.86.0.1", "8000/tcp", False),
        (BOB, "10.86.0.1", "/icmp", True),
        (CARL, "192.168.50.10", "8000/tcp", False),
        ("10.86.0.77", "192.168.50.10", "8000/tcp", False),  # carl's, by 10.0.0.0/8
        ("172.16.0.1", "192.168.50.10", "8000/tcp", False),  # nobody's
    ],
)
def test_who_may_reach_what(source: str, destination: str, what: str, expected: bool) -> None:
    assert allowed(source, destination, what) is expected


def test_a_wide_entry_gives_the_services_and_a_named_one_what_it_says() -> None:
    wide = bob_may(AllowRule(ip_network("192.168.50.0/24")))
    assert allowed(BOB, "192.168.50.1", "8000/tcp", wide)
    assert not allowed(BOB, "192.168.50.1", "22/tcp", wide)
    named = bob_may(AllowRule(ip_network("192.168.50.1/32"), (22, 23), "tcp"))
    assert allowed(BOB, "192.168.50.1", "22/tcp", named)
    assert not allowed(BOB, "192.168.50.1", "24/tcp", named)
    assert not allowed(BOB, "192.168.50.1", "8000/tcp", named)


def test_ports_without_a_protocol_are_tcp_and_udp() -> None:
    config = bob_may(AllowRule(ip_network("192.168.50.10/32"), (53, 53)))
    assert allowed(BOB, "192.168.50.10", "53/tcp", config)
    assert allowed(BOB, "192.168.50.10", "53/udp", config)
    assert not allowed(BOB, "192.168.50.10", "/icmp", config)


def test_a_mapped_entry_is_looked_up_under_its_real_address() -> None:
    mapped = ProvidedSubnet(ip_network("192.168.1.0/24"), ip_network("10.99.1.0/24"))
    config = bob_may(AllowRule(ip_network("10.99.1.10/32")))
    config = replace(config, provide=replace(config.provide, subnets=(mapped,)))
    assert allowed(BOB, "192.168.1.10", "1/tcp", config)
    assert not allowed(BOB, "192.168.1.11", "1/tcp", config)


def test_an_exposed_server() -> None:
    config = replace(PROVIDER, provide=replace(PROVIDER.provide, expose=(Exposed("127.0.0.1", 11434),)))
    assert allowed(ALICE, "10.86.0.1", "11434/tcp", config)
    assert not allowed(ALICE, "192.168.50.1", "11434/tcp", config)
    assert not allowed(BOB, "10.86.0.1", "11434/tcp", config)


def test_a_user_lets_nobody_in_unless_inbound() -> None:
    own = frozenset([ip_address("10.86.0.2"), ip_address("192.168.1.20")])
    flow = Flow("tcp", ip_address("10.86.0.1"), ip_address("10.86.0.2"), 40000, 22)
    assert not judge(USER, own)(flow)
    assert judge(replace(USER, inbound=True), own)(flow)
    elsewhere = replace(flow, destination=ip_address("192.168.1.20"))
    assert not judge(replace(USER, inbound=True), own)(elsewhere), "as the rules: at tunnel addresses alone"


def test_the_more_specific_prefix_owns() -> None:
    owner = owner_of(ip_address("10.86.0.2"), PROVIDER)
    assert owner is not None
    assert owner.name == "alice"
