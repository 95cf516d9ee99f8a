"""How much is heard of senders that are no peers of ours. Pure, and bounded.

Anybody may send to an NKN address. What a stranger says is looked at for two reasons: it may have an
invitation, and a person may want to know who tries. Neither needs many messages, so each sender may send
`BURST` at once and `PER_S` a second, and all of them together `TOTAL_BURST` and `TOTAL_PER_S`. The rest is to
be dropped before anything else is done with it.
"""

from __future__ import annotations

BURST = 32.0  # guessed: joining takes about ten
PER_S = 8.0
TOTAL_BURST = 512.0  # guessed: ten milliseconds of work
TOTAL_PER_S = 256.0
MAX_SENDERS = 1024  # remembered; who is forgotten starts anew


class Strangers:
    """Token buckets of senders, and one of all together."""

    def __init__(self, now: float) -> None:
        self._total = TOTAL_BURST
        self._total_at = now
        self._senders: dict[str, tuple[float, float]] = {}  # address -> (tokens, when), oldest first

    def admits(self, address: str, now: float) -> bool:
        """Whether to look at one more message of this sender."""
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
