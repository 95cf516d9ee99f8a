"""Counting durations by size: a fixed list of bounds, a count for each, and their sum."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

# Seconds, about three bounds per decade: from the round trip of a loopback to more than anybody waits.
BOUNDS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Histogram:
    """Cumulative counts of values by upper bound, as in Prometheus, since the start."""

    __slots__ = ("_counts", "bounds", "sum")

    def __init__(self, bounds: Sequence[float] = BOUNDS_S) -> None:
        """`bounds` must ascend; there is one more bucket above the last."""
        self.bounds = tuple(bounds)
        self.sum = 0.0
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value; below zero (a clock's rounding) counts as zero."""
        if value < 0.0:
            value = 0.0
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self._counts)

    def cumulative(self) -> list[int]:
        """For each bound the number of values that are at most that; the last is the number of all values."""
        total = 0
        found = []
        for count in self._counts:
            total += count
            found.append(total)
        return found
