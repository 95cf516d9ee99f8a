"""Which peer is meant by a name or by an address in the tunnel."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from nconnect.config.edit import unknown_peer
from nconnect.control.schema import PeerStatus, Status
from nconnect.model import Address, MappedPrefix, Prefix
from nconnect.offers.accept import moved


def peer_of(status: Status, text: str) -> PeerStatus:
    """The peer of that name, otherwise the one that packets to that address go to.

    Raises `ConfigError` if there is none.
    """
    for peer in status.peers:
        if peer.name == text:
            return peer
    try:
        address = ip_address(text)
    except ValueError:
        address = None
    found = None if address is None else _reached_by(status, address)
    if found is None:
        raise unknown_peer(text, (peer.name for peer in status.peers))
    return found


def _reached_by(status: Status, address: Address) -> PeerStatus | None:
    """By addresses as this device sees them: real ones of a mapped network are another one's here."""
    lengths = [
        (prefix.prefixlen, -index, peer)
        for index, peer in enumerate(status.peers)
        for prefix in _seen(peer)
        if address in prefix
    ]
    return max(lengths, default=(0, 0, None), key=lambda found: found[:2])[2]


def _seen(peer: PeerStatus) -> list[Prefix]:
    mapped = [MappedPrefix(ip_network(pair.real), ip_network(pair.seen)) for pair in peer.mapped]
    return [moved(ip_network(prefix), mapped) for prefix in peer.allowed_ips]
