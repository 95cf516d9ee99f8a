"""When a path that was left may be used again, and how often the pair that worked is asked meanwhile. Pure.

A path that failed rests, for longer with each failure that comes soon after the last (FORGIVE_S), so that
nothing flaps. A peer that has moved since is not made to wait: what failed was the old path.
"""

from __future__ import annotations

from math import inf

from nconnect.tunnel.paths.direct.constants import (
    FORGIVE_S,
    MAX_PENALTY_S,
    RECHECK_FOR_S,
    RECHECK_LATER_FOR_S,
    RECHECK_LATER_S,
    RECHECK_S,
    REMEMBER_S,
)
from nconnect.tunnel.paths.direct.pair import Pair


class Comeback:
    """One peer's."""

    __slots__ = ("direct_from", "direct_since", "falls", "last", "peer_moved", "recheck_at")

    def __init__(self, now: float) -> None:
        self.last: Pair | None = None  # the pair that was used last, while none is
        self.direct_from = now  # not before: the penalty
        self.direct_since = -inf  # when a pair came into use, after there was none
        self.falls = 0  # failures of the path, each soon after the last
        self.peer_moved = False  # since the pair in use was chosen
        self.recheck_at = inf  # when to ask on `last`

    def used(self, now: float, *, is_first: bool) -> None:
        """A pair is in use from now on; `is_first`: there was none before."""
        if is_first:
            self.direct_since = now
        self.last, self.recheck_at, self.peer_moved = None, inf, False

    def left(self, pair: Pair | None, penalty_s: float, now: float) -> None:
        """The relay carries from now on; `pair` was in use."""
        if pair is not None:
            self.last = pair
            self.recheck_at = now + max(penalty_s, RECHECK_S)
        self.direct_from = now + penalty_s

    def penalty_s(self, penalty_s: float, now: float) -> float:
        """The path has failed: how long it rests, at first `penalty_s`."""
        if self.peer_moved:
            return 0.0
        if now - self.direct_since > FORGIVE_S:
            self.falls = 0
        found = min(penalty_s * (1 << self.falls), MAX_PENALTY_S)
        self.falls += 1
        return found

    def forgive(self, now: float) -> None:
        """One side is somewhere else: what failed, or will, is the old path."""
        self.falls, self.direct_from = 0, now

    def was_direct(self, now: float) -> bool:
        """Whether a pair worked a short time ago, so that it will probably work again."""
        return self.last is not None and self.last.heard_at > now - REMEMBER_S

    def due(self, now: float, quiet_until: float) -> Pair | None:
        """The pair to ask whether it works again, if that is due; only while there is traffic."""
        last = self.last
        silent_s = inf if last is None else now - last.heard_at
        if last is None or silent_s > RECHECK_LATER_FOR_S:
            self.recheck_at = inf
            return None
        if now < quiet_until:
            self.recheck_at = quiet_until
            return None
        self.recheck_at = now + (RECHECK_S if silent_s < RECHECK_FOR_S else RECHECK_LATER_S)
        return last
