"""The table of peers, from two sources: the configuration's file and the invitations. Pure.

The file wins. The daemon's record of a device counts only within the limits of its invitation and of later
changes by the inviting side, because an attacker who took over the daemon could have written it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import ip_address
from typing import Any

from nconnect.config.file import parse_peer
from nconnect.config.values import parse_prefix
from nconnect.errors import ConfigError
from nconnect.invite.book import Book, Invitation
from nconnect.model import Config, PeerConfig, Prefix


@dataclass(frozen=True, slots=True)
class PeerTable:
    """`config` with all peers; `invited`: name -> token id of the peers that came by invitation.

    `problems`: a sentence for each peer that is left out.
    """

    config: Config
    invited: Mapping[str, bytes]
    problems: tuple[str, ...] = ()


def table_of(config: Config, book: Book, *, own_key: bytes) -> PeerTable:
    """The file's peers, then those of the book in its order. `own_key`: this device's key, never a peer's."""
    names = {peer.name: "the file" for peer in config.peers}
    keys = {peer.address.public_key: peer.name for peer in config.peers} | {own_key: "this device"}
    prefixes = {prefix: peer.name for peer in config.peers for prefix in peer.allowed_ips}
    peers, invited, problems = list(config.peers), {}, []
    for invitation in book:
        if not invitation.is_peer:
            continue
        try:
            peer = _peer(invitation, config)
            if peer.name in names:
                raise ConfigError(f"{names[peer.name]} has another peer of that name")
            if peer.address.public_key in keys:
                raise ConfigError(f"it has the same key as {keys[peer.address.public_key]}")
            for prefix in peer.allowed_ips:
                if prefix in prefixes:
                    raise ConfigError(f"{prefix} also belongs to {prefixes[prefix]}")
        except ConfigError as error:
            problems.append(
                f"the peer {invitation.name}, which came by invitation, is left out: {error.problems[0]}"
                f" (`nconnect peer remove {invitation.token_id.hex()}` forgets it)"
            )
            continue
        peers.append(peer)
        invited[peer.name] = invitation.token_id
        names[peer.name] = "another invitation"
        keys[peer.address.public_key] = peer.name
        prefixes |= dict.fromkeys(peer.allowed_ips, peer.name)
    return PeerTable(replace(config, peers=tuple(peers)), invited, tuple(problems))


def content_of(invitation: Invitation) -> dict[str, Any]:
    """The `[[peer]]` section of an invitation's device, changes included."""
    content: dict[str, Any] = {
        "name": invitation.name,
        "address": invitation.device,
        "allowed_ips": list(invitation.allowed_ips),
    }
    if invitation.allow is not None:
        content["allow"] = list(invitation.allow)
    if invitation.peer_key is not None:
        content["preshared_key"] = invitation.peer_key.hex()
    content |= invitation.changes
    if isinstance(content.get("expires"), str):
        content["expires"] = datetime.fromisoformat(content["expires"])
    return {key: value for key, value in content.items() if value is not None}


def _peer(invitation: Invitation, config: Config) -> PeerConfig:
    try:
        peer = parse_peer(content_of(invitation))
    except ValueError:
        raise ConfigError("its file is damaged") from None
    if "allowed_ips" not in invitation.changes:
        _check_addresses(peer.allowed_ips, invitation, config)
    return peer


def _check_addresses(prefixes: tuple[Prefix, ...], invitation: Invitation, config: Config) -> None:
    """Check for one address of each of our networks, the one that the invitation names if it names one."""
    named = {address.version: address for address in map(ip_address, invitation.addresses)}
    own = {parse_prefix(str(address.ip)) for address in config.address}
    homes = []
    for prefix in prefixes:
        home = next(
            (a.network for a in config.address if a.version == prefix.version and prefix.overlaps(a.network)),
            None,
        )
        if home is None or prefix.prefixlen != prefix.max_prefixlen or prefix in own or home in homes:
            raise ConfigError(f"{prefix} is not an address that an invitation can give")
        if named.get(prefix.version, prefix.network_address) != prefix.network_address:
            raise ConfigError(f"{prefix} is not the address of its invitation")
        homes.append(home)
