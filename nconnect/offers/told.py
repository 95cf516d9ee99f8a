"""What this side tells each of its peers: what the peer may reach here, and nothing that it may not. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from nconnect.host.judge import Flow, judge
from nconnect.host.offered import real_prefix
from nconnect.model import Address, AllowRule, Config, MappedPrefix, PeerConfig, Prefix, ProvidedServer
from nconnect.offers.accept import moved
from nconnect.offers.statement import MAX_ALLOW, MAX_SUBNETS, OfferedServer, Statement


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A server that answers: what it is, if it is known, and the models that it lists itself."""

    kind: str = ""
    models: tuple[str, ...] = ()


def statement_to(peer: PeerConfig, config: Config, live: Mapping[str, LiveServer]) -> Statement:
    """`config`: the file's, with real addresses. `live`: by name, the servers that answer now."""
    own = tuple(address.ip for address in peer.local_address or config.address)
    return Statement(
        subnets=tuple(_subnets(peer, config))[:MAX_SUBNETS],
        allow=None if peer.allow is None else tuple(_rules(peer.allow[:MAX_ALLOW], config)),
        addresses=own,
        hosts=tuple(_hosts(peer, config)),
        servers=tuple(_servers(peer, config, live)),
    )


def _subnets(peer: PeerConfig, config: Config) -> Iterator[Prefix]:
    """The provided subnets, as peers see them, of which the peer may reach something."""
    for subnet in config.provide.subnets:
        if peer.allow is None or any(
            _overlap(real_prefix(rule.prefix, config.provide.subnets), subnet.real) for rule in peer.allow
        ):
            yield subnet.seen


def _rules(allow: Iterable[AllowRule], config: Config) -> Iterator[AllowRule]:
    """The entries of `allow`, with addresses as the peer sees them."""
    pairs = [MappedPrefix(subnet.real, subnet.seen) for subnet in config.provide.subnets]
    for rule in allow:
        yield replace(rule, prefix=moved(rule.prefix, pairs))


def _hosts(peer: PeerConfig, config: Config) -> Iterator[tuple[str, Address]]:
    """The named hosts at which the peer may reach something."""
    subnets = config.provide.subnets
    for host in config.provide.hosts:
        if peer.allow is None or any(
            host.address in real_prefix(rule.prefix, subnets) for rule in peer.allow
        ):
            yield host.name, _seen(host.address, config)


def _overlap(one: Prefix, other: Prefix) -> bool:
    return one.version == other.version and one.overlaps(other)


def _servers(peer: PeerConfig, config: Config, live: Mapping[str, LiveServer]) -> Iterator[OfferedServer]:
    tunnel = [address.ip for address in config.address]
    may_open = judge(config, tunnel)
    sources = {prefix.version: prefix.network_address for prefix in peer.allowed_ips}
    for server in config.provide.servers:
        there = live.get(server.name)
        place = _place(server, tunnel)
        if there is None or place is None:
            continue
        source = sources.get(place.version)
        if source is not None and may_open(Flow("tcp", source, place, None, server.port)):
            url = server.url_at(str(_seen(place, config)))
            yield OfferedServer(server.name, url, there.kind, there.models, server.names)


def _place(server: ProvidedServer, tunnel: list[Address]) -> Address | None:
    """Where a peer's connection to the server goes; None where it cannot."""
    if not server.is_local:
        return server.host
    return next((address for address in tunnel if address.version == 4), None)


def _seen(address: Address, config: Config) -> Address:
    for subnet in config.provide.subnets:
        if address in subnet.real:
            host = int(address) - int(subnet.real.network_address)
            return type(address)(int(subnet.seen.network_address) + host)
    return address
