"""Advice for two networks with the same addresses: another prefix under which one of them is seen."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from nconnect.model import Prefix

# Private ranges that few networks use. Any would do: the choice only has to be free, and the same each time.
_SPARE: tuple[Prefix, ...] = (ip_network("10.99.0.0/16"), ip_network("10.98.0.0/16"), ip_network("fd99::/32"))


def proposal(prefix: Prefix, taken: Iterable[Prefix]) -> str:
    """The settings that make `prefix` reachable under another prefix; "" if it is too wide for that."""
    seen = free_prefix(prefix, taken)
    if seen is None:
        return ""
    return (
        f'let its provider map it with subnets = ["{prefix}={seen}"] under [provide],'
        f' and name it here as allowed_ips = ["{seen}"]'
    )


def free_prefix(prefix: Prefix, taken: Iterable[Prefix]) -> Prefix | None:
    """A prefix of the same size that overlaps nothing in `taken`, as similar to `prefix` as possible."""
    others = [other for other in taken if other.version == prefix.version]
    for spare in _SPARE:
        if spare.version != prefix.version or spare.prefixlen > prefix.prefixlen:
            continue
        step = 1 << (prefix.max_prefixlen - prefix.prefixlen)
        first = int(spare.network_address) + int(prefix.network_address) % spare.num_addresses
        for turn in range(min(256, spare.num_addresses // step)):
            start = int(spare.network_address) + (first - int(spare.network_address) + turn * step) % (
                spare.num_addresses
            )
            found = type(prefix)((start, prefix.prefixlen))
            if not any(found.overlaps(other) for other in others):
                return found
    return None
