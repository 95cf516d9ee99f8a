"""When to try again: the reconnect schedule of one link.

A node that was restarted should be found again within a second, and a thousand clients of it should not come
back at the same instant, and one that stays away should not be hammered. So: the first retry comes within
a quarter of a second, then the ceiling doubles (full jitter below it) to one second, where it stays for two
minutes, then on to ten. A bucket of attempts, refilled at one a second, holds whatever happens: redirects and
network changes take from it too. It never gives up.
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
        """An attempt begins, or a part of one (a redirect and a forced retry are attempts too)."""
        self._refill(now)
        self._credit -= share

    def failed(self, now: float, share: float = 1.0, *, soon: bool = False) -> float:
        """An attempt failed, or the link broke: return after how many seconds to try again.

        `share`: what is tried then is this part of an attempt, and is due so much earlier. `soon`: wait no
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
        """After how many seconds the rate allows another attempt, or part of one, were it asked for now."""
        self._refill(now)
        return max(0.0, (share - self._credit) / ATTEMPTS_PER_S)

    def was_up(self, for_s: float) -> bool:
        """The link was up for so many seconds: start the schedule again if that was a while; say if it was.

        The bucket stays as it is, so a link that comes and goes keeps to the rate as well.
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
