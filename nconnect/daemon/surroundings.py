"""Other programs' firewalls, which may stop what we forward: looked at when one of them changed.

To look takes `nft` and reads every rule of the machine, so it is done at most every `PAUSE_S`: some programs
change their rules all the time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

SETTLE_S = 0.5  # a program that sets up its rules does not send them all at once
PAUSE_S = 10.0


class Firewalls:
    """`problems` is for `status`; `run` is a task, `changed` what wakes it."""

    def __init__(self, look: Callable[[], Awaitable[list[str]]]) -> None:
        """`look`: what stops us now, a sentence each."""
        self.problems: list[str] = []
        self._look = look
        self._changed = asyncio.Event()
        self._changed.set()

    def changed(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Look when something changed, for ever."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(SETTLE_S)
            self._changed.clear()
            found = await self._look()
            for problem in found:
                if problem not in self.problems:
                    log.warning("%s", problem)
            self.problems = found
            await asyncio.sleep(PAUSE_S)
