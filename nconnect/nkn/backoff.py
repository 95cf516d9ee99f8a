"""When to try again: the reconnect schedule of one link.

A restarted node should be found again within a second; its thousand clients should not return at the same
instant; and a node that stays away should not be flooded. So the first retry comes within a quarter of a
second. Then the ceiling (with full jitter below it) doubles to one second, stays there for two minutes, and
goes on to ten. A token bucket, refilled at one attempt a second, limits all attempts, including those after
redirects and network changes. It never gives up.
"""

from __future__ import annotations

from nconnect.model import Rng

# Ours, guessed, except for the rate, which the project promises.
FIRST_CEILING_S = 0.25  # below the 0.3 s in which a restarted node's clients should try again
PATIENT_CEILING_S = 1.0
PATIENCE_S = 120.0  # an outage is treated as a restart for this long
CEILING_S = 10.0
ATTEMPTS_PER_S = 1.0  # over time
BURST = 3.0  # attempts that may follow each other without regard to the rate
STABLE_S = 20.0  # a link that was up for this long starts the schedule again


class Backoff:
    """The schedule of one link. Times are CLOCK_BOOTTIME seconds."""

    __slots__ = ("_credit", "_credit_at", "_failing_since", "_failures", "_late_failures", "_rng")

    def __init__(self, *, now: float, rng: Rng) -> None:
        self._rng = rng
        self._credit = BURST
        self._credit_at = now
        self._failing_since: float | None = None
        self._failures = 0
        self._late_failures = 0

    def attempted(self, now: float, share: float = 1.0) -> None:
        """Note that an attempt begins, or a part of one (redirects and forced retries are attempts too)."""
        self._refill(now)
        self._credit -= share

    def failed(self, now: float, share: float = 1.0, *, soon: bool = False) -> float:
        """Note that an attempt failed or the link broke; return the seconds to wait before the next attempt.

        `share`: the next try is this fraction of an attempt, and comes that much earlier. `soon`: wait no
        longer than at the start of an outage, however long this one lasts.
        """
        if self._failing_since is None:
            self._failing_since = now
        ceiling = min(FIRST_CEILING_S * 2.0 ** min(self._failures, 8), PATIENT_CEILING_S)
        self._failures += 1
        if now - self._failing_since > PATIENCE_S and not soon:
            self._late_failures += 1
            ceiling = min(PATIENT_CEILING_S * 2.0 ** min(self._late_failures, 8), CEILING_S)
        fraction = int.from_bytes(self._rng(4), "big") / 2**32
        return max(ceiling * fraction * share, self.earliest_s(now, share))

    def earliest_s(self, now: float, share: float = 1.0) -> float:
        """The seconds after which the rate allows another attempt, or a part of one."""
        self._refill(now)
        return max(0.0, (share - self._credit) / ATTEMPTS_PER_S)

    def was_up(self, for_s: float) -> bool:
        """Note for how many seconds the link was up. If long enough, restart the schedule and return True.

        The bucket stays as it is, so that a link that comes and goes keeps to the rate too.
        """
        if for_s < STABLE_S:
            return False
        self._failing_since = None
        self._failures = self._late_failures = 0
        return True

    def _refill(self, now: float) -> None:
        elapsed = max(0.0, now - self._credit_at)
        self._credit = min(BURST, self._credit + elapsed * ATTEMPTS_PER_S)
        self._credit_at = now
