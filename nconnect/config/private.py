"""Private networks: the prefixes that another party may name for this machine without asking a person."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network

from nconnect.model import InterfaceAddress, Prefix, within

# RFC 1918 and RFC 4193, with the largest network of each that one site needs (guessed).
_PRIVATE = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))
LARGEST = {4: 16, 6: 48}


def is_private_prefix(prefix: Prefix) -> bool:
    """Whether a prefix is of RFC 1918 and no larger than a /16, or of RFC 4193 and no larger than a /48."""
    return prefix.prefixlen >= LARGEST[prefix.version] and is_in_private_space(prefix)


def is_in_private_space(prefix: Prefix) -> bool:
    """Whether a prefix, however large, is of RFC 1918 or RFC 4193."""
    return any(within(prefix, private) for private in _PRIVATE)


def without_wide_network(address: InterfaceAddress) -> InterfaceAddress:
    """The address, with a full-length prefix if its network is not private: the kernel would route it all."""
    return address if is_private_prefix(address.network) else ip_interface(address.ip)
