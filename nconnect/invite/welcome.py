"""What a device says when it applies, and what a provider tells one that it lets in.

The secret contents of an application and a grant, as JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from nconnect.config import check_peer_name, parse_addresses, parse_key, parse_prefixes
from nconnect.config.accept_routes import read_accept_routes, told
from nconnect.config.private import without_wide_network
from nconnect.errors import ConfigError, RemoteProtocolError
from nconnect.model import AcceptRoutes
from nconnect.wire import strict_json


@dataclass(frozen=True, slots=True)
class Welcome:
    """Everything that the device's configuration needs beyond the token."""

    name: str  # what the provider calls the device
    provider_name: str
    addresses: tuple[str, ...]  # the device's in the tunnel, with prefix length
    allowed_ips: tuple[str, ...]  # the provider's tunnel addresses, and its subnets as peers see them
    preshared_key: bytes = field(repr=False)  # 32 fresh bytes: the tunnel's

    def encode(self) -> bytes:
        content = {
            "name": self.name,
            "provider": self.provider_name,
            "address": list(self.addresses),
            "allowed_ips": list(self.allowed_ips),
            "preshared_key": self.preshared_key.hex(),
        }
        return json.dumps(content, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Welcome:
        """Read and check one; fields that are not known are passed over. Raises `RemoteProtocolError`."""
        try:
            content = strict_json.obj(strict_json.load(data))
            name = check_peer_name(strict_json.text(content, "name"))
            provider = check_peer_name(strict_json.text(content, "provider"))
            addresses, allowed_ips = _texts(content, "address"), _texts(content, "allowed_ips")
            # A network comes with an address, and with the network a route: not for half of the internet.
            addresses = tuple(str(without_wide_network(address)) for address in parse_addresses(addresses))
            parse_prefixes(allowed_ips)
            key = parse_key(strict_json.text(content, "preshared_key"))
        except ConfigError:
            raise RemoteProtocolError("a grant whose values cannot be used") from None
        return cls(name, provider, addresses, allowed_ips, key)


def _texts(content: strict_json.Members, name: str) -> tuple[str, ...]:
    value: Any = content.get(name)
    if type(value) is not list or not value or not all(type(item) is str for item in value):
        raise RemoteProtocolError(f"a grant without {name}")
    return tuple(value)


@dataclass(frozen=True, slots=True)
class Offer:
    """In place of a welcome: what the device would have to route, and did not say that it accepts.

    Nothing was used up by it.
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
    """What a device says that it routes; one that says nothing (an older version) takes what it is given."""
    if not application:
        return "all"
    try:
        content = strict_json.obj(strict_json.load(application))
        return read_accept_routes(content["accept_routes"]) if "accept_routes" in content else "all"
    except ConfigError:
        raise RemoteProtocolError("an application with routes that make no sense") from None
