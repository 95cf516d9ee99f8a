"""Names of peers, and of what they offer, beneath `.internal` (the zone that ICANN reserved for private use).

    PROVIDER.internal            the peer's tunnel addresses
    SERVER.PROVIDER.internal     the host in the URL of a server that it offers
    HOST.PROVIDER.internal       an address behind it that it has named

PROVIDER comes from the name in this device's own table, so no peer chooses a name outside of its own. Every
address must lie in a prefix of that peer that is in force.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from nconnect.model import Address, Config, MappedPrefix, PeerConfig
from nconnect.offers.accept import moved
from nconnect.offers.name_codec import LABEL, MAX_LABEL, MAX_LINES, MAX_PROVIDERS, RESERVED, ZONE, Names
from nconnect.offers.name_codec import is_usable as is_usable

if TYPE_CHECKING:
    from nconnect.offers.statement import Statement

MAX_OF_PROVIDER = 64  # names beneath one provider
MAX_OF_NAME = 8  # addresses


@dataclass(frozen=True, slots=True)
class Provider:
    """What is known of one peer."""

    name: str  # in this device's table
    prefixes: tuple[MappedPrefix, ...]  # in force
    addresses: tuple[Address, ...]  # its own in the tunnel, as this device sees them
    hosts: tuple[tuple[str, Address], ...] = ()  # as the peer calls them
    servers: tuple[tuple[str, str], ...] = ()  # name, and the URL that the peer tells


@dataclass(frozen=True, slots=True)
class PeerNames:
    """`addresses`: the names. `dropped`: by peer, how many of the names that it told are not used."""

    addresses: Names = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)


def label(name: str) -> str:
    """One DNS label for a name: lower case, "_" and "." become "-"; "" when nothing usable is left.

    Hyphens in a row become one, so that no label looks like an encoded international one (RFC 5890, 2.3.1).
    """
    text = re.sub(r"[-_.]+", "-", name.lower()).strip("-")
    return text if re.fullmatch(LABEL, text) else ""


def labels(names: Iterable[str], taken: Container[str] = frozenset()) -> dict[str, str]:
    """A label for each peer: reserved, `taken` and double ones get `-2`, `-3`, and so on.

    The names come in the table's order; a new one at the end changes no other's label.
    """
    found: dict[str, str] = {}
    used: set[str] = set()
    for name in names:
        stem, number = label(name), 1
        if not stem:
            continue
        free = stem
        while free in used or free in RESERVED or free in taken:
            number += 1
            free = f"{stem[: MAX_LABEL - len(f'-{number}')]}-{number}"
        used.add(free)
        found[name] = free
    return found


def seen(address: Address, prefixes: Iterable[MappedPrefix]) -> Address | None:
    """An address behind a peer, as this device sees it; None outside of the peer's prefixes.

    The longest prefix counts, as in routing.
    """
    inside = [pair for pair in prefixes if address in pair.real]
    if not inside:
        return None
    longest = max(inside, key=lambda pair: pair.real.prefixlen)
    host = int(address) - int(longest.real.network_address)
    return type(address)(int(longest.seen.network_address) + host)


def host_of(url: str) -> Address | None:
    """The address in a server's URL; None unless it is http or https with an address, without a user."""
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.username is not None or parts.hostname is None:
            return None
        parts.port  # noqa: B018 - raises when it is none
        return ip_address(parts.hostname)
    except ValueError:
        return None


def of_peers(config: Config, statements: Mapping[str, Statement] = MappingProxyType({})) -> list[Provider]:
    """The peers, as the configuration in force describes them, with what they tell (by NKN address).

    An address of a peer in the tunnel is a prefix of a single address in a network of this interface's.
    """
    homes = [address.network for address in config.address]
    told = [statements.get(str(peer.address)) for peer in config.peers]
    return [
        Provider(
            peer.name,
            tuple(MappedPrefix(moved(prefix, _back(peer)), prefix) for prefix in peer.allowed_ips),
            tuple(
                prefix.network_address
                for prefix in peer.allowed_ips
                if prefix.prefixlen == prefix.max_prefixlen
                and any(prefix.network_address in home for home in homes)
            ),
            () if said is None else said.hosts,
            () if said is None else tuple((n, s.url) for s in said.servers for n in (s.name, *s.names)),
        )
        for peer, said in zip(config.peers, told, strict=True)
    ]


def _back(peer: PeerConfig) -> list[MappedPrefix]:
    """What `moved` needs to tell a prefix that this device sees as the peer calls it."""
    return [MappedPrefix(pair.seen, pair.real) for pair in peer.mapped]


def url_here(provider: Provider, server: str, url: str, peer_label: str, known: Names) -> str:
    """The URL of a server as this device reaches it, by name where that resolves (`known`).

    "" when its address is in no prefix of the peer's that is in force.
    """
    real = host_of(url)
    address = None if real is None else seen(real, provider.prefixes)
    if address is None:
        return ""
    name = f"{label(server)}.{peer_label}.{ZONE}"
    host = name if address in known.get(name, ()) else bracketed(address)
    parts = urlsplit(url)
    return parts._replace(netloc=host if parts.port is None else f"{host}:{parts.port}").geturl()


def bracketed(address: Address) -> str:
    """As a URL has it (RFC 3986, section 3.2.2)."""
    return f"[{address}]" if address.version == 6 else str(address)


def names(providers: Iterable[Provider], provider_labels: Mapping[str, str]) -> PeerNames:
    """All names, as `provider_labels` (`labels`) calls the peers."""
    found: Names = {}
    dropped: dict[str, int] = {}
    pairs = 0
    all_of = []
    for provider in providers:
        if provider.name in provider_labels:
            domain = f"{provider_labels[provider.name]}.{ZONE}"
            all_of.append((provider.name, domain, *_of_provider(provider, domain)))
    for own in (True, False):  # all peers' own names first: what some of them tell must not take their room
        for number, (peer, domain, mine, lost) in enumerate(all_of):
            for name in (each for each in mine if (each == domain) is own):
                if number >= MAX_PROVIDERS or pairs + len(mine[name]) > MAX_LINES:
                    dropped[peer] = dropped.get(peer, 0) + 1
                else:
                    found[name] = mine[name]
                    pairs += len(mine[name])
            if own and lost:
                dropped[peer] = dropped.get(peer, 0) + lost
    return PeerNames(found, dropped)


def _of_provider(provider: Provider, domain: str) -> tuple[Names, int]:
    """Its names, and how many of those that it told are not used."""
    inside = [a for a in provider.addresses if any(a in pair.seen for pair in provider.prefixes)]
    usable = [address for address in inside if is_usable(address)]
    found: dict[str, list[Address]] = {domain: usable[:MAX_OF_NAME]} if usable else {}
    told: list[tuple[str, Address | None]] = [(name, host_of(url)) for name, url in provider.servers]
    told += provider.hosts
    of: dict[str, Address] = {}
    lost = 0
    for name, real in told:
        address = None if real is None else seen(real, provider.prefixes)
        first = label(name)
        if first in ("", "localhost") or address is None or not is_usable(address):
            lost += 1
        elif of.setdefault(first, address) != address:
            lost += 1  # two of one name: the first one counts
    for first in list(of)[MAX_OF_PROVIDER:]:
        del of[first]
        lost += 1
    found.update((f"{first}.{domain}", [address]) for first, address in of.items())
    return {name: tuple(dict.fromkeys(addresses)) for name, addresses in found.items()}, lost
