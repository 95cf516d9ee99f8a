"""A rate limit for messages from senders that are no peers. Pure, and bounded in memory.

Anybody may send to an NKN address. A stranger's message is read for two reasons: it may bring an invitation,
and a person may want to know who tries. Neither takes many messages. So each sender has a token bucket
(`BURST`, `PER_S`), and so have all together (`TOTAL_BURST`, `TOTAL_PER_S`). The caller drops what exceeds
them before it does anything else with it.
"""

from __future__ import annotations

from nconnect.queueing.rate_limiter import RateLimiter

BURST = 32.0  # guessed: joining takes about ten
PER_S = 8.0
TOTAL_BURST = 512.0  # guessed: ten milliseconds of work
TOTAL_PER_S = 256.0
MAX_SENDERS = 1024  # remembered; who is forgotten starts anew


class Strangers:
    """A token bucket for each sender, and one for all together."""

    def __init__(self) -> None:
        self._each = RateLimiter(PER_S, BURST, max_hosts=MAX_SENDERS, key=str)
        self._all = RateLimiter(TOTAL_PER_S, TOTAL_BURST, key=str)

    def admits(self, address: str, now: float) -> bool:
        """Whether to read one more message of this sender."""
        # A sender's own bucket first: one sender alone must not empty that of all.
        admitted = self._each.left(address, now) >= 1.0 and self._all.allow("", now)
        if admitted:
            self._each.take(address, 1.0)
        return admitted
