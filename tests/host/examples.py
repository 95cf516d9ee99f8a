"""Configurations and facts that the host's tests share."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

from nconnect.host.facts import HostFacts, LocalInterface, LocalRoute
from nconnect.model import (
    AllowRule,
    Config,
    NetworkConfig,
    NknAddress,
    PeerConfig,
    ProvideConfig,
    ProvidedSubnet,
    Service,
)


def peer(name: str, key: int, *prefixes: str, allow: tuple[AllowRule, ...] | None = None) -> PeerConfig:
    return PeerConfig(name, NknAddress(name, bytes([key]) * 32), tuple(map(ip_network, prefixes)), allow)


def same(prefix: str) -> ProvidedSubnet:
    return ProvidedSubnet(ip_network(prefix), ip_network(prefix))


PROVIDER = Config(
    interface="nc0",
    seed=bytes(32),
    identifier="provider",
    address=(ip_interface("10.86.0.1/24"), ip_interface("fd86::1/64")),
    provide=ProvideConfig(
        subnets=(same("192.168.50.0/24"), same("fd50::/64")), services=(Service((8000, 8000), "tcp"),)
    ),
    peers=(
        peer("alice", 1, "10.86.0.2/32", "fd86::2/128"),
        peer(
            "bob", 2, "10.86.0.3/32", allow=(AllowRule(ip_network("192.168.50.10/32"), (8000, 8000), "tcp"),)
        ),
        peer("carl", 3, "10.86.0.4/32", "10.0.0.0/8", allow=()),
    ),
)
USER = Config(
    interface="nc0",
    seed=bytes(32),
    identifier="user",
    address=(ip_interface("10.86.0.2/24"), ip_interface("fd86::2/64")),
    network=NetworkConfig(seed_rpc=("http://203.0.113.7:30003", "http://seed.example:30003")),
    peers=(peer("provider", 9, "10.86.0.1/32", "fd86::1/128", "192.168.50.0/24", "fd50::/64"),),
)
FACTS = HostFacts(
    interfaces=(
        LocalInterface("lo", (ip_interface("127.0.0.1/8"), ip_interface("::1/128"))),
        LocalInterface("eth0", (ip_interface("192.168.1.20/24"), ip_interface("fe80::1/64"))),
        LocalInterface("nc0", ()),
    ),
    routes=(
        LocalRoute(ip_network("0.0.0.0/0"), "eth0", ip_address("192.168.1.1")),
        LocalRoute(ip_network("192.168.1.0/24"), "eth0"),
        LocalRoute(ip_network("172.20.0.0/16"), "wg0"),
        LocalRoute(ip_network("198.51.100.0/24"), "eth0", ip_address("172.16.9.9")),
    ),
    sysctls={
        "net/ipv4/ip_forward": "0",
        "net/ipv6/conf/all/forwarding": "0",
        "net/ipv6/conf/all/accept_ra": "1",
        "net/ipv6/conf/eth0/accept_ra": "1",
        "net/ipv6/conf/eth1/accept_ra": "0",
        "net/ipv6/conf/lo/accept_ra": "1",
        "net/ipv6/conf/nc0/accept_ra": "1",
        "net/ipv6/conf/nc0/disable_ipv6": "0",
    },
)
