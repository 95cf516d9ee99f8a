"""When an outage is worth a line in the log: at once, for another reason, and then ever more rarely.

A link tries again every few seconds for as long as it takes, and each try that fails has a reason.
"""

from __future__ import annotations

# Guessed: somebody who looks at the log finds a recent line, and a night without a network fills no disk.
FIRST_S, LONGEST_S = 15.0, 900.0
MAX_REASONS = 16  # that are remembered; a node could make them up


class Outage:
    """One link's, or that of all."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._interval_s = FIRST_S
        self._again_at = 0.0

    def is_news(self, why: str, now: float) -> bool:
        """A try has failed: whether to say so."""
        is_new = why not in self._said and len(self._said) < MAX_REASONS
        if not self._said:
            self._interval_s = FIRST_S
        elif now >= self._again_at:
            self._interval_s = min(2 * self._interval_s, LONGEST_S)
        elif not is_new:
            return False
        if is_new:
            self._said.add(why)
        self._again_at = now + self._interval_s
        return True

    def end(self) -> None:
        """It is over: the next one is news again."""
        self._said.clear()
