"""Notices that the process did not run for a while: the machine slept, or the process was stopped.

Two signs: CLOCK_BOOTTIME went on while CLOCK_MONOTONIC stood (sleep), or a timer came late (SIGSTOP, a frozen
virtual machine).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nconnect.io.process import boot_timer

LOOK_EVERY_S = 4.0  # by the boot clock, so at once after a longer sleep; an idle daemon wakes rarely
_LATE_S = 5.0  # a timer may be late on a busy machine, but not so late
SLEPT_S = 1.0


@dataclass(frozen=True, slots=True)
class Moment:
    """Both clocks, read at once; seconds."""

    boot: float
    monotonic: float


def moment() -> Moment:
    return Moment(time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic())


def missed_s(before: Moment, after: Moment, asked_s: float) -> float:
    """How long the process did not run, beyond the `asked_s` that it waited; 0.0 when it ran."""
    late_s = after.boot - before.boot - asked_s
    slept_s = (after.boot - before.boot) - (after.monotonic - before.monotonic)
    return max(late_s, slept_s) if late_s > _LATE_S or slept_s > SLEPT_S else 0.0


async def watch(
    on_resume: Callable[[float], None],
    now: Callable[[], Moment] = moment,
    sleep: Callable[[float], Awaitable[None]] = boot_timer.sleep,
) -> None:
    """Call `on_resume` with the seconds that were missed, each time there were any; until cancelled."""
    while True:
        before = now()
        await sleep(LOOK_EVERY_S)
        away_s = missed_s(before, now(), LOOK_EVERY_S)
        if away_s:
            on_resume(away_s)
