"""Virtual time: what is to happen, in order. Nothing waits: time jumps to the next event."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Clock:
    """Seconds that only pass when an event is due. Events of the same instant keep their order."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def after(self, delay_s: float, event: Callable[[], None]) -> float:
        return self.at(self.now + delay_s, event)

    def at(self, at: float, event: Callable[[], None]) -> float:
        self._number += 1
        heapq.heappush(self._events, (at, self._number, event))
        return at

    def run_until(self, end: float) -> None:
        events = self._events
        while events and events[0][0] <= end:
            at, _, event = heapq.heappop(events)
            self.now = max(self.now, at)
            event()
        self.now = max(self.now, end)
