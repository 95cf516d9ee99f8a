"""Which prefixes of which provider are in force on this device, and under which addresses it sees them. Pure.

A provider's prefixes come with its invitation (`allowed_ips` in the file) and with what it offers later. They
are taken without asking as far as `accept_routes` goes; the others wait for a person. What is taken keeps its
own addresses if nobody on this device has them: a network or route of the device itself, another peer, or
another provider. Else the whole prefix is mapped 1:1 to one that is free, tunnel networks too.

An earlier decision stands as long as it can (`Kept`): so mapped addresses are stable, also over restarts, and
a provider that names another one's prefix later gets it mapped, instead of taking it over. A prefix in force
is mapped when the device enters a network that has its addresses, and stays mapped when it leaves; with
`fail_closed` it keeps its addresses, which are shut off then (decision 0022).

What a person wrote as `allowed_ips` of a peer without `local_address` is in force as it is. Decision 0036.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface, ip_network

from nconnect.config.accept_routes import is_accepted
from nconnect.config.private import LARGEST, is_in_private_space
from nconnect.host.facts import HostFacts
from nconnect.host.offered import provides
from nconnect.model import AcceptRoutes, Config, InterfaceAddress, MappedPrefix, PeerConfig, Prefix, within

MAX_TAKEN = 16  # prefixes of one provider that are taken without asking
NOT_OFFERED = "the provider does not offer it"
MAX_KEPT = 64  # guessed: decisions of one provider that are remembered
Kept = Mapping[str, Mapping[Prefix, Prefix]]  # NKN address of a peer -> prefix -> as it is seen

# Where mapped prefixes are drawn from, the first that has room.
_SPACES: tuple[Prefix, ...] = tuple(
    map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8"))
)
_TRIES = 256  # guessed: of random prefixes in each space
_SHORTEST = 8  # a route that is wider serves as a default route, such as the pair 0.0.0.0/1 and 128.0.0.0/1
_SHARED_SPACE = ip_network("100.64.0.0/10")  # RFC 6598


@dataclass(frozen=True, slots=True)
class WaitingPrefix:
    """A prefix that a peer offers, or that the file gives it (`NOT_OFFERED`), and that is not in force."""

    prefix: Prefix
    why: str


@dataclass(frozen=True, slots=True)
class AcceptedPeer:
    """One peer's. `prefixes`: all that is in force, real and as seen, the tunnel's network included."""

    prefixes: tuple[MappedPrefix, ...] = ()
    waiting: tuple[WaitingPrefix, ...] = ()

    @property
    def mapped(self) -> tuple[MappedPrefix, ...]:
        return tuple(pair for pair in self.prefixes if pair.real != pair.seen)


@dataclass(frozen=True, slots=True)
class Accepted:
    """`config`: what to put in force, with addresses as they are seen. `peers`: by name, those that offer
    something. `kept`: to be given the next time.
    """

    config: Config
    peers: Mapping[str, AcceptedPeer] = field(default_factory=dict)
    kept: Kept = field(default_factory=dict)


def accept(
    config: Config,
    facts: HostFacts,
    offered: Mapping[str, Iterable[Prefix]],
    kept: Kept,
    invited: Container[str] = frozenset(),
) -> Accepted:
    """Decide for all peers.

    `config`: the file's. `offered`: NKN address of a peer -> the subnets that it offers now; without an entry
    a provider's are those of its invitation. `invited`: names of the peers that this side has invited.
    """
    wanted = {peer.name: _wanted(peer, config, offered, invited) for peer in config.peers}
    ranges = _Ranges(config, facts, kept, [p for units, _ in wanted.values() for p in units])
    for only_kept in (True, False):  # what was decided before comes first, whoever is first in the file
        for peer in config.peers:
            for prefix in wanted[peer.name][0]:
                agreed = prefix in peer.allowed_ips
                ranges.claim(str(peer.address), prefix, only_kept=only_kept, agreed=agreed)
    addresses = list(config.address)
    peers: list[PeerConfig] = []
    found: dict[str, AcceptedPeer] = {}
    for peer in config.peers:
        units, waiting = wanted[peer.name]
        seen = ranges.claimed.get(str(peer.address), {})
        lost = [WaitingPrefix(p, "no private range is free to map it to") for p in units if p not in seen]
        pairs = tuple(MappedPrefix(prefix, seen[prefix]) for prefix in units if prefix in seen)
        if pairs or waiting or lost:
            found[peer.name] = AcceptedPeer(pairs, (*waiting, *lost))
        fresh = _in_force(peer, pairs)
        peers.append(fresh)
        addresses += fresh.local_address
    in_force = replace(config, address=tuple(dict.fromkeys(addresses)), peers=tuple(peers))
    return Accepted(in_force, found, ranges.to_keep())


def _wanted(
    peer: PeerConfig, config: Config, offered: Mapping[str, Iterable[Prefix]], invited: Container[str]
) -> tuple[list[Prefix], list[WaitingPrefix]]:
    """The prefixes of one peer that are to be in force, the widest first, and those that wait."""
    tunnel = [address.network for address in peer.local_address]
    tunnel += [p for p in peer.allowed_ips if tunnel and is_of_tunnel(p, peer) and not within_any(p, tunnel)]
    from_invitation = [p for p in peer.allowed_ips if not is_of_tunnel(p, peer)] if tunnel else []
    named = list(offered.get(str(peer.address), from_invitation))
    setting = _setting(peer, config, invited)
    units: list[Prefix] = []
    waiting: list[WaitingPrefix] = []
    for prefix in dict.fromkeys(named):
        if within_any(prefix, tunnel) or (not tunnel and _overlaps_any(prefix, peer.allowed_ips)):
            continue  # in force without being offered, or a person has decided about these addresses
        why = _why_not(prefix, setting)
        if why is not None and prefix in peer.allowed_ips and _is_routable(prefix):
            why = None  # a person has agreed to it
        if why is None and setting == "private" and len(units) >= MAX_TAKEN:
            why = f"it offers more than {MAX_TAKEN}"
        if why is None:
            units.append(prefix)
        else:
            waiting.append(WaitingPrefix(prefix, why))
    waiting += [
        WaitingPrefix(prefix, NOT_OFFERED)
        for prefix in from_invitation
        if not within_any(prefix, [*tunnel, *named])
    ]
    return sorted([*tunnel, *units], key=lambda p: p.prefixlen), waiting


def is_of_tunnel(prefix: Prefix, peer: PeerConfig) -> bool:
    """Whether a prefix of the peer is its own address in the tunnel's network.

    A tunnel network that is not private is cut down to this device's address; then each single address of
    the peer's is taken for one.
    """
    networks = [address.network for address in peer.local_address]
    if within_any(prefix, networks):
        return True
    is_cut_down = any(n.prefixlen == n.max_prefixlen and n.version == prefix.version for n in networks)
    return is_cut_down and prefix.prefixlen == prefix.max_prefixlen


def _setting(peer: PeerConfig, config: Config, invited: Container[str]) -> AcceptRoutes:
    """Offers are taken from those whom this device has joined. A side that provides something, and invites
    others, takes theirs only where its file says so."""
    if peer.accept_routes is not None:
        return peer.accept_routes
    if not peer.local_address and (peer.name in invited or provides(config)):
        return "none"
    return config.accept_routes


def _is_routable(prefix: Prefix) -> bool:
    special = prefix.is_multicast or prefix.is_loopback or prefix.is_link_local or prefix.is_unspecified
    return prefix.prefixlen > 0 and not special


def _why_not(prefix: Prefix, setting: AcceptRoutes) -> str | None:
    """Why a person must be asked about an offered prefix; None if not."""
    if not _is_routable(prefix):
        return "it cannot be routed"
    if is_accepted(setting, prefix):
        return None
    if setting == "none":
        return 'accept_routes is "none"'
    if isinstance(setting, tuple):
        return "it is in none of the prefixes of accept_routes"
    if prefix.version == 4 and within(prefix, _SHARED_SPACE):
        return f"{_SHARED_SPACE} belongs to internet providers and to other VPNs"
    if not is_in_private_space(prefix):
        return "it is not private"
    return f"it is wider than /{LARGEST[prefix.version]}"


def _in_force(peer: PeerConfig, pairs: tuple[MappedPrefix, ...]) -> PeerConfig:
    """The peer with the addresses that this device uses."""
    if not peer.local_address:
        static, subnets = list(peer.allowed_ips), [pair.seen for pair in pairs]
    else:
        own = [p for p in peer.allowed_ips if is_of_tunnel(p, peer)]
        networks = [address.network for address in peer.local_address]
        static = [p for p in own if any(within(p, pair.real) for pair in pairs)]
        subnets = [pair.seen for pair in pairs if pair.real not in networks]
    local = [
        ip_interface((moved(ip_network(a.ip), pairs).network_address, a.network.prefixlen))
        for a in peer.local_address
        if any(pair.real == a.network for pair in pairs)
    ]
    return replace(
        peer,
        allowed_ips=tuple(dict.fromkeys((*(moved(p, pairs) for p in static), *subnets))),
        local_address=tuple(local),
        mapped=tuple(pair for pair in pairs if pair.real != pair.seen),
    )


def moved(prefix: Prefix, pairs: Iterable[MappedPrefix]) -> Prefix:
    """A real prefix as it is seen: the longest of the pairs that holds it decides; without one it stays."""
    held = [pair for pair in pairs if within(prefix, pair.real)]
    if not held:
        return prefix
    real, seen = max(held, key=lambda pair: pair.real.prefixlen)
    offset = int(prefix.network_address) - int(real.network_address)
    return type(prefix)((int(seen.network_address) + offset, prefix.prefixlen))


def within_any(prefix: Prefix, others: Iterable[Prefix]) -> bool:
    return any(within(prefix, other) for other in others)


class _Ranges:
    """Who has which addresses on this device. `claimed`: by peer, its prefixes as they are seen."""

    def __init__(self, config: Config, facts: HostFacts, kept: Kept, named: Iterable[Prefix]) -> None:
        """`named`: all prefixes that a peer has. Nothing is mapped to them, though they may be mapped, nor to
        an address that this device speaks to by its default route.
        """
        self.claimed: dict[str, dict[Prefix, Prefix]] = {}
        self._undecided: dict[str, list[Prefix]] = {}  # by peer, what is not where it was
        self._kept = kept
        self._fail_closed = config.fail_closed
        self._peers = {str(peer.address) for peer in config.peers}
        self._device = list(dict.fromkeys((*_of_device(config.interface, facts), *_of_file(config))))
        self._spoken_to = list(_spoken_to(facts))
        self._named = [*named, *self._spoken_to]

    def claim(self, peer: str, prefix: Prefix, *, only_kept: bool, agreed: bool) -> None:
        """Give a prefix its addresses; with `only_kept` none if they are not those of the last time.

        Of a peer the widest come first. `agreed`: a person has seen the prefix. One that was only offered
        gets no address that this device speaks to: a provider cannot take over its name server.
        """
        mine = self.claimed.setdefault(peer, {})
        if prefix in mine:
            return
        around = [outer for outer in mine if within(prefix, outer)]
        if around:  # it lies where its network lies
            mine[prefix] = moved(prefix, [MappedPrefix(outer, mine[outer]) for outer in around])
            return
        if only_kept:
            before = self._kept.get(peer, {}).get(prefix)
            undecided = self._undecided.setdefault(peer, [])
            if before is None or within_any(prefix, undecided) or not self._may_keep(peer, prefix, before):
                undecided.append(prefix)
            else:
                mine[prefix] = before
            return
        if self._is_free(peer, prefix) and (agreed or not _overlaps_any(prefix, self._spoken_to)):
            mine[prefix] = prefix
            return
        seen = self._draw(peer, prefix)
        if seen is None and not self._is_anothers(peer, prefix):
            seen = prefix  # too wide to be mapped: what of it can be routed is the plan's to say
        if seen is not None:
            mine[prefix] = seen

    def to_keep(self) -> Kept:
        """This time's decisions, then older ones, without those of peers that are gone.

        An older one whose addresses another peer has now is forgotten: who has offered a prefix once must not
        get it back, by offering it again, from the peer that has it since.
        """
        found = {}
        for peer in sorted(self._peers):
            now = self.claimed.get(peer, {})
            before = {
                real: seen
                for real, seen in self._kept.get(peer, {}).items()
                if real not in now and not self._is_anothers(peer, seen)
            }
            if now or before:
                found[peer] = dict([*now.items(), *before.items()][:MAX_KEPT])
        return found

    def _may_keep(self, peer: str, prefix: Prefix, seen: Prefix) -> bool:
        if self._is_anothers(peer, seen):
            return False
        return (self._fail_closed and seen == prefix) or not _overlaps_any(seen, self._device)

    def _is_free(self, peer: str, prefix: Prefix) -> bool:
        return not _overlaps_any(prefix, self._device) and not self._is_anothers(peer, prefix)

    def _is_anothers(self, peer: str, prefix: Prefix) -> bool:
        return any(
            _overlaps_any(prefix, held.values()) for name, held in self.claimed.items() if name != peer
        )

    def _draw(self, peer: str, prefix: Prefix) -> Prefix | None:
        """A free prefix of the same size, always the same one for the same peer and prefix if it can be."""
        used = [*self._device, *self._named, *(p for held in self.claimed.values() for p in held.values())]
        used = [other for other in used if other.version == prefix.version]
        for space in _SPACES:
            bits = prefix.prefixlen - space.prefixlen
            if space.version != prefix.version or bits < 0:
                continue
            for number in range(_TRIES):
                drawn = hashlib.sha256(f"{peer} {prefix} {space} {number}".encode()).digest()
                index = int.from_bytes(drawn) % (1 << bits)
                start = int(space.network_address) + (index << (prefix.max_prefixlen - prefix.prefixlen))
                found = type(prefix)((start, prefix.prefixlen))
                if not _overlaps_any(found, used):
                    return found
        return None


def _of_device(interface: str, facts: HostFacts) -> Iterator[Prefix]:
    """What this device reaches by other interfaces than the tunnel's and by other routes than the default."""
    for local in facts.interfaces:
        if local.name != interface:
            yield from (address.network for address in local.addresses)
    for route in facts.routes:
        if route.interface != interface and route.prefix.prefixlen >= _SHORTEST:
            yield route.prefix


def _spoken_to(facts: HostFacts) -> Iterator[Prefix]:
    """Seeds, nodes, proxies, gateways and name servers."""
    yield from (ip_network(endpoint.address) for endpoint in facts.endpoints)
    yield from (ip_network(server) for server in facts.name_servers)
    yield from (ip_network(route.gateway) for route in facts.routes if route.gateway is not None)


def _of_file(config: Config) -> Iterator[Prefix]:
    """What the file gives to this device, and to the peers that a person has entered."""
    yield from (address.network for address in config.address)
    for subnet in config.provide.subnets:
        yield from dict.fromkeys((subnet.real, subnet.seen))
    for peer in config.peers:
        if not peer.local_address:
            yield from peer.allowed_ips


def _overlaps_any(prefix: Prefix, others: Iterable[Prefix]) -> bool:
    return any(within(prefix, other) or within(other, prefix) for other in others)


def local_addresses(config: Config) -> tuple[InterfaceAddress, ...]:
    """All that this device has in tunnels, by the file: its own, and those that providers gave it."""
    return (*config.address, *(address for peer in config.peers for address in peer.local_address))
