"""One search: which addresses are probed when, and with which TTL. Pure bookkeeping, no I/O.

The first probes to a public IPv4 address have a low TTL: they open this side's NAT and die before they reach
the other one, whose router might answer them and remember the answer. Probes with the full TTL begin when the
other side must have opened its NAT too:

- LOW_TTL_S after the first probe, when the other side is known to have this side's list (it has answered it);
- later, by the time that the relay needs, when the other side has yet to get the list;
- at once, when a probe of the other side's has come through, and to private and IPv6 addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from nconnect.model import Endpoint
from nconnect.tunnel.paths.direct.candidates import is_private
from nconnect.tunnel.paths.direct.constants import (
    FULL_TTL_AT_S,
    LOW_TTL_AT_S,
    LOW_TTL_S,
    LOW_TTLS,
    MAX_LOW_TTL_S,
    MAX_TARGETS,
    SEARCH_S,
)


@dataclass(slots=True)
class Target:
    """An address that is probed."""

    endpoint: Endpoint
    started_at: float
    full_at: float  # from when on with the full TTL
    low_step: int = 0  # in LOW_TTL_AT_S
    full_step: int = 0  # in FULL_TTL_AT_S

    def is_low(self) -> bool:
        """Whether the next probe is one with a low TTL."""
        return (
            not self.full_step
            and self.low_step < len(LOW_TTL_AT_S)
            and self.started_at + LOW_TTL_AT_S[self.low_step] < self.full_at
        )

    def next_at(self) -> float:
        if self.is_low():
            return self.started_at + LOW_TTL_AT_S[self.low_step]
        return self.full_at + FULL_TTL_AT_S[self.full_step] if self.full_step < len(FULL_TTL_AT_S) else inf


class Search:
    """A search under way, from the list of candidates that was sent to the last probe."""

    __slots__ = ("ends_at", "id", "is_ours", "targets", "told_at")

    def __init__(self, search_id: int, now: float, *, is_ours: bool) -> None:
        self.id = search_id
        self.is_ours = is_ours  # we drew the id
        self.told_at = now  # when the peer was sent our list, as it is now
        self.targets: dict[Endpoint, Target] = {}
        self.ends_at = now + SEARCH_S

    def add(self, endpoint: Endpoint, now: float, *, low_ttl_s: float = 0.0) -> None:
        """Probe this address from now on, unless it is probed already or there are too many."""
        if endpoint in self.targets or len(self.targets) >= MAX_TARGETS:
            return
        is_nated = endpoint.address.version == 4 and not is_private(endpoint.address)
        self.targets[endpoint] = Target(endpoint, now, now + low_ttl_s if is_nated else now)
        self.ends_at = now + SEARCH_S

    def heard(self, endpoint: Endpoint, now: float) -> None:
        """A probe came from there, so its NAT is open for us."""
        if (target := self.targets.get(endpoint)) is not None:
            target.full_at = min(target.full_at, now)

    def knows_us_at(self, at: float, now: float) -> None:
        """The other side gets an address of ours, to which it opens its NAT, only then."""
        for target in self.targets.values():
            if target.full_at > now:
                target.full_at = min(at, target.started_at + MAX_LOW_TTL_S)

    def answered(self, now: float) -> None:
        """The other side has our list."""
        for target in self.targets.values():
            target.full_at = min(target.full_at, max(now, target.started_at + LOW_TTL_S))

    def next_at(self) -> float:
        """When the next probe is due; infinity when all were sent."""
        return min((target.next_at() for target in self.targets.values()), default=inf)

    def due(self, now: float) -> list[tuple[Endpoint, int | None]]:
        """(address, TTL) of each probe that is due; None is the system's TTL."""
        found: list[tuple[Endpoint, int | None]] = []
        for target in self.targets.values():
            ttl = LOW_TTLS[target.low_step] if target.is_low() else None
            if target.next_at() > now:
                continue
            found.append((target.endpoint, ttl))
            while target.next_at() <= now:  # we may be late: no burst
                if target.is_low():
                    target.low_step += 1
                else:
                    target.full_step += 1
        return found
