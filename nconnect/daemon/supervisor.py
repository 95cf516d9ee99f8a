"""Named tasks that are started again when they fail: with backoff, counted, and logged."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

from nconnect.errors import NconnectError

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
STEADY_AFTER_S = 60.0  # a task that ran this long starts again with the first pause
RECENT_S = 3600.0  # guessed: how long `status` shows a failure


class Supervisor:
    """Runs tasks inside a `TaskGroup`; `restarts` counts by name. Ends only with the group."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.restarts: Counter[str] = Counter()
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, tuple[float, str]] = {}  # the newest of each: when (loop's time), and what
        self.group = group

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run `run()` again and again under this name; a normal return ends it for good."""
        self.tasks[name] = self.group.create_task(self._keep(name, run), name=name)

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        pause_s = FIRST_PAUSE_S
        while True:
            started_at = loop.time()
            try:
                await run()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self.restarts[name] += 1
                self._failures[name] = (loop.time(), f"{type(error).__name__}: {error}")
                log.exception("%s failed and is started again in %g s", name, pause_s)
            else:
                return
            if loop.time() - started_at > STEADY_AFTER_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def problems(self) -> list[str]:
        """What failed in the last hour, a sentence for each task."""
        now = asyncio.get_running_loop().time()
        found = []
        for name, (at, what) in self._failures.items():
            if now - at < RECENT_S:
                count = self.restarts[name]
                times = "once" if count == 1 else f"{count} times"
                found.append(
                    f"the task {name} failed {times}, last {now - at:.0f} s ago, and is started again each"
                    f" time ({' '.join(what.split())}): a mistake of ours, the log has its traceback"
                )
        return found

    def cancel(self) -> None:
        """End all tasks."""
        for task in self.tasks.values():
            task.cancel()


def first_error(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    """Which of a task group's errors to show to a user."""
    errors = list(failed.exceptions)
    while errors:
        error = errors.pop(0)
        if isinstance(error, BaseExceptionGroup):
            errors += error.exceptions
        elif isinstance(error, NconnectError) or not errors:
            return error
    return failed
