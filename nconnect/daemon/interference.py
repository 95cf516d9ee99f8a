"""What other programs' firewalls, rules and routes do to the tunnel's packets.

Checked when one of them changes, and every 30 s. A check reads all firewall rules and routes of the machine,
and some programs change theirs all the time; so a pause follows that is many times as long as the check.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

_SETTLE_S = 0.5  # a program that sets up its rules does not send them all at once
_LOOK_S = 30.0  # without a change
_PAUSE_S = 2.0
_REST = 30  # the pause is at least so many times as long as the look took


class Interference:
    """`problems` is for `status`; `run` is a task, `changed` what wakes it."""

    def __init__(self, look: Callable[[], Awaitable[list[str]]], clock: Callable[[], float]) -> None:
        """`look` returns a sentence for each thing that stops packets or sends them elsewhere."""
        self.problems: list[str] = []
        self._look = look
        self._clock = clock
        self._changed = asyncio.Event()
        self._changed.set()

    def changed(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Check when something has changed, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._changed.wait()
                    await asyncio.sleep(_SETTLE_S)
            except TimeoutError:
                pass
            self._changed.clear()
            began = self._clock()
            found = await self._look()
            for problem in found:
                if problem not in self.problems:
                    log.warning("%s", problem)
            self.problems = found
            await asyncio.sleep(max(_PAUSE_S, _REST * (self._clock() - began)))
