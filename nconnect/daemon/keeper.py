"""Keeps what we set on this machine: set again when somebody took it away, but never a fight.

The kernel says (`io.monitor`) that something of ours went, or that the network around us changed. Repairs
come at most once a second, are said in the log, and end after a bound: then somebody else wants it
otherwise, and `status` says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from nconnect.errors import NconnectError
from nconnect.io.monitor import Change, Monitor

log = logging.getLogger(__name__)

SETTLE_S = 0.1  # an interface that goes takes its routes along, a message each
PAUSE_S = 1.0
MAX_REPAIRS = 10  # so many within WINDOW_S are a fight
WINDOW_S = 120.0


class Keeper:
    """One interface's. `run` is a task; it may be started again."""

    def __init__(
        self,
        make_monitor: Callable[[], Monitor],
        *,
        on_network: Callable[[], Awaitable[None]],
        on_firewall: Callable[[], None],
        repair: Callable[[], Awaitable[list[str]]],
        clock: Callable[[], float],
    ) -> None:
        """`on_network`: the machine's network changed. `on_firewall`: another program's rules did.

        `repair`: set again what is gone, and name it.
        """
        self.problem = ""  # for `status`; a sentence
        self.repairs = 0
        self._make_monitor = make_monitor
        self._on_network = on_network
        self._on_firewall = on_firewall
        self._repair = repair
        self._clock = clock
        self._recent: deque[float] = deque(maxlen=MAX_REPAIRS)
        self._failed = False
        self._given_up = False

    async def run(self) -> None:
        """Watch and keep, for ever."""
        loop = asyncio.get_running_loop()
        monitor = self._make_monitor()
        told = asyncio.Event()
        fds = monitor.fds
        try:
            for fd in fds:
                loop.add_reader(fd, told.set)
            monitor.read()  # what we did ourselves
            await self._keep(Change.OURS)
            while True:
                try:
                    async with asyncio.timeout(PAUSE_S if self._failed else None):
                        await told.wait()
                    await asyncio.sleep(SETTLE_S)
                    told.clear()
                    change = monitor.read()
                except TimeoutError:
                    change = Change.OURS  # try what failed again
                if change is not Change.NONE:
                    await self._keep(change)
                    await asyncio.sleep(PAUSE_S - SETTLE_S)
        finally:
            for fd in fds:
                loop.remove_reader(fd)
            monitor.close()

    def forgive(self) -> None:
        """All was set anew on a person's word: begin again."""
        self._recent.clear()
        self._given_up = self._failed = False
        self.problem = ""

    async def _keep(self, change: Change) -> None:
        if Change.FIREWALL in change:
            self._on_firewall()
        if Change.OURS in change and not self._given_up:  # first: what is planned anew needs the device
            await self._mend()
        if Change.NETWORK in change:
            await self._on_network()

    async def _mend(self) -> None:
        try:
            gone = await self._repair()
        except NconnectError as error:
            self._failed = True
            self.problem = f"what was removed cannot be set again: {error}"
            log.error("%s", self.problem)
            self._count(str(error))
            return
        self._failed = False
        self.problem = ""
        if gone:
            self.repairs += 1
            what = gone[0] if len(gone) == 1 else f"{gone[0]} and {len(gone) - 1} more"
            log.warning("somebody removed %s: set again", what)
            self._count(f"something removes {what} again and again")

    def _count(self, why: str) -> None:
        now = self._clock()
        self._recent.append(now)
        if len(self._recent) == MAX_REPAIRS and now - self._recent[0] < WINDOW_S:
            self._given_up, self._failed = True, False
            self.problem = (
                f"{why}: it is left so; find out what else configures this machine's network,"
                " then run `nconnect down` and `nconnect up`"
            )
            log.error("%s", self.problem)
