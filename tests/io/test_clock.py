"""The daemon's clock."""

from __future__ import annotations

import time

from nconnect.io.clock import boottime


def test_it_is_the_boot_clock_and_does_not_go_back() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    readings = [boottime() for _ in range(100)]
    assert readings == sorted(readings)
    assert before <= readings[0] <= readings[-1] <= time.clock_gettime(time.CLOCK_BOOTTIME)
