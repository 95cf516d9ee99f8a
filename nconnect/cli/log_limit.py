"""A bound on the log lines that others can cause, so that a log cannot fill the disk.

A peer that comes and goes, or a node that closes each login, causes a line each time: dozens a second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

# Guessed: a hundred lines show what happens; 8,640 a day of each kind are less than a megabyte.
BURST = 100
EVERY_S = 10.0
MAX_KINDS = 10_000  # kinds that are counted; each line of code has one kind per peer


class LogLimit(logging.Filter):
    """Passes `BURST` lines from one line of code about one peer, then one every `EVERY_S` on average.

    The next line that passes says how many were left out. Thread-safe only as far as the interpreter's lock
    goes: a count may be off by one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[tuple[str, int, str], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        key = (record.pathname, record.lineno, str(getattr(record, "peer", "")))
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= MAX_KINDS:
                self._kinds.clear()
            kind = self._kinds[key] = _Kind(now)
        left_out = kind.passes(now)
        if left_out is None:
            return False
        if left_out:
            record.msg = f"{record.getMessage()} ({left_out} lines like this were left out)"
            record.args = ()
        return True


class _Kind:
    """A token bucket, and the number of lines that found it empty."""

    __slots__ = ("_at", "_left_out", "_tokens")

    def __init__(self, now: float) -> None:
        self._tokens = float(BURST)
        self._at = now
        self._left_out = 0

    def passes(self, now: float) -> int | None:
        """How many lines were left out since the last one that passed; None if this one does not pass."""
        self._tokens = min(BURST, self._tokens + (now - self._at) / EVERY_S)
        self._at = now
        if self._tokens < 1:
            self._left_out += 1
            return None
        self._tokens -= 1
        left_out, self._left_out = self._left_out, 0
        return left_out
