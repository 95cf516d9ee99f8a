"""`python -m netns_tests.crashing …`: `nconnect …`, in which SIGUSR1 makes the next supervised task fail.

SIGUSR2 prints a line with the supervised tasks, and one with all tasks of the loop.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from nconnect.daemon.supervisor import Supervisor

_killers: dict[str, asyncio.Future[None]] = {}
_turn = 0
_start = Supervisor.start


def start(self: Supervisor, name: str, run: Callable[[], Awaitable[None]]) -> None:
    async def breakable() -> None:
        killer = _killers[name] = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(run())
        try:
            await asyncio.wait([task, killer], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        if killer.done():
            raise RuntimeError(f"{name} was killed by the test")
        task.result()

    _start(self, name, breakable)


def kill_next(*_: Any) -> None:
    global _turn
    names = sorted(_killers)
    killer = _killers[names[_turn % len(names)]]
    _turn += 1
    if not killer.done():
        killer.get_loop().call_soon_threadsafe(killer.set_result, None)


def tell(*_: Any) -> None:
    names = sorted(_killers)
    loop = _killers[names[0]].get_loop()
    print(f"supervised: {', '.join(names)}", flush=True)
    print(f"tasks: {', '.join(sorted(task.get_name() for task in asyncio.all_tasks(loop)))}", flush=True)


if __name__ == "__main__":
    Supervisor.start = start  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, kill_next)
    signal.signal(signal.SIGUSR2, tell)
    from nconnect.cli.app import main

    main()
