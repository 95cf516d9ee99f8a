"""Connections to our port that are not streams yet: how many, from whom, for how long. Pure.

Nothing about a stranger is kept beside its place here and a token bucket. Who comes when all places are
taken gets the oldest one: a peer sends its proof together with the connection, so it is through within a
round trip, and those who say nothing make room.
"""

from __future__ import annotations

from math import inf

from nconnect.queueing.rate_limiter import RateLimiter, limit_key

PLACES = 32
PLACES_OF_ONE = 4  # of one IPv4 address, or one IPv6 /64
PROVE_S = 2.0  # from the connection to its last proof
# Guessed: of connections a second, of one source and of all. A peer connects once in 5 s at most.
PER_S, BURST = 2.0, 8
ALL_PER_S, ALL_BURST = 100.0, 200
_MAX_SOURCES = 1024  # remembered; who is forgotten starts with a full bucket


class Door:
    """Each connection has a number, the caller's, which is never used twice."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[str, float]] = {}  # number -> source, until when; oldest first
        self._each = RateLimiter(PER_S, BURST, max_hosts=_MAX_SOURCES, key=str)
        self._all = RateLimiter(ALL_PER_S, ALL_BURST, max_hosts=1, key=str)

    def __len__(self) -> int:
        return len(self._places)

    def admits(self, host: str, now: float) -> bool:
        """Whether to look at one more connection from this address; if not, it is closed unread."""
        # A source's own bucket first: one source alone must not empty that of all.
        return self._each.allow(limit_key(host), now) and self._all.allow("", now)

    def enter(self, number: int, host: str, now: float) -> int | None:
        """A connection takes a place; returns the number of the one that must be closed for it."""
        source = limit_key(host)
        leaves = self._oldest(source, PLACES_OF_ONE)
        if leaves is None:
            leaves = self._oldest(None, PLACES)
        if leaves is not None:
            del self._places[leaves]
        self._places[number] = source, now + PROVE_S
        return leaves

    def leave(self, number: int) -> None:
        """It is a stream, or closed."""
        self._places.pop(number, None)

    def next_at(self) -> float:
        """When the next one has had its time; infinite if nobody is here."""
        return next((until for _, until in self._places.values()), inf)

    def overdue(self, now: float) -> list[int]:
        """Those that have had their time, and lose their places: to be closed."""
        late = [number for number, (_, until) in self._places.items() if until <= now]
        for number in late:
            del self._places[number]
        return late

    def _oldest(self, source: str | None, most: int) -> int | None:
        """The oldest place of this source (None: of all), if `most` are taken."""
        taken = [number for number, (of, _) in self._places.items() if source in (None, of)]
        return taken[0] if len(taken) >= most else None
