"""Whether the pair in use still answers, where no data shows it. Pure."""

from __future__ import annotations

from enum import Enum, auto
from math import inf

from nconnect.tunnel.paths.direct.constants import (
    KEEPALIVE_ANSWER_S,
    KEEPALIVE_BUSY_S,
    KEEPALIVE_IDLE_S,
    KEEPALIVE_TRIES,
)


class KeepaliveStep(Enum):
    """What to do when the timer is due."""

    WAIT = auto()
    ASK = auto()
    DEAD = auto()  # KEEPALIVE_TRIES questions had no answer


class Keepalive:
    """One peer's, for the pair in use."""

    __slots__ = ("heard_at", "misses")

    def __init__(self) -> None:
        self.heard_at = -inf  # when something authentic came from the pair
        self.misses = 0  # questions without an answer

    def heard(self, now: float) -> None:
        self.heard_at, self.misses = now, 0

    def due(
        self, now: float, *, is_busy: bool, may_be_dead: bool, rtt_s: float
    ) -> tuple[KeepaliveStep, float]:
        """(what to do, when to look again). `is_busy`: there are packets. `may_be_dead`: there is a relay."""
        due_at = self.heard_at + (KEEPALIVE_BUSY_S if is_busy else KEEPALIVE_IDLE_S)
        if now < due_at:
            return KeepaliveStep.WAIT, due_at
        if self.misses >= KEEPALIVE_TRIES and may_be_dead:
            return KeepaliveStep.DEAD, inf
        self.misses += 1
        return KeepaliveStep.ASK, now + max(KEEPALIVE_ANSWER_S, 2 * rtt_s)
