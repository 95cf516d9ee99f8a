"""Waiting by the real boot clock; the kernel promises that it goes on during sleep."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
import uvloop

from nconnect.io.process import boot_timer


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("seconds", [1e-12, 0.001, 0.05, 1.02])
def test_it_takes_as_long_as_asked(factory: type[asyncio.AbstractEventLoop], seconds: float) -> None:
    async def main() -> None:
        before = os.listdir("/proc/self/fd")
        began = time.clock_gettime(time.CLOCK_BOOTTIME)
        await boot_timer.sleep(seconds)
        taken = time.clock_gettime(time.CLOCK_BOOTTIME) - began
        assert seconds <= taken < seconds + 5
        assert len(os.listdir("/proc/self/fd")) == len(before)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_it_can_be_cancelled() -> None:
    async def main() -> None:
        before = os.listdir("/proc/self/fd")
        task = asyncio.create_task(boot_timer.sleep(60))
        await asyncio.sleep(0.01)
        assert len(os.listdir("/proc/self/fd")) == len(before) + 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(os.listdir("/proc/self/fd")) == len(before)

    asyncio.run(main())
