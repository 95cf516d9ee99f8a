"""The one clock that the daemon gives to its machines."""

from __future__ import annotations

import time


def boottime() -> float:
    """Seconds since boot, sleep included (CLOCK_BOOTTIME): it never jumps when the wall clock is set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
