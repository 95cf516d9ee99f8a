"""Which spare links a client needs: additional sub-clients, while none of its own links is up. Pure.

The network names one node for each address, and that node may be unreachable from here. For another
address, that of the next sub-client, it names another node. So if a link is stuck and none is up, the first
spare is wanted; if that is stuck too, the next. A link is *stuck* if an attempt failed at a node that a
seed named, or has been trying to connect there for `STUCK_AFTER_S`. A spare for which the network names a
node at which another link is stuck is useless, and is not tried for `USELESS_S`. Once one of the client's own
links is up, the spares stay for `STAY_S`; by then the peers know of that link.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

# Guessed.
STUCK_AFTER_S = 1.5  # a node on the other side of the world takes half of it
USELESS_S = 10.0
STAY_S = 5.0


@dataclass(slots=True)
class _State:
    """Of one link."""

    node: str = ""  # the key of the node that a seed named, while the link is not up
    since: float = inf  # when a node was first named since the link was last up
    failed: bool = False  # at a node, since then
    up_at: float = inf  # since when it is up
    useless_until: float = -inf

    def is_stuck(self, now: float) -> bool:
        return self.failed or now - self.since >= STUCK_AFTER_S


class Spares:
    """The choice for one client: links 0 to `links` - 1 are its own, the next `spares` are spare.

    Times are seconds of any clock that does not go back.
    """

    def __init__(self, links: int, spares: int) -> None:
        self._own = [_State() for _ in range(links)]
        self._spare = [_State() for _ in range(spares)]

    def named(self, link: int, node: str, now: float) -> None:
        """A seed named the node with this key for a link, which now connects to it."""
        state = self._state(link)
        state.node = node
        state.since = min(state.since, now)
        others = (other for other in (*self._own, *self._spare) if other is not state)
        if link >= len(self._own) and any(other.node == node for other in others):
            state.useless_until = now + USELESS_S

    def failed(self, link: int) -> None:
        """A link could not be brought up at its node, or was lost."""
        state = self._state(link)
        if state.up_at < inf:
            self.went(link)
        else:
            state.failed = state.since < inf

    def went(self, link: int) -> None:
        """A link was stopped, or no seed names a node for it."""
        state = self._state(link)
        state.node, state.since, state.failed, state.up_at = "", inf, False, inf

    def up(self, link: int, now: float) -> None:
        """A link is up."""
        self.went(link)
        self._state(link).up_at = now

    def may_help(self, now: float) -> bool:
        """Whether a spare may still come up although the links cannot."""
        return any(
            spare.up_at < inf or not (spare.is_stuck(now) or now < spare.useless_until)
            for spare in self._spare
        )

    def is_watching(self) -> bool:
        """Whether time alone may change what is wanted."""
        return any(state.since < inf for state in self._own) or any(
            spare.since < inf or spare.up_at < inf for spare in self._spare
        )

    def wanted(self, now: float) -> set[int]:
        """The numbers of the spares that should run."""
        first = len(self._own)
        up = {first + n for n, spare in enumerate(self._spare) if spare.up_at < inf}
        own_up_at = min((state.up_at for state in self._own), default=inf)
        if own_up_at < inf:
            return up if now - own_up_at < STAY_S else set()
        if up or not any(state.is_stuck(now) for state in self._own):
            return up
        wanted = set()
        for n, spare in enumerate(self._spare):
            if now < spare.useless_until:
                continue
            wanted.add(first + n)
            if not spare.is_stuck(now):
                break
        return wanted

    def _state(self, link: int) -> _State:
        own = len(self._own)
        return self._own[link] if link < own else self._spare[link - own]
