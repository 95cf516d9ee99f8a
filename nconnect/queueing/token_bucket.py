"""A token bucket: so many bytes a second on average, and so many at once. Pure.

One packet may exceed what is there; the debt is paid before the next one, so the average holds.
"""

from __future__ import annotations


class TokenBucket:
    """Starts full. `now` is seconds of any monotonic clock."""

    __slots__ = ("_at", "_tokens", "burst_bytes", "rate")

    def __init__(self, rate: float, burst_bytes: float, now: float) -> None:
        """`rate`: bytes a second."""
        self.rate = rate
        self.burst_bytes = burst_bytes
        self._tokens = burst_bytes
        self._at = now

    def budget(self, now: float) -> int:
        """How many bytes may go now; 0: none."""
        self._tokens = min(self.burst_bytes, self._tokens + max(0.0, now - self._at) * self.rate)
        self._at = max(self._at, now)
        return max(0, int(self._tokens))

    def take(self, size: int) -> None:
        """So many bytes have gone, right after a call of `budget` that gave more than 0."""
        self._tokens -= size

    def next_at(self, now: float, size: int) -> float:
        """When there will be a budget of `size` bytes; `now` if there is a budget already."""
        return now if self.budget(now) else now + (min(size, self.burst_bytes) - self._tokens) / self.rate
