"""A rate limit for messages from senders that are no peers. Pure, and bounded in memory.

Anybody may send to an NKN address. A stranger's message is read for two reasons: it may bring an invitation,
and a person may want to know who tries. Neither takes many messages. So each sender has a token bucket
(`BURST`, `PER_S`), and so have all together (`TOTAL_BURST`, `TOTAL_PER_S`). The caller drops what exceeds
them before it does anything else with it.
"""

from __future__ import annotations

BURST = 32.0  # guessed: joining takes about ten
PER_S = 8.0
TOTAL_BURST = 512.0  # guessed: ten milliseconds of work
TOTAL_PER_S = 256.0
MAX_SENDERS = 1024  # remembered; who is forgotten starts anew


class Strangers:
    """A token bucket for each sender, and one for all together."""

    def __init__(self, now: float) -> None:
        self._total = TOTAL_BURST
        self._total_at = now
        self._senders: dict[str, tuple[float, float]] = {}  # address -> (tokens, when), oldest first

    def admits(self, address: str, now: float) -> bool:
        """Whether to read one more message of this sender."""
        tokens, counted_at = self._senders.pop(address, (BURST, now))
        tokens = min(BURST, tokens + max(0.0, now - counted_at) * PER_S)
        self._total = min(TOTAL_BURST, self._total + max(0.0, now - self._total_at) * TOTAL_PER_S)
        self._total_at = now
        heard = tokens >= 1.0 and self._total >= 1.0
        if heard:
            tokens -= 1.0
            self._total -= 1.0
        if len(self._senders) >= MAX_SENDERS:
            del self._senders[next(iter(self._senders))]
        self._senders[address] = (tokens, now)
        return heard
