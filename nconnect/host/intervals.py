"""Prefixes as disjoint address ranges: an nft interval map refuses elements that overlap.

Cryptokey routing lets prefixes nest, the more specific one winning. `owned_ranges` cuts such a table into
ranges of one owner each; `merged_ranges` forgets the owners.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from nconnect.model import Prefix

_Owner = TypeVar("_Owner")


@dataclass(frozen=True, slots=True, order=True)
class AddressRange:
    """The addresses from `first` to `last`, both included."""

    version: int  # 4 or 6
    first: int
    last: int

    def __str__(self) -> str:
        first, last = self.ends()
        return first if first == last else f"{first}-{last}"

    def ends(self) -> tuple[str, str]:
        """Both ends as text."""
        kind = IPv4Address if self.version == 4 else IPv6Address
        return str(kind(self.first)), str(kind(self.last))


def owned_ranges(table: Iterable[tuple[Prefix, _Owner]], version: int) -> dict[AddressRange, _Owner]:
    """The ranges of one IP version and their owners, ascending; the longest prefix owns an address.

    Neighbouring ranges of one owner become one. Of two equal prefixes the first wins.
    """
    seen: set[Prefix] = set()
    entries: list[tuple[int, int, int, _Owner]] = []  # first, last, prefix length, owner
    for prefix, owner in table:
        if prefix.version == version and prefix not in seen:
            seen.add(prefix)
            entries.append(
                (int(prefix.network_address), int(prefix.broadcast_address), prefix.prefixlen, owner)
            )
    entries.sort(key=lambda entry: (entry[0], entry[2]))  # an enclosing prefix comes before what lies in it

    pieces: list[tuple[int, int, _Owner]] = []

    def emit(first: int, last: int, owner: _Owner) -> None:
        if first > last:
            return
        if pieces and pieces[-1][1] + 1 == first and pieces[-1][2] == owner:
            pieces[-1] = (pieces[-1][0], last, owner)
        else:
            pieces.append((first, last, owner))

    open_prefixes: list[tuple[int, _Owner]] = []  # last address and owner, outermost first
    at = 0  # everything below is emitted
    for first, last, _, owner in entries:
        while open_prefixes and open_prefixes[-1][0] < first:
            end, ended = open_prefixes.pop()
            emit(at, end, ended)
            at = max(at, end + 1)
        if open_prefixes:
            emit(at, first - 1, open_prefixes[-1][1])
        at = max(at, first)
        open_prefixes.append((last, owner))
    while open_prefixes:
        end, ended = open_prefixes.pop()
        emit(at, end, ended)
        at = max(at, end + 1)
    return {AddressRange(version, first, last): owner for first, last, owner in pieces}


def merged_ranges(prefixes: Iterable[Prefix], version: int) -> tuple[AddressRange, ...]:
    """The addresses of one IP version that any of the prefixes holds, as few ranges as possible."""
    return tuple(owned_ranges(((prefix, None) for prefix in prefixes), version))


def ranges_without(
    prefixes: Iterable[Prefix], excepted: Iterable[Prefix], version: int
) -> tuple[AddressRange, ...]:
    """`merged_ranges` of `prefixes` less the addresses of which an equal or longer prefix is `excepted`."""
    table = [*((prefix, False) for prefix in excepted), *((prefix, True) for prefix in prefixes)]
    return tuple(found for found, belongs in owned_ranges(table, version).items() if belongs)
