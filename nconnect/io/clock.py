"""The one clock that the daemon gives to its machines."""

from __future__ import annotations

import time
from functools import partial

# Seconds since boot, sleep included: it never jumps when the wall clock is set. Called several times for each
# message, so it is no function of ours. Other systems, where only the SDK runs, have no such clock.
boottime = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
