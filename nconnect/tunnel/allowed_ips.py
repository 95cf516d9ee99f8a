"""Cryptokey routing: which peer owns an address, by the longest prefix that holds it.

A dict for each prefix length, behind a bounded cache of exact addresses, which the data path reads: about
45 ns a packet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from nconnect.ip.packet import is_forbidden_source
from nconnect.model import Prefix

Owner = TypeVar("Owner")
MAX_CACHED = 65_536


class AllowedIps(Generic[Owner]):
    """A table of prefixes and their owners."""

    def __init__(self, entries: Iterable[tuple[Prefix, Owner]] = ()) -> None:
        self.cache: dict[bytes, Owner | None] = {}  # destinations
        self.source_cache: dict[bytes, Owner | None] = {}
        self.replace(entries)

    def replace(self, entries: Iterable[tuple[Prefix, Owner]]) -> None:
        """Set the whole table. It changes in place: others hold it."""
        self._by_length: dict[int, dict[int, dict[int, Owner]]] = {4: {}, 16: {}}
        self._order: dict[int, list[int]] = {4: [], 16: []}
        self.cache.clear()
        self.source_cache.clear()
        for prefix, owner in entries:
            self._insert(prefix, owner)

    def _insert(self, prefix: Prefix, owner: Owner) -> None:
        size = prefix.max_prefixlen // 8
        network = int(prefix.network_address) >> (prefix.max_prefixlen - prefix.prefixlen)
        self._by_length[size].setdefault(prefix.prefixlen, {})[network] = owner
        self._order[size] = sorted(self._by_length[size], reverse=True)

    def owner(self, address: bytes) -> Owner | None:
        """The owner of a packed IPv4 or IPv6 address (4 or 16 bytes), or None."""
        try:
            return self.cache[address]
        except KeyError:
            pass
        found = self.longest_match(address)
        if len(self.cache) >= MAX_CACHED:
            self.cache.clear()  # only a scan fills it; the flows that matter are back with their next packet
        self.cache[address] = found
        return found

    def source_owner(self, address: bytes) -> Owner | None:
        """The owner of a source address; None also for one that no packet from a peer may have."""
        found = None if is_forbidden_source(address) else self.longest_match(address)
        if len(self.source_cache) >= MAX_CACHED:
            self.source_cache.clear()
        self.source_cache[address] = found
        return found

    def longest_match(self, address: bytes) -> Owner | None:
        """`owner`, without the cache: for addresses that a peer chooses, which would flush it."""
        size = len(address)
        value = int.from_bytes(address)
        for length in self._order[size]:
            owner = self._by_length[size][length].get(value >> (8 * size - length))
            if owner is not None:
                return owner
        return None
