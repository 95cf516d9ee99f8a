"""The memory that all sessions of a client may use for what arrived and was not read yet."""

from __future__ import annotations

from collections import Counter

TOTAL_BYTES = 256 << 20  # guessed: 64 full windows
SHARE = 4  # one remote key may use so much of it: 1/SHARE


class StreamMemory:
    """A total, and a share of it for each remote key, so that one peer cannot starve the others."""

    __slots__ = ("_of", "_total", "used")

    def __init__(self, total: int = TOTAL_BYTES) -> None:
        self.used = 0
        self._total = total
        self._of: Counter[str] = Counter()

    def take(self, who: str, size: int, *, always: bool = False) -> bool:
        """Use `size` bytes more; False if they are not granted, which `always` forces."""
        if not always and (self.used + size > self._total or self._of[who] + size > self._total // SHARE):
            return False
        self.used += size
        self._of[who] += size
        return True

    def give(self, who: str, size: int) -> None:
        """Use `size` bytes less."""
        self.used -= size
        self._of[who] -= size
        if self._of[who] <= 0:
            del self._of[who]
