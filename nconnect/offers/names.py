"""Names of peers, and of what they offer, beneath `.internal` (the zone that ICANN reserved for private use).

    PROVIDER.internal            the peer's tunnel addresses
    SERVER.PROVIDER.internal     the host in the URL of a server that it offers
    HOST.PROVIDER.internal       an address behind it that it has named

PROVIDER comes from the name in this device's own table, so no peer chooses a name outside of its own. Every
address must lie in a prefix of that peer that is in force. `encode` and `decode` are the format in which the
daemon tells its helper, which is root: lines of `ADDRESS NAME`. The helper trusts nothing that it reads, so
`decode` checks everything that does not depend on the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from nconnect.model import Address, Config, MappedPrefix, PeerConfig, Prefix, within

if TYPE_CHECKING:
    from nconnect.offers.statement import Statement

ZONE = "internal"
# Names beneath `.internal` that other systems use: Google Cloud, Docker, Podman, Kubernetes, Amazon EC2
# (`ec2.internal`, `compute.internal`).
RESERVED = frozenset(
    ("google", "docker", "containers", "kubernetes", "ec2", "compute", "localhost", "nconnect")
)
MAX_LABEL = 63  # RFC 1035, section 2.3.4
MAX_PROVIDERS = 250  # systemd-resolved takes 256 domains for a link
MAX_OF_PROVIDER = 64  # names beneath one provider
MAX_OF_NAME = 8  # addresses
MAX_PAIRS = 512  # of a name and an address, in all
MAX_BYTES = MAX_PAIRS * (45 + 1 + 2 * MAX_LABEL + len("..internal") + 1)

Names = dict[str, tuple[Address, ...]]  # a whole name, without a dot at the end -> its addresses

_NOWHERE = (ip_network("0.0.0.0/8"), ip_network("255.255.255.255/32"))  # RFC 6890
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)?({_LABEL})\.{ZONE}")


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
    return text if re.fullmatch(_LABEL, text) else ""


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
            (*peer.mapped, *(MappedPrefix(prefix, prefix) for prefix in unmapped(peer))),
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


def unmapped(peer: PeerConfig) -> list[Prefix]:
    """Its prefixes in force that this device sees as the peer does."""
    return [
        prefix for prefix in peer.allowed_ips if not any(within(prefix, pair.seen) for pair in peer.mapped)
    ]


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
    for number, provider in enumerate(p for p in providers if p.name in provider_labels):
        domain = f"{provider_labels[provider.name]}.{ZONE}"
        mine, lost = _of_provider(provider, domain)
        for name, addresses in mine.items():
            if number >= MAX_PROVIDERS or pairs + len(addresses) > MAX_PAIRS:
                lost += 1
            else:
                found[name] = addresses
                pairs += len(addresses)
        if lost:
            dropped[provider.name] = lost
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


def is_usable(address: Address) -> bool:
    """Whether a name may have it: an address of one other machine."""
    if isinstance(address, IPv6Address) and (address.ipv4_mapped is not None or address.scope_id):
        return False
    return not (
        address.is_loopback
        or address.is_multicast
        or address.is_unspecified
        or address.is_link_local
        or any(address in prefix for prefix in _NOWHERE)
    )


def domains(known: Iterable[str]) -> tuple[str, ...]:
    """The providers' own names, PROVIDER.internal, of whole names; sorted."""
    return tuple(sorted({".".join(name.split(".")[-2:]) for name in known}))


def encode(known: Names) -> bytes:
    """Lines of `ADDRESS NAME`, as `decode` reads them."""
    return "".join(f"{a} {name}\n" for name, addresses in known.items() for a in addresses).encode()


def decode(data: bytes) -> Names:
    """Read and check what a process with fewer rights sent. Raises `ValueError`, without its words."""
    if len(data) > MAX_BYTES or data.count(b"\n") > MAX_PAIRS:
        raise ValueError("too many names")
    found: dict[str, list[Address]] = {}
    for line in data.decode("ascii").split("\n")[:-1]:
        text, _, name = line.partition(" ")
        match = _NAME.fullmatch(name)
        if match is None or match[1] in RESERVED:
            raise ValueError("a name that is not allowed")
        address = ip_address(text)
        if str(address) != text or not is_usable(address):
            raise ValueError("an address that is not allowed")
        found.setdefault(name, []).append(address)
    if data and not data.endswith(b"\n"):
        raise ValueError("the last line is not whole")
    if len(domains(found)) > MAX_PROVIDERS:
        raise ValueError("too many names")
    return {name: tuple(addresses) for name, addresses in found.items()}
