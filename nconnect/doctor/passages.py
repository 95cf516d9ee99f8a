"""The packets of a tunnel that other programs may stop, and the hooks by which each of them passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address

from nconnect.doctor.netfilter import Packet, Value
from nconnect.doctor.routing import Sample, folded, samples
from nconnect.host.offered import loopback_of, provides, reachable_exposed
from nconnect.model import Address, Config, Prefix, join_addr

_MAX_HOSTS = 16  # parts of a provided subnet that rules tell apart
MAX_PEERS = 8


@dataclass(frozen=True, slots=True)
class Site:
    """Where the packets come by."""

    config: Config
    devices: Mapping[Prefix, str]  # to each provided subnet, where one leads there
    held: frozenset[Address] = frozenset()  # the addresses of this machine
    nodes: tuple[Upstream, ...] = ()
    direct_port: int = 0  # where direct TCP streams come in; 0: nowhere


@dataclass(frozen=True, slots=True)
class Upstream:
    """A node, seed or proxy that the daemon speaks to by `device`."""

    address: Address
    port: int
    device: str


class Direction(Enum):
    IN = auto()  # from a peer, to this machine or through it
    BACK = auto()  # the answer
    INTO = auto()  # from this machine to a peer
    REPLY = auto()
    NODE = auto()  # from the daemon to its node
    NODE_REPLY = auto()
    DIRECT = auto()  # from a peer to `direct_port`, outside of the tunnel


@dataclass(frozen=True, slots=True)
class Passage:
    """A packet, by all hooks on its way. `subject` has a place for what is `named`, a part of the `whole`."""

    way: Direction
    subject: str
    named: str
    whole: str
    steps: tuple[tuple[str, Packet], ...]
    node: Upstream | None = None
    port: int = 0  # of DIRECT


def passages(site: Site, literals: list[Prefix]) -> Iterator[Passage]:
    config = site.config
    networks = [address.network for address in config.address]
    allowed = [prefix for peer in config.peers for prefix in peer.allowed_ips]
    peers = samples(folded(allowed, networks), literals, site.held)
    provider = provides(config)
    for version in (4, 6):
        of_version = [peer for peer in peers if peer.address.version == version][:MAX_PEERS]
        own = next((a.ip for a in config.address if a.version == version), None)
        if not of_version:
            continue
        for subnet in config.provide.subnets:
            if subnet.real.version == version and subnet.real in site.devices:
                yield from _across(site, subnet.real, of_version, literals, subnet.real != subnet.seen)
        if own is None:
            continue
        if provider:
            yield from _to_services(config, own, of_version)
        for peer in of_version:
            if not provider or peer.prefix not in networks:
                yield from _to_peer(config.interface, own, peer)
    for node in site.nodes:
        yield from _to_node(node)
    if site.direct_port:
        for device, version in sorted({(node.device, node.address.version) for node in site.nodes}):
            yield _to_direct_port(site.direct_port, device, version)


def _packet(source: Address, destination: Address, **more: Value | None) -> dict[str, Value | None]:
    """The first packet of a TCP connection, unless `more` says otherwise."""
    return {
        "version": source.version,
        "protocol": "tcp",
        "saddr": source,
        "daddr": destination,
        "state": "new",
        "direction": "original",
        "opening": "yes",
        "pkttype": "host",
        "daddr_type": "unicast",
        "mark": 0,
        "iifname": "",
        "oifname": "",
        **more,
    }


_ANSWER: dict[str, Value | None] = {"state": "established", "direction": "reply", "opening": None}


def _across(
    site: Site, subnet: Prefix, peers: list[Sample], literals: list[Prefix], mapped: bool
) -> Iterator[Passage]:
    """Through this machine into a provided subnet, and back."""
    tunnel, device = site.config.interface, site.devices[subnet]
    hosts = samples([subnet], literals, site.held)[:_MAX_HOSTS]
    pairs = [(peers[0], host) for host in hosts] + [(peer, host) for peer in peers[1:] for host in hosts[:1]]
    translated = site.config.provide.masquerade  # the answers come to an address of this machine's own
    for peer, host in pairs:
        there = _packet(peer.address, host.address, iifname=tunnel)
        arriving = {**there, "daddr": None} if mapped else there
        leaving = {**there, "oifname": device} | ({"saddr": None} if translated else {})
        yield Passage(
            Direction.IN,
            "what peers send to {}",
            _name(host),
            str(subnet),
            (
                ("ingress", arriving),
                ("prerouting", arriving),
                ("forward", {**there, "oifname": device}),
                ("postrouting", leaving),
            ),
        )
        back = _packet(host.address, peer.address, iifname=device) | _ANSWER
        before = {**back, "daddr": None, "daddr_type": None} if translated else back
        home = {**back, "oifname": tunnel}
        yield Passage(
            Direction.BACK,
            "what {} answers peers",
            _name(host),
            str(subnet),
            (("prerouting", before), ("forward", home), ("postrouting", home), ("egress", home)),
        )


def _to_services(config: Config, own: Address, peers: list[Sample]) -> Iterator[Passage]:
    """To this machine itself, and back."""
    offered = [(s.protocol, s.ports[0], own) for s in config.provide.services]
    if isinstance(own, IPv4Address):
        offered += [("tcp", s.port, loopback_of(s) or own) for s in reachable_exposed(config)]
    for protocol, port, server in dict.fromkeys(offered):
        for peer in peers:
            there = _packet(
                peer.address, own, iifname=config.interface, protocol=protocol, dport=port, daddr_type="local"
            )
            name = f"port {port}/{protocol}"
            at_server = {**there, "daddr": server}
            steps = (("ingress", there), ("prerouting", there), ("input", at_server))
            yield Passage(Direction.IN, "what peers send to {}", name, name, steps)
            back = (
                _packet(server, peer.address, oifname=config.interface, protocol=protocol, sport=port)
                | _ANSWER
            )
            at_end = (("output", back), ("postrouting", back), ("egress", back))
            yield Passage(Direction.BACK, "what {} answers peers", name, name, at_end)


def _to_peer(tunnel: str, own: Address, peer: Sample) -> Iterator[Passage]:
    """From this machine into the tunnel, and the answer."""
    there = _packet(own, peer.address, oifname=tunnel)
    steps = (("output", there), ("postrouting", there), ("egress", there))
    yield Passage(Direction.INTO, "packets to {}", _name(peer), str(peer.prefix), steps)
    back = _packet(peer.address, own, iifname=tunnel, daddr_type="local") | _ANSWER
    arriving = (("ingress", back), ("prerouting", back), ("input", back))
    yield Passage(Direction.REPLY, "answers from {}", _name(peer), str(peer.prefix), arriving)


def _to_node(node: Upstream) -> Iterator[Passage]:
    """The daemon's own packets, outside of the tunnel, and the answers. Its own address is not known."""
    there = _packet(node.address, node.address, dport=node.port, oifname=node.device) | {"saddr": None}
    subject, name = "the daemon's own packets to {}", join_addr(str(node.address), node.port)
    steps = (("output", there), ("postrouting", there))
    yield Passage(Direction.NODE, subject, name, name, steps, node)
    at: dict[str, Value | None] = {"iifname": node.device, "sport": node.port, "daddr_type": "local"}
    back = _packet(node.address, node.address) | at | _ANSWER
    arriving = (("prerouting", back | {"daddr": None}), ("input", back | {"daddr": None}))
    yield Passage(Direction.NODE_REPLY, "what {} answers", name, name, arriving, node)


def _to_direct_port(port: int, device: str, version: int) -> Passage:
    """A direct TCP stream's first packet, by the device that leads to a node. UDP needs no hole: punched."""
    there: dict[str, Value | None] = {
        **_packet(IPv4Address(0), IPv4Address(0), iifname=device, dport=port, daddr_type="local"),
        "version": version,
        "saddr": None,
        "daddr": None,
    }
    name = f"TCP port {port}, which direct paths use"
    steps = (("ingress", there), ("prerouting", there), ("input", there))
    return Passage(Direction.DIRECT, "what comes to {}", name, name, steps, port=port)


def _name(sample: Sample) -> str:
    part = sample.part
    return str(part.network_address if part.prefixlen == part.max_prefixlen else part)
