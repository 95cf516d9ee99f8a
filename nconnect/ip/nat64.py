"""IPv4 addresses inside IPv6 ones (RFC 6052), and finding the prefix that a network's NAT64 uses (RFC 7050).

The IPv4 address (v) follows a prefix (p) of 32 to 96 bits. Bits 64 to 71 are skipped and are zero, as are
the bits after the address.

    /32  p p p p v v v v 0 0 0 0 0 0 0 0
    /40  p p p p p v v v 0 v 0 0 0 0 0 0
    /48  p p p p p p v v 0 v v 0 0 0 0 0
    /56  p p p p p p p v 0 v v v 0 0 0 0
    /64  p p p p p p p p 0 v v v v 0 0 0
    /96  p p p p p p p p p p p p v v v v
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network

PREFIX_LENGTHS = (32, 40, 48, 56, 64, 96)
WELL_KNOWN_NAME = "ipv4only.arpa"  # RFC 7050, section 8
WELL_KNOWN_ADDRESSES = frozenset({IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171")})  # of that name
WELL_KNOWN_PREFIX = IPv6Network("64:ff9b::/96")  # RFC 6052, section 2.1


def synthesize(prefix: IPv6Network, address: IPv4Address) -> IPv6Address:
    """The IPv6 address that represents `address` behind a NAT64; `ValueError` for another prefix length."""
    if prefix.prefixlen not in PREFIX_LENGTHS:
        raise ValueError(f"a NAT64 prefix has 32, 40, 48, 56, 64 or 96 bits, not {prefix.prefixlen}")
    raw = bytearray(prefix.network_address.packed)
    for at, byte in zip(_places(prefix.prefixlen), address.packed, strict=True):
        raw[at] = byte
    return IPv6Address(bytes(raw))


def extract(length: int, address: IPv6Address) -> IPv4Address:
    """The IPv4 address inside `address`, whose prefix has `length` bits."""
    return IPv4Address(bytes(address.packed[at] for at in _places(length)))


def find_prefix(addresses: Iterable[IPv6Address]) -> IPv6Network | None:
    """The prefix with which a network's DNS64 made these AAAA records of `ipv4only.arpa`; None if none fits.

    It is taken from the first address that contains a well-known IPv4 address and is zero where it must be
    (RFC 7050, section 3). Because of the zeros only one position can fit.
    """
    for address in addresses:
        for length in PREFIX_LENGTHS:
            if _fits(length, address):
                return IPv6Network((address, length), strict=False)
    return None


def may_pass(prefix: IPv6Network, address: IPv4Address) -> bool:
    """Whether the prefix may be used for this address: the well-known prefix is for global addresses only."""
    return prefix != WELL_KNOWN_PREFIX or address.is_global  # RFC 6052, section 3.1


def _fits(length: int, address: IPv6Address) -> bool:
    inside = extract(length, address)
    prefix = IPv6Network((address, length), strict=False)
    return (
        inside in WELL_KNOWN_ADDRESSES
        and address.ipv4_mapped is None
        and not address.packed[8]
        and synthesize(prefix, inside) == address
    )


def _places(length: int) -> list[int]:
    """The positions of the IPv4 address's four bytes."""
    return [at for at in range(length // 8, 16) if at != 8][:4]
