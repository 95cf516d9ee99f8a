"""Run the coroutine of a test on an event loop, and wait for what happens on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import uvloop

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
BOTH: tuple[LoopFactory, ...] = (asyncio.new_event_loop, uvloop.new_event_loop)


def run(
    test: Callable[[], Awaitable[None]],
    *,
    loops: Iterable[LoopFactory] = (asyncio.new_event_loop,),
    within_s: float = 30.0,
) -> None:
    """Run `test` on each of the loops. It must end in time and leave no task behind."""

    async def bounded() -> None:
        async with asyncio.timeout(within_s):
            await test()
            await asyncio.sleep(0)
            left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            assert not left, f"tasks left: {left}"

    for loop in loops:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(bounded())


def run_on_both(test: Callable[[], Awaitable[None]]) -> None:
    """Run `test` on asyncio's loop and on uvloop, which production uses."""
    run(test, loops=BOTH)


async def until(condition: Callable[[], object], *, within_s: float = 10.0) -> float:
    """Poll `condition` until it is true; how long it took, in seconds. Raises `TimeoutError`.

    For what a thread, another process or several state machines bring about: no event tells of it.
    """
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    return asyncio.get_running_loop().time() - began
