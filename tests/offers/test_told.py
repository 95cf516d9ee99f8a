"""What a peer is told: what it may reach, and nothing else."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from nconnect.config.file import parse_config
from nconnect.config.values import format_allow_rule
from nconnect.crypto.keys import Identity
from nconnect.model import Config
from nconnect.offers.statement import OfferedServer, Statement, decode, encode
from nconnect.offers.told import LiveServer, statement_to

KEY = Identity(bytes([1]) * 32).public_key.hex()
LIVE = {
    "ollama": LiveServer("Ollama", ("llama3.2:3b",)),
    "vllm": LiveServer("vLLM"),
    "web": LiveServer(),
}


def config(allow: str = "", *, address: str = '["10.86.0.1/24", "fd86::1/64"]') -> Config:
    return parse_config(
        f"""
[interface]
seed = "{"11" * 32}"
address = {address}
[provide]
subnets = ["192.168.50.0/24", "192.168.1.0/24=10.99.1.0/24"]
[[provide.server]]
name = "ollama"
url = "http://127.0.0.1:11434"
names = ["chat"]
[[provide.server]]
name = "vllm"
url = "http://192.168.1.10:8000"
[[provide.server]]
name = "web"
url = "http://192.168.50.7"
[[provide.server]]
name = "silent"
url = "http://192.168.50.8"
[[provide.host]]
name = "nas"
address = "192.168.1.20"
[[provide.host]]
name = "box"
address = "fd86::1"
[[peer]]
name = "laptop"
address = "laptop.{KEY}"
allowed_ips = ["10.86.0.2/32"]
{allow}
""",
        interface="nc0",
    )


def told(allow: str = "") -> Statement:
    made = config(allow)
    return statement_to(made.peers[0], made, LIVE)


def test_all_that_is_provided_and_answers_as_the_peer_sees_it() -> None:
    said = told()
    assert said.subnets == (ip_network("192.168.50.0/24"), ip_network("10.99.1.0/24"))
    assert said.addresses == (ip_address("10.86.0.1"), ip_address("fd86::1"))
    assert said.servers == (
        OfferedServer("ollama", "http://10.86.0.1:11434", "Ollama", ("llama3.2:3b",), ("chat",)),
        OfferedServer("vllm", "http://10.99.1.10:8000", "vLLM"),
        OfferedServer("web", "http://192.168.50.7"),
    )
    assert said.hosts == (("nas", ip_address("10.99.1.20")), ("box", ip_address("fd86::1")))
    assert decode(encode(said)) == said


@pytest.mark.parametrize(
    ("allow", "subnets", "servers"),
    [
        ("allow = []", [], []),
        ('allow = ["192.168.50.7:80/tcp"]', ["192.168.50.0/24"], ["web"]),
        ('allow = ["192.168.50.7:81"]', ["192.168.50.0/24"], []),
        ('allow = ["192.168.50.7/udp"]', ["192.168.50.0/24"], []),
        ('allow = ["10.99.1.0/24"]', ["10.99.1.0/24"], ["vllm"]),
        ('allow = ["10.86.0.1:11434"]', [], ["ollama"]),
        ('allow = ["0.0.0.0/0"]', ["192.168.50.0/24", "10.99.1.0/24"], ["ollama", "vllm", "web"]),
    ],
)
def test_what_allow_leaves_out_is_not_told(allow: str, subnets: list[str], servers: list[str]) -> None:
    said = told(allow)
    assert [str(subnet) for subnet in said.subnets] == subnets
    assert [server.name for server in said.servers] == servers


def test_rules_are_told_with_the_addresses_that_the_peer_sees() -> None:
    assert told().allow is None
    said = told('allow = ["192.168.1.10:8000/tcp", "192.168.50.0/24", "10.99.1.3"]')
    assert [format_allow_rule(rule) for rule in said.allow or ()] == [
        "10.99.1.10:8000/tcp",
        "192.168.50.0/24",
        "10.99.1.3",
    ]


@pytest.mark.parametrize(
    ("allow", "hosts"),
    [
        ("allow = []", []),
        ('allow = ["10.99.1.20:22/tcp"]', ["nas"]),
        ('allow = ["10.99.1.0/28"]', []),
        ('allow = ["fd86::1/128/icmp"]', ["box"]),
        ('allow = ["0.0.0.0/0", "::/0"]', ["nas", "box"]),
    ],
)
def test_a_host_is_named_to_who_may_reach_something_there(allow: str, hosts: list[str]) -> None:
    assert [name for name, _ in told(allow).hosts] == hosts


def test_a_server_on_loopback_needs_an_ipv4_tunnel_address() -> None:
    made = config(address='["fd86::1/64"]')
    assert [server.name for server in statement_to(made.peers[0], made, LIVE).servers] == ["vllm", "web"]
