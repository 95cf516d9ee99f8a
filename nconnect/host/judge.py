"""The decision of the rules in `nconnect.host.nft` for one connection: it tells which ones a change must end.

Conntrack sees a connection after the mapping of subnets and before destination NAT. So a `Flow` has real
addresses, and the destination of an exposed server is the tunnel address.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from nconnect.host.offered import provides, reachable_exposed, real_prefix
from nconnect.model import Address, AllowRule, Config, PeerConfig


@dataclass(frozen=True, slots=True)
class Flow:
    """The first packet of a connection. `port` is None where the protocol has none."""

    protocol: str  # "tcp", "udp", "icmp" (IPv6's too), or another name
    source: Address
    destination: Address
    source_port: int | None = None
    port: int | None = None


def owner_of(source: Address, config: Config) -> PeerConfig | None:
    """The peer whose most specific prefix holds the address."""
    held = [
        (prefix.prefixlen, peer) for peer in config.peers for prefix in peer.allowed_ips if source in prefix
    ]
    return max(held, key=lambda entry: entry[0])[1] if held else None


def judge(config: Config, own: Collection[Address]) -> Callable[[Flow], bool]:
    """A function that says whether a peer may open a connection. `own`: all addresses of this machine.

    It looks up the peer of each source once.
    """
    owners: dict[Address, PeerConfig | None] = {}

    def judged(flow: Flow) -> bool:
        if flow.source not in owners:
            owners[flow.source] = owner_of(flow.source, config)
        return may_open(flow, owners[flow.source], config, own)

    return judged


def may_open(flow: Flow, peer: PeerConfig | None, config: Config, own: Collection[Address]) -> bool:
    """Whether this peer may open it, whatever the flow's source is."""
    if peer is None:
        return False
    if flow.destination in own:
        return _may_reach_this_machine(flow, peer, config)
    provided = any(flow.destination in subnet.real for subnet in config.provide.subnets)
    return provided and (peer.allow is None or any(_names(rule, flow, config) for rule in peer.allow))


def _may_reach_this_machine(flow: Flow, peer: PeerConfig, config: Config) -> bool:
    at_tunnel = any(flow.destination == address.ip for address in config.address)
    if not provides(config):
        return config.inbound and at_tunnel
    if flow.protocol == "icmp" and at_tunnel:
        return True
    offered = flow.protocol == "icmp" or any(
        service.protocol == flow.protocol and _in_range(flow.port, service.ports)
        for service in config.provide.services
    )
    if flow.protocol == "tcp" and any(
        flow.destination == address.ip and address.version == 4 and flow.port == server.port
        for address in config.address
        for server in reachable_exposed(config)
    ):
        offered = True
    if peer.allow is None:
        return offered
    return any(
        _names(rule, flow, config) and (offered or rule.prefix.prefixlen == rule.prefix.max_prefixlen)
        for rule in peer.allow
    )


def _names(rule: AllowRule, flow: Flow, config: Config) -> bool:
    if flow.destination not in real_prefix(rule.prefix, config.provide.subnets):
        return False
    if rule.protocol is not None and rule.protocol != flow.protocol:
        return False
    if rule.ports is None:
        return True
    return flow.protocol in ("tcp", "udp") and _in_range(flow.port, rule.ports)


def _in_range(port: int | None, ports: tuple[int, int]) -> bool:
    return port is not None and ports[0] <= port <= ports[1]
