"""How many forged datagrams are opened: opening costs the same for them as for genuine ones. One peer's.

Whoever has seen a datagram knows the index of a session, and can send more with it, from any address. So
attempts that fail are counted, for a second at a time:

    an address that answered a probe (proven)    FORGED_PROVEN a second, a count for each address and port
    any other (an IPv4 address or IPv6 /64)      FORGED_SOURCE a second for each, FORGED_STRANGERS for all

Above its bound, one of OPENED_ONE_OF datagrams is opened. So one source can neither disturb the address that
the peer uses, nor an address that the peer moves to; who sends in the name of either can, and then the path
is in doubt and the relay carries.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from nconnect.model import Endpoint
from nconnect.tunnel.paths.direct.budget import Unit, unit_of

FORGED_PROVEN = 2000
FORGED_SOURCE = 500
FORGED_STRANGERS = 2000
OPENED_ONE_OF = 16
_MAX_SOURCES = 256  # counted in one second; further ones count as one


class ForgedDatagrams:
    """Ask `is_worth_opening` before each attempt, and tell `failed` of those that failed."""

    __slots__ = ("_began_at", "_is_proven", "_strangers", "counts")

    def __init__(self, is_proven: Callable[[Endpoint], bool]) -> None:
        self._is_proven = is_proven
        self._began_at = -inf
        self.counts: dict[Endpoint | Unit | None, int] = {}  # that failed, and what came above a bound
        self._strangers = 0  # the same of all addresses that are not proven

    def is_worth_opening(self, source: Endpoint, now: float) -> bool:
        """Whether to try to open a datagram from there. Yes, while `counts` is empty."""
        if not self.counts:
            return True
        if now >= self._began_at + 1.0:
            self.counts.clear()
            self._strangers = 0
            return True
        is_proven = self._is_proven(source)
        key = self._key(source, is_proven)
        count = self.counts.get(key, 0)
        if is_proven:
            is_above = count >= FORGED_PROVEN
        else:
            is_above = count >= FORGED_SOURCE or self._strangers >= FORGED_STRANGERS
        if not is_above:
            return True
        self.counts[key] = count = count + 1
        return count % OPENED_ONE_OF == 0

    def failed(self, source: Endpoint, now: float) -> None:
        """A datagram from there that was worth opening was forged."""
        if not self.counts:
            self._began_at = now
        is_proven = self._is_proven(source)
        key = self._key(source, is_proven)
        self.counts[key] = self.counts.get(key, 0) + 1
        self._strangers += not is_proven

    def _key(self, source: Endpoint, is_proven: bool) -> Endpoint | Unit | None:
        key: Endpoint | Unit = source if is_proven else unit_of(source.address)
        if key in self.counts or is_proven or len(self.counts) < _MAX_SOURCES:
            return key
        return None
