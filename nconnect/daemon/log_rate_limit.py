"""When what repeats is worth a line in the log: at once, when it is another, and then ever more rarely.

A link without a node tries again every second or so, for as long as it takes: it finds a node, and fails.
"""

from __future__ import annotations

# Guessed: somebody who looks at the log finds a recent line, and a night without a network fills no disk.
FIRST_S, LONGEST_S = 15.0, 900.0
MAX_TEXTS = 16  # that are remembered; a node could make them up


class LogRateLimit:
    """What one thing says again and again, until it ends."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._interval_s = FIRST_S
        self._again_at = 0.0

    def is_news(self, text: str, now: float) -> bool:
        """It happened again: whether to say so."""
        is_new = text not in self._said and len(self._said) < MAX_TEXTS
        if not self._said:
            self._interval_s = FIRST_S
        elif now >= self._again_at:
            self._interval_s = min(2 * self._interval_s, LONGEST_S)
        elif not is_new:
            return False
        if is_new:
            self._said.add(text)
        self._again_at = now + self._interval_s
        return True

    def end(self) -> None:
        """It is over: whatever comes next is news again."""
        self._said.clear()
