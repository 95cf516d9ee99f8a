"""What a direct path waits for, and until when. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from math import inf

from nconnect.model import Deadline


class PathTimer(IntEnum):
    """What a deadline stands for."""

    PROBES = 0  # of the search
    SEARCH_END = 1
    CHOOSE = 2  # among the pairs that answered
    QUESTION = 3  # data was not reported: probe
    SUSPECT = 4  # data was not reported for too long
    GIVE_UP = 5  # suspect for too long
    KEEPALIVE = 6
    LET_GO = 7  # idle
    MTU = 8


class Deadlines:
    """One peer's: when each timer is due; infinite where it is not set."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at = [inf] * len(PathTimer)

    def __getitem__(self, timer: PathTimer) -> float:
        return self._at[timer]

    def __setitem__(self, timer: PathTimer, at: float) -> None:
        self._at[timer] = at

    def clear(self) -> None:
        self._at = [inf] * len(PathTimer)

    def next_at(self) -> float:
        return min(self._at)

    def next(self) -> Deadline | None:
        """The first one, and what it is for."""
        at = min(self._at)
        return None if at == inf else Deadline(at, PathTimer(self._at.index(at)).name.lower())

    def due(self, now: float) -> Iterator[PathTimer]:
        """Those that are due, which are cleared; what one of them sets for an earlier timer waits."""
        for timer in PathTimer:
            if self._at[timer] <= now:
                self._at[timer] = inf
                yield timer
