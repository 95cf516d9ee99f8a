"""How much may be sent to an address that has not proved that it wants it. One for all peers of an interface.

A peer may name a victim's address as its own, or send from a forged one. So an address goes through three
stages:

    silent          at most SEARCH_BYTES in a search and HOUR_BYTES in an hour, over all peers. The unit is
                    an IPv4 address or an IPv6 /64, whatever the port.
    heard from      three times what came from this address and port (RFC 9000, section 8)
    acknowledged    unlimited: a probe that went there was answered with its secret id
"""

from __future__ import annotations

from collections import deque
from ipaddress import IPv6Address

from nconnect.model import Address, Endpoint
from nconnect.tunnel.paths.direct.constants import (
    AMPLIFICATION,
    HEADERS_BYTES,
    HOUR_BYTES,
    MAX_ADDRESSES,
    SEARCH_BYTES,
    VALID_S,
)

HOUR_S = 3600.0
MAX_NAMED = 64  # addresses that one peer may name in an hour
_MERGE_S = 10.0  # what is sent within this time is one entry, and counts until all of it is an hour old
Unit = Address | bytes


class ProbeBudget:
    """Ask `take` before each datagram that is not data on a proven path."""

    __slots__ = ("_credit", "_searches", "_spent", "_valid_until", "refused")

    def __init__(self) -> None:
        self.refused = 0  # datagrams that were not sent
        self._spent: dict[Unit, deque[list[float]]] = {}  # [when the entry began, bytes]
        self._searches: dict[tuple[int, Unit], int] = {}
        self._credit: dict[Endpoint, int] = {}  # what may still be sent to an address that was heard from
        self._valid_until: dict[Endpoint, float] = {}

    def take(self, endpoint: Endpoint, datagram_bytes: int, search_id: int | None, now: float) -> bool:
        """Whether to send a datagram; if so, it is accounted for. `search_id`: the search that it is for."""
        if self._valid_until.get(endpoint, 0.0) > now:
            return True
        size = datagram_bytes + HEADERS_BYTES[endpoint.address.version]
        left = self._credit.get(endpoint)
        if left is not None:
            allowed = size <= left
            if allowed:
                self._credit[endpoint] = left - size
        else:
            allowed = self._take_unheard(endpoint.address, size, search_id, now)
        self.refused += not allowed
        return allowed

    def heard(self, endpoint: Endpoint, datagram_bytes: int, now: float) -> None:
        """An authentic datagram came from there."""
        if self._valid_until.get(endpoint, 0.0) > now:
            self._valid_until[endpoint] = now + VALID_S
            return
        if endpoint not in self._credit and len(self._credit) >= MAX_ADDRESSES:
            del self._credit[next(iter(self._credit))]  # the oldest is as if it had never been heard
        size = datagram_bytes + HEADERS_BYTES[endpoint.address.version]
        self._credit[endpoint] = self._credit.get(endpoint, 0) + AMPLIFICATION * size

    def acknowledged(self, endpoint: Endpoint, now: float) -> None:
        """A probe that went there was answered from there."""
        if len(self._valid_until) >= MAX_ADDRESSES:
            self._valid_until = {each: until for each, until in self._valid_until.items() if until > now}
        if len(self._valid_until) >= MAX_ADDRESSES:
            del self._valid_until[next(iter(self._valid_until))]
        self._valid_until[endpoint] = now + VALID_S
        self._credit.pop(endpoint, None)

    def search_ended(self, search_id: int) -> None:
        """Forget what this search has spent by itself; the hour goes on."""
        for key in [key for key in self._searches if key[0] == search_id]:
            del self._searches[key]

    def _take_unheard(self, address: Address, size: int, search_id: int | None, now: float) -> bool:
        unit = unit_of(address)
        in_search = 0 if search_id is None else self._searches.get((search_id, unit), 0) + size
        if in_search > SEARCH_BYTES:
            return False
        entries = self._spent.get(unit)
        if entries is None:
            if len(self._spent) >= MAX_ADDRESSES and not self._forget_old(now):
                return False
            entries = self._spent[unit] = deque()
        while entries and entries[0][0] + _MERGE_S + HOUR_S <= now:
            entries.popleft()
        if sum(spent for _, spent in entries) + size > HOUR_BYTES:
            return False
        if entries and now < entries[-1][0] + _MERGE_S:
            entries[-1][1] += size
        else:
            entries.append([now, size])
        if search_id is not None:
            self._searches[search_id, unit] = in_search
        return True

    def _forget_old(self, now: float) -> bool:
        """Make room; whether there is some."""
        oldest = now - _MERGE_S - HOUR_S
        self._spent = {unit: spent for unit, spent in self._spent.items() if spent and spent[-1][0] > oldest}
        return len(self._spent) < MAX_ADDRESSES


class Named:
    """The addresses that one peer has named: at most MAX_NAMED in an hour.

    So a peer cannot have us scan networks, or fill the table above for all others.
    """

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since: dict[Unit, float] = {}

    def admits(self, address: Address, now: float) -> bool:
        """Whether it may be probed: named before, or not one too many."""
        unit = unit_of(address)
        if unit in self._since:
            return True
        if len(self._since) >= MAX_NAMED:
            self._since = {each: at for each, at in self._since.items() if at > now - HOUR_S}
        if len(self._since) >= MAX_NAMED:
            return False
        self._since[unit] = now
        return True


def unit_of(address: Address) -> Unit:
    """What counts as one address."""
    return address.packed[:8] if isinstance(address, IPv6Address) else address
