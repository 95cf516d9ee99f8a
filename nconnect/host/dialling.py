"""Which target a peer may have this device connect to: the rules' decision, for streams. Pure.

A stream has no packets here that a rule could see: the daemon itself connects to the target. A peer may reach
that way what `judge` says its packets may reach, after the same translations, with two exceptions.

- Addresses that no packet from a tunnel gets to (loopback, link-local, multicast and the like): of these
  only a link-local one that `allow` names exactly may be reached. Cloud providers' metadata servers have
  such addresses, and answer whoever asks.
- Addresses of other peers, also where a provided subnet (0.0.0.0/0) holds them: the rules let no packet pass
  from peer to peer, and a connection of ours would have what the other peer allows to this device.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import ip_address

from nconnect.host.judge import Flow, may_open
from nconnect.host.offered import loopback_of, provides, reachable_exposed
from nconnect.ip.packet import is_forbidden_source
from nconnect.model import Address, Config, Endpoint, PeerConfig, Prefix

# Metadata servers that are not link-local: of one provider by IPv6, of another by shared address space.
METADATA = (ip_address("fd00:ec2::254"), ip_address("100.100.100.200"))


def target_of(
    peer: PeerConfig,
    protocol: str,
    wanted: Endpoint,
    config: Config,
    own: Collection[Address],
    elsewhere: Iterable[Prefix] = (),
) -> Endpoint | str:
    """What to connect to for a peer that wants `wanted`; or why not, a clause.

    `protocol`: "tcp" or "udp". `own`: all addresses of this machine, at this moment. `elsewhere`: prefixes
    that this machine reaches by another way than the tunnel.
    """
    if peer.paused is not None:
        return f"paused: {peer.paused}" if peer.paused else "paused"
    if not provides(config) and not config.inbound:
        return "this device provides nothing"
    address = _real(wanted.address, config)
    flow = Flow(protocol, address, address, None, wanted.port)
    exposed = _exposed(flow, config)
    refused = f"{wanted} ({protocol}) is not among what this peer may reach"
    if not wanted.port or not may_open(flow, peer, config, own):
        return refused
    if exposed is not None:
        return exposed
    is_special = is_forbidden_source(address.packed) or address in METADATA
    if is_special and not ((address.is_link_local or address in METADATA) and _is_exact(peer, address)):
        return refused
    if address not in own and _is_a_peers(address, config, elsewhere):
        return f"{refused}: it belongs to another peer"
    return Endpoint(address, wanted.port)


def _real(address: Address, config: Config) -> Address:
    """An address in a mapped subnet, as it is here."""
    inside = [s for s in config.provide.subnets if s.seen != s.real and address in s.seen]
    if not inside:
        return address
    subnet = max(inside, key=lambda s: s.seen.prefixlen)
    offset = int(address) - int(subnet.seen.network_address)
    return type(address)(int(subnet.real.network_address) + offset)


def _exposed(flow: Flow, config: Config) -> Endpoint | None:
    """Where the server on loopback is that this tunnel address and port stand for."""
    if flow.protocol != "tcp" or not any(
        address.version == 4 and address.ip == flow.destination for address in config.address
    ):
        return None
    for server in reachable_exposed(config):
        loopback = loopback_of(server)
        if server.port == flow.port and loopback is not None:
            return Endpoint(loopback, server.port)
    return None


def _is_a_peers(address: Address, config: Config, elsewhere: Iterable[Prefix]) -> bool:
    """Whether a provided address leads into the tunnel: a peer's prefix holds it that is no wider."""
    held = _longest(address, (prefix for peer in config.peers for prefix in peer.allowed_ips))
    provided = _longest(address, (subnet.real for subnet in config.provide.subnets))
    return held >= max(provided, 0) and held > _longest(address, elsewhere)


def _longest(address: Address, prefixes: Iterable[Prefix]) -> int:
    """The length of the longest prefix that holds the address; -1 if none does."""
    return max((prefix.prefixlen for prefix in prefixes if address in prefix), default=-1)


def _is_exact(peer: PeerConfig, address: Address) -> bool:
    return any(
        rule.prefix.prefixlen == rule.prefix.max_prefixlen and address in rule.prefix
        for rule in peer.allow or ()
    )
