"""A provider on which nothing is wrong; each test changes one fact."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network
from typing import Any

from nconnect.doctor.facts import Facts, NatFact, SeedFact, SubnetFact
from nconnect.model import (
    Config,
    Endpoint,
    Exposed,
    NknAddress,
    PeerConfig,
    ProvideConfig,
    ProvidedSubnet,
    Service,
)
from nconnect.nat.port_mapping import Router
from nconnect.nat.stun import Verdict
from nconnect.wire.direct import NatVerdict

LAN = ip_network("192.168.50.0/24")
PEER = PeerConfig("laptop", NknAddress("laptop", b"\1" * 32), (ip_network("10.86.0.2/32"),))
CONFIG = Config(
    interface="nc0",
    seed=b"\7" * 32,
    identifier="gpu-box",
    address=(ip_interface("10.86.0.1/24"),),
    provide=ProvideConfig(
        subnets=(ProvidedSubnet(LAN, LAN),),
        services=(Service((8000, 8000), "tcp"),),
        expose=(Exposed("127.0.0.1", 11434),),
    ),
    peers=(PEER,),
)
FACTS = Facts(
    interface="nc0",
    path="/etc/nconnect/nc0.toml",
    config=CONFIG,
    running=True,
    sysctls={
        "net/ipv4/ip_forward": "1",
        "net/ipv4/conf/all/rp_filter": "0",
        "net/ipv4/conf/nc0/rp_filter": "0",
    },
    detours=(),
    now=1_790_000_000.0,
    released_at=1_767_225_600.0,
    seeds=(SeedFact("http://203.0.113.7:30003", "203.0.113.7:30002", 12.0, "", 0.4),),
    nats=(
        NatFact(
            4,
            Verdict(NatVerdict.EASY, Endpoint(ip_address("203.0.113.9"), 40_000), 0.0),
            ip_address("192.168.50.2"),
            (),
        ),
    ),
    router=Router(IPv4Address("192.168.50.1"), ("PCP",), ip_address("203.0.113.9")),
    subnets=(SubnetFact(LAN, "eth0", 1500, ("192.168.50.10",), ("192.168.50.10",), 1500),),
)


def spoilt(**changes: Any) -> Facts:
    """The good machine with some facts changed."""
    return replace(FACTS, **changes)
