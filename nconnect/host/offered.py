"""What a configuration offers to peers, and by which address: what the rules (`nft`) and `judge` ask."""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, ip_address

from nconnect.model import Address, Config, Exposed, PeerConfig, Prefix, ProvidedSubnet, within


def provides(config: Config) -> bool:
    """Whether this side offers anything to its peers."""
    return config.provide.offers_something


def reachable_exposed(config: Config) -> tuple[Exposed, ...]:
    """The exposed servers that destination NAT can reach: on IPv4 loopback, by an IPv4 tunnel address.

    Linux has no `route_localnet` for IPv6.
    """
    if not any(address.version == 4 for address in config.address):
        return ()
    return tuple(server for server in config.provide.exposed if loopback_of(server) is not None)


def loopback_of(server: Exposed) -> IPv4Address | None:
    """The IPv4 loopback address of an exposed server; None when it has none."""
    if server.host == "localhost":
        return IPv4Address("127.0.0.1")
    try:
        parsed = ip_address(server.host)
    except ValueError:
        return None
    return parsed if isinstance(parsed, IPv4Address) and parsed.is_loopback else None


def peer_id(peer: PeerConfig) -> str:
    """A short name for a peer's chains and counter, the same as long as its address is."""
    return hashlib.sha256(str(peer.address).encode()).hexdigest()[:16]


def sources(config: Config) -> dict[str, dict[int, Address]]:
    """By peer's name and IP version: the address that this device has for packets to that peer.

    Empty if there is one for all of them, which the kernel finds by itself.
    """
    given = {address for peer in config.peers for address in peer.local_address}
    own = [address for address in config.address if address not in given]
    found: dict[str, dict[int, Address]] = {}
    for peer in config.peers:
        for address in reversed(peer.local_address or own):
            found.setdefault(peer.name, {})[address.version] = address.ip
    several = any(len({at[version] for at in found.values() if version in at}) > 1 for version in (4, 6))
    return found if several else {}


def real_prefix(prefix: Prefix, subnets: tuple[ProvidedSubnet, ...]) -> Prefix:
    """A prefix that peers see under another address, as it is in truth; others as they are."""
    for subnet in subnets:
        if subnet.real != subnet.seen and within(prefix, subnet.seen):
            host_bits = int(prefix.network_address) & int(subnet.seen.hostmask)
            moved = int(subnet.real.network_address) | host_bits
            return type(prefix)((moved, prefix.prefixlen))
    return prefix
