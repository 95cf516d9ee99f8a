"""A clock that stands still until a test moves it."""

from __future__ import annotations


class HandClock:
    """`now` is what it shows; it is read by a call, as `time.time` is."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
