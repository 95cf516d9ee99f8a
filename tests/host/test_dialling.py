"""What a peer may have this device connect to: what its packets may reach, never this machine's inside."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.host.dialling import METADATA, target_of
from nconnect.host.judge import Flow, judge
from nconnect.ip.packet import is_forbidden_source
from nconnect.model import (
    Address,
    AllowRule,
    Config,
    Endpoint,
    Exposed,
    PeerConfig,
    ProvideConfig,
    ProvidedSubnet,
)
from tests.host.examples import PROVIDER

OWN = frozenset(
    map(ip_address, ("10.86.0.1", "fd86::1", "192.168.50.1", "127.0.0.1", "::1", "fe80::1", "169.254.7.7"))
)
ALICE = PROVIDER.peers[0]
EVERYTHING = replace(
    PROVIDER,
    provide=ProvideConfig(
        tuple(ProvidedSubnet(ip_network(p), ip_network(p)) for p in ("0.0.0.0/0", "::/0")),
        expose=(Exposed("127.0.0.1", 11434),),
        services=PROVIDER.provide.services,
    ),
)


def asked(
    text: str, config: Config = PROVIDER, peer: PeerConfig = ALICE, protocol: str = "tcp"
) -> Endpoint | str:
    host, _, port = text.rpartition(":")
    return target_of(peer, protocol, Endpoint(ip_address(host.strip("[]")), int(port)), config, OWN)


def allowing(*prefixes: str) -> PeerConfig:
    return replace(ALICE, allow=tuple(AllowRule(ip_network(prefix)) for prefix in prefixes))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("192.168.50.10:22", True),
        ("[fd50::10]:1", True),
        ("192.168.50.1:8000", True),  # a service at this machine's own address
        ("192.168.50.1:22", False),
        ("10.86.0.1:8000", True),
        ("10.86.0.1:22", False),
        ("192.168.51.10:22", False),
        ("192.168.50.10:0", False),
        ("127.0.0.1:8000", False),
        ("8.8.8.8:53", False),
    ],
)
def test_what_is_provided_may_be_reached(wanted: str, expected: bool) -> None:
    found = asked(wanted)
    assert isinstance(found, Endpoint) is expected
    if not expected:
        assert found == f"{wanted} (tcp) is not among what this peer may reach"


@pytest.mark.parametrize(
    "wanted",
    [
        "127.0.0.1:8000", "127.9.9.9:8000", "[::1]:8000", "0.0.0.0:8000", "[::]:8000",
        "[::ffff:127.0.0.1]:8000",
        "[::ffff:169.254.169.254]:80", "224.0.0.1:8000", "[ff02::1]:8000", "255.255.255.255:8000",
        "169.254.169.254:80", "[fe80::9]:80", "[fd00:ec2::254]:80", "100.100.100.200:80", "169.254.7.7:8000",
    ],
)  # fmt: skip
def test_not_even_a_provided_default_route_leads_to_the_machines_inside(wanted: str) -> None:
    assert isinstance(asked(wanted, EVERYTHING), str)
    assert isinstance(asked("8.8.8.8:53", EVERYTHING), Endpoint)


def test_a_provided_default_route_does_not_lead_to_other_peers() -> None:
    for wanted in ("10.86.0.3:80", "10.9.9.9:80"):  # bob's address, and carl's network
        assert "belongs to another peer" in str(asked(wanted, EVERYTHING))
        assert "belongs to another peer" in str(asked(wanted, EVERYTHING, allowing("10.0.0.0/8")))
    assert isinstance(asked("10.86.0.1:8000", EVERYTHING), Endpoint), "this machine's own"
    at = Endpoint(ip_address("10.9.9.9"), 80)
    here = (ip_network("10.9.9.0/24"),)  # a network of this machine inside carl's
    assert target_of(ALICE, "tcp", at, EVERYTHING, OWN, here) == at
    assert isinstance(target_of(ALICE, "tcp", at, EVERYTHING, OWN, (ip_network("10.9.8.0/24"),)), str)


def test_a_provided_subnet_inside_a_peers_default_route_may_be_reached() -> None:
    """As on a device that provides its network and has its way to the internet by a peer."""
    way_out = replace(PROVIDER.peers[1], allowed_ips=(ip_network("0.0.0.0/0"),))
    config = replace(PROVIDER, peers=(ALICE, way_out))
    assert isinstance(asked("192.168.50.10:22", config), Endpoint)


def test_a_link_local_address_may_be_named_exactly_and_loopback_may_not() -> None:
    assert isinstance(asked("169.254.169.254:80", EVERYTHING, allowing("169.254.169.254/32")), Endpoint)
    assert isinstance(asked("169.254.169.254:80", EVERYTHING, allowing("169.254.0.0/16")), str)
    assert isinstance(asked("127.0.0.1:80", EVERYTHING, allowing("127.0.0.1/32")), str)


def test_an_exposed_server_is_reached_by_the_tunnel_address_alone() -> None:
    assert asked("10.86.0.1:11434", EVERYTHING) == Endpoint(ip_address("127.0.0.1"), 11434)
    assert isinstance(asked("127.0.0.1:11434", EVERYTHING), str)
    assert isinstance(asked("10.86.0.1:11434", EVERYTHING, allowing("192.168.50.0/24")), str)
    assert isinstance(asked("10.86.0.1:11434", EVERYTHING, protocol="udp"), str)


def test_an_address_as_peers_see_it_is_the_real_one_here() -> None:
    mapped = ProvidedSubnet(ip_network("192.168.1.0/24"), ip_network("10.99.1.0/24"))
    config = replace(PROVIDER, provide=replace(PROVIDER.provide, subnets=(mapped,)))
    assert asked("10.99.1.10:80", config) == Endpoint(ip_address("192.168.1.10"), 80)


def test_a_paused_peer_reaches_nothing_and_is_told_why() -> None:
    assert asked("192.168.50.10:22", peer=replace(ALICE, paused="at dinner")) == "paused: at dinner"
    assert asked("192.168.50.10:22", peer=replace(ALICE, paused="")) == "paused"


def test_a_side_that_provides_nothing_says_so() -> None:
    assert (
        asked("192.168.50.10:22", replace(PROVIDER, provide=ProvideConfig()))
        == "this device provides nothing"
    )


ADDRESSES = st.one_of(
    st.sampled_from(sorted(OWN | set(METADATA), key=str)),
    st.integers(0, 255).map(lambda n: ip_address(f"192.168.50.{n}")),
    st.integers(0, 255).map(lambda n: ip_address(f"192.168.{n}.10")),
    st.ip_addresses(),
)
RULES = st.lists(
    st.builds(
        AllowRule,
        st.sampled_from(
            [ip_network(t) for t in ("192.168.50.0/24", "192.168.50.10/32", "10.86.0.1/32", "fd50::/64")]
        ),
        st.sampled_from([None, (8000, 8000), (1, 1000)]),
        st.sampled_from([None, "tcp", "udp", "icmp"]),
    ),
    max_size=3,
)


@given(
    address=ADDRESSES,
    port=st.sampled_from([1, 22, 80, 8000, 11434]),
    protocol=st.sampled_from(["tcp", "udp"]),
    rules=st.none() | RULES,
    everything=st.booleans(),
)
def test_streams_and_packets_agree(
    address: Address, port: int, protocol: str, rules: list[AllowRule] | None, everything: bool
) -> None:
    address = ip_address(str(address).partition("%")[0])
    peer = replace(ALICE, allow=None if rules is None else tuple(rules))
    config = replace(EVERYTHING if everything else PROVIDER, peers=(peer, *PROVIDER.peers[1:]))
    source = ip_address("10.86.0.2" if address.version == 4 else "fd86::2")
    may_packets = judge(config, OWN)(Flow(protocol, source, address, 40000, port))
    found = target_of(peer, protocol, Endpoint(address, port), config, OWN)
    if isinstance(found, Endpoint):
        assert may_packets
    elif may_packets:
        of_a_peer = any(address in prefix for each in config.peers for prefix in each.allowed_ips)
        assert is_forbidden_source(address.packed) or address in METADATA or of_a_peer
