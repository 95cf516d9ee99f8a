"""Addresses for new peers, out of the networks of the provider's own tunnel addresses."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_interface

from nconnect.errors import ConfigError
from nconnect.model import Address, Config, InterfaceAddress, Prefix


def pick(config: Config, wanted: Iterable[str], reserved: Iterable[str]) -> tuple[InterfaceAddress, ...]:
    """A new peer's addresses, one from each of our networks, with that network's prefix length.

    `wanted` addresses are used as they are. An IP version without a wanted address gets the lowest free
    one, and is left out if none is free. `reserved` addresses are promised to others. Raises `ConfigError`
    if a wanted address is not available, if no address is left, or if there are no networks of our own.
    """
    if not config.address:  # as on a device that has joined providers and is none
        raise ConfigError(
            "this device has no tunnel network of its own to invite into, only those of providers it joined:"
            ' to provide something too, write such as address = ["10.86.0.1/24"] below [interface] of its'
            " configuration"
        )
    kept = {ip_address(text) for text in reserved}
    chosen: list[InterfaceAddress] = []
    for text in wanted:
        address = parse_wanted(text)
        home = next((own for own in config.address if _same(own, address) and address in own.network), None)
        if home is None:
            networks = ", ".join(str(own.network) for own in config.address)
            raise ConfigError(f"{address} is not in the tunnel's network: choose one from {networks}")
        if address in kept or not _is_free(address, home, config):
            raise ConfigError(f"{address} is not free: choose another, or leave out --address")
        chosen.append(ip_interface(f"{address}/{home.network.prefixlen}"))
    families = {address.version for address in chosen}
    for own in config.address:
        if own.version not in families and (found := _lowest(own, config, kept)) is not None:
            chosen.append(ip_interface(f"{found}/{own.network.prefixlen}"))
            families.add(own.version)
    if not chosen:
        networks = ", ".join(str(own) for own in config.address)
        raise ConfigError(
            f"no address is left in the tunnel's network ({networks}): remove a peer,"
            " or give the interface a larger prefix, such as 10.86.0.1/24"
        )
    return tuple(chosen)


def parse_wanted(text: str) -> Address:
    """The value of `--address`: an address; a prefix length is ignored. Raises `ConfigError`."""
    try:
        return ip_interface(text).ip
    except ValueError:
        raise ConfigError(f"{text!r} is not an address: write one such as 10.86.0.7") from None


def _is_free(address: Address, own: InterfaceAddress, config: Config) -> bool:
    return all(not first <= int(address) <= last for first, last in _taken(own, config, ()))


def _lowest(own: InterfaceAddress, config: Config, kept: Iterable[Address]) -> Address | None:
    candidate = int(own.network.network_address)
    for first, last in sorted(_taken(own, config, kept)):
        if candidate < first:
            break
        candidate = max(candidate, last + 1)
    address = type(own.ip)(candidate) if candidate < 1 << own.max_prefixlen else own.network.network_address
    return address if address in own.network and candidate == int(address) else None


def _taken(own: InterfaceAddress, config: Config, kept: Iterable[Address]) -> list[tuple[int, int]]:
    """Ranges of the network that are not available to new peers."""
    network = own.network
    first, last = int(network.network_address), int(network.broadcast_address)
    ranges = [(int(address.ip), int(address.ip)) for address in config.address if _same(address, own)]
    ranges += [(int(address), int(address)) for address in kept if _same(address, own)]
    if network.prefixlen < network.max_prefixlen - 1:
        ranges.append((first, first))  # the network's own (IPv4), the routers' anycast (IPv6, RFC 4291)
        if network.version == 4:
            ranges.append((last, last))
    for prefix in _prefixes(config):
        # A prefix that contains the whole network is a less specific route, not an address in use.
        if _same(prefix, own) and prefix.overlaps(network) and prefix.prefixlen > network.prefixlen:
            ranges.append((int(prefix.network_address), int(prefix.broadcast_address)))
    return ranges


def _prefixes(config: Config) -> Iterable[Prefix]:
    for peer in config.peers:
        yield from peer.allowed_ips
    for subnet in config.provide.subnets:
        yield subnet.seen


def _same(a: Address | InterfaceAddress | Prefix, b: Address | InterfaceAddress | Prefix) -> bool:
    return a.version == b.version
