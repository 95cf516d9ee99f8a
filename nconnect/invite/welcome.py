"""The secret contents of an application and of a grant, as JSON.

A device says which routes it accepts; the provider tells it what its configuration needs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from nconnect.config.accept_routes import read_accept_routes, told
from nconnect.config.private import without_wide_network
from nconnect.config.values import (
    check_peer_name,
    format_allow_rule,
    parse_addresses,
    parse_allow_rule,
    parse_key,
    parse_prefix,
    parse_prefixes,
)
from nconnect.errors import ConfigError, RemoteProtocolError
from nconnect.model import AcceptRoutes, Config, PeerConfig, Prefix
from nconnect.wire import strict_json

_FALLBACK_NAME = "provider"


@dataclass(frozen=True, slots=True)
class Welcome:
    """Everything that the device's configuration needs beyond the token."""

    name: str  # what the provider calls the device
    provider_name: str
    addresses: tuple[str, ...]  # the device's in the tunnel, with prefix length
    allowed_ips: tuple[str, ...]  # the provider's tunnel addresses, and its subnets as peers see them
    preshared_key: bytes = field(repr=False)  # 32 fresh bytes: the tunnel's
    allow: tuple[str, ...] | None = None  # what of it may be reached; None: all, or not told

    def encode(self) -> bytes:
        content: dict[str, Any] = {
            "name": self.name,
            "provider": self.provider_name,
            "address": list(self.addresses),
            "allowed_ips": list(self.allowed_ips),
            "preshared_key": self.preshared_key.hex(),
        }
        if self.allow is not None:
            content["allow"] = list(self.allow)
        return json.dumps(content, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Welcome:
        """Read and check one; unknown fields are ignored. Raises `RemoteProtocolError`."""
        try:
            content = strict_json.obj(strict_json.load(data))
            name = check_peer_name(strict_json.text(content, "name"))
            provider = check_peer_name(strict_json.text(content, "provider"))
            addresses, allowed_ips = _texts(content, "address"), _texts(content, "allowed_ips")
            # An address brings its network, and the network a route: do not route half of the internet.
            addresses = tuple(str(without_wide_network(address)) for address in parse_addresses(addresses))
            parse_prefixes(allowed_ips)
            key = parse_key(strict_json.text(content, "preshared_key"))
            allow = _allow(content.get("allow"))
        except ConfigError:
            raise RemoteProtocolError("a grant whose values cannot be used") from None
        return cls(name, provider, addresses, allowed_ips, key, allow)


def _allow(value: Any) -> tuple[str, ...] | None:
    """Rules in our own spelling. Raises `ConfigError`."""
    if type(value) is not list or not all(type(item) is str for item in value):
        return None
    return tuple(format_allow_rule(parse_allow_rule(text)) for text in value)


def _texts(content: strict_json.Members, name: str) -> tuple[str, ...]:
    value: Any = content.get(name)
    if type(value) is not list or not value or not all(type(item) is str for item in value):
        raise RemoteProtocolError(f"a grant without {name}")
    return tuple(value)


@dataclass(frozen=True, slots=True)
class Offer:
    """Instead of a welcome: all prefixes that the device would have to route. It does not accept all of them.

    It does not use the invitation up.
    """

    allowed_ips: tuple[str, ...]

    def encode(self) -> bytes:
        return json.dumps({"offer": list(self.allowed_ips)}, separators=(",", ":")).encode()


def read_grant(data: bytes) -> Welcome | Offer:
    """A grant's secret content. Raises `RemoteProtocolError`."""
    content = strict_json.obj(strict_json.load(data))
    if "offer" not in content:
        return Welcome.decode(data)
    offered = _texts(content, "offer")
    try:
        parse_prefixes(offered)
    except ConfigError:
        raise RemoteProtocolError("an offer of what is no prefix") from None
    return Offer(offered)


def encode_application(accept: AcceptRoutes) -> bytes:
    """An application's secret content."""
    return json.dumps({"accept_routes": told(accept)}, separators=(",", ":")).encode()


def accepted_in(application: bytes) -> AcceptRoutes:
    """The prefixes that a device accepts; an older version, which says nothing, accepts all."""
    if not application:
        return "all"
    try:
        content = strict_json.obj(strict_json.load(application))
        return read_accept_routes(content["accept_routes"]) if "accept_routes" in content else "all"
    except ConfigError:
        raise RemoteProtocolError("an application with invalid routes") from None


# On the provider's side


def welcome_for(config: Config, peer: PeerConfig) -> Welcome:
    """What a peer of ours has to know to be one. Raises `ConfigError` when that cannot be told."""
    if peer.preshared_key is None:
        raise ConfigError(f"peer {peer.name} has no preshared key any more")
    addresses = [
        f"{prefix.network_address}/{home.network.prefixlen}"
        for prefix in peer.allowed_ips
        for home in config.address
        if prefix.prefixlen == prefix.max_prefixlen and prefix.network_address in home.network
    ]
    if not addresses:
        raise ConfigError(f"peer {peer.name} has no address of its own")
    return Welcome(
        name=peer.name,
        provider_name=config.identifier.replace(".", "-").strip("-_") or _FALLBACK_NAME,
        addresses=tuple(addresses),
        allowed_ips=tuple(map(str, offered_by(config))),
        preshared_key=peer.preshared_key,
        allow=None if peer.allow is None else tuple(map(format_allow_rule, peer.allow)),
    )


def offered_by(config: Config) -> tuple[Prefix, ...]:
    """What a peer of ours routes to us: our addresses, and the subnets as it sees them."""
    own = (parse_prefix(str(address.ip)) for address in config.address)
    return (*own, *(subnet.seen for subnet in config.provide.subnets))
