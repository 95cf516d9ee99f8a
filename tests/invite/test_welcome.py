from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.config.values import parse_allow_rule
from nconnect.errors import ConfigError, RemoteProtocolError
from nconnect.invite.welcome import (
    Offer,
    Welcome,
    accepted_in,
    encode_application,
    offered_by,
    read_grant,
    welcome_for,
)
from nconnect.model import Config, PeerConfig, ProvideConfig, ProvidedSubnet
from tests.invite.examples import DEVICE, WELCOME


def test_what_is_written_is_read() -> None:
    assert Welcome.decode(WELCOME.encode()) == WELCOME
    assert WELCOME.preshared_key.hex() not in repr(WELCOME)
    assert repr(WELCOME.preshared_key) not in repr(WELCOME)


def test_fields_of_later_versions_are_passed_over() -> None:
    content = json.loads(WELCOME.encode()) | {"mtu": 1400}
    assert Welcome.decode(json.dumps(content).encode()) == WELCOME


def test_a_limit_is_told_in_our_own_spelling() -> None:
    limited = replace(WELCOME, allow=("192.168.50.10:8000/tcp", "192.168.50.10/icmp"))
    assert Welcome.decode(limited.encode()) == limited
    assert "allow" not in json.loads(WELCOME.encode())
    content = json.loads(WELCOME.encode())
    for odd in (7, "all", [7], None):
        assert Welcome.decode(json.dumps(content | {"allow": odd}).encode()).allow is None
    with pytest.raises(RemoteProtocolError):
        Welcome.decode(json.dumps(content | {"allow": ["\x1b[2J"]}).encode())


@pytest.mark.parametrize("field", ["name", "provider", "address", "allowed_ips", "preshared_key"])
@pytest.mark.parametrize("value", [None, 7, "", [], ["x"], [7], "a b", {}])
def test_what_cannot_be_used_is_refused(field: str, value: object) -> None:
    content = json.loads(WELCOME.encode()) | {field: value}
    with pytest.raises(RemoteProtocolError):
        Welcome.decode(json.dumps(content).encode())


@pytest.mark.parametrize(
    ("given_", "taken"),
    [
        ("10.86.0.9/24", "10.86.0.9/24"),
        ("10.86.0.9/16", "10.86.0.9/16"),
        ("172.16.5.9/16", "172.16.5.9/16"),
        ("fd86::9/64", "fd86::9/64"),
        ("10.86.0.9/8", "10.86.0.9/32"),
        ("10.86.0.9/1", "10.86.0.9/32"),
        ("8.8.8.9/0", "8.8.8.9/32"),
        ("8.8.8.9/24", "8.8.8.9/32"),
        ("172.32.0.9/24", "172.32.0.9/32"),
        ("fd86::9/32", "fd86::9/128"),
        ("2001:db8::9/64", "2001:db8::9/128"),
    ],
)
def test_an_address_brings_no_wide_network_with_it(given_: str, taken: str) -> None:
    """The kernel would route all of it into the tunnel, half of the internet for a /1."""
    content = json.loads(WELCOME.encode()) | {"address": [given_]}
    assert Welcome.decode(json.dumps(content).encode()).addresses == (taken,)


@given(st.binary(max_size=100))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Welcome.decode(data)


def test_what_a_device_accepts_is_read_and_silence_is_an_older_device() -> None:
    setting = (ip_network("8.8.8.8/32"),)
    assert accepted_in(encode_application(setting)) == setting
    assert accepted_in(encode_application("none")) == "none"
    assert accepted_in(b"") == "all"
    assert accepted_in(b'{"later": 1}') == "all"
    for nonsense in (b"[]", b"{", b'{"accept_routes": "some"}', b'{"accept_routes": [5]}', b"\xff"):
        with pytest.raises(RemoteProtocolError):
            accepted_in(nonsense)


def test_an_offer_is_no_welcome() -> None:
    assert read_grant(Offer(("8.8.8.8/32",)).encode()) == Offer(("8.8.8.8/32",))
    assert read_grant(WELCOME.encode()) == WELCOME
    for nonsense in ("[]", '"8.8.8.8/32"', '["x"]', '["127.0.0.1/32"]', "[5]"):
        with pytest.raises(RemoteProtocolError):
            read_grant(f'{{"offer": {nonsense}}}'.encode())


SUBNET = ip_network("192.168.50.0/24")
PEER = PeerConfig(
    "laptop", DEVICE, (ip_network("10.86.0.2/32"), ip_network("10.9.0.0/24")), preshared_key=bytes(32)
)
CONFIG = Config(
    "nc0",
    bytes(32),
    "gpu.box-",
    (ip_interface("10.86.0.1/24"),),
    provide=ProvideConfig((ProvidedSubnet(SUBNET, SUBNET),)),
)


def test_a_peer_is_told_its_own_addresses_and_what_it_may_route() -> None:
    told = welcome_for(CONFIG, PEER)
    assert told == Welcome(
        "laptop", "gpu-box", ("10.86.0.2/24",), ("10.86.0.1/32", "192.168.50.0/24"), bytes(32)
    )
    assert tuple(map(str, offered_by(CONFIG))) == told.allowed_ips
    rule = parse_allow_rule("192.168.50.10:8000/tcp")
    assert welcome_for(CONFIG, replace(PEER, allow=(rule,))).allow == ("192.168.50.10:8000/tcp",)
    assert welcome_for(CONFIG, replace(PEER, allow=())).allow == ()
    assert welcome_for(replace(CONFIG, identifier="._"), PEER).provider_name == "provider"


@pytest.mark.parametrize(
    ("peer", "why"),
    [
        (replace(PEER, preshared_key=None), "has no preshared key any more"),
        (replace(PEER, allowed_ips=(ip_network("10.9.0.0/24"),)), "has no address of its own"),
    ],
)
def test_a_peer_that_cannot_be_told_is_an_error(peer: PeerConfig, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        welcome_for(CONFIG, peer)
