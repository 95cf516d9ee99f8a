"""Keeps the host's state as we set it, and follows changes of the machine's network.

The kernel tells over netlink (`io.monitor`) that something of ours was removed, or that the network or
another program's firewall changed. Besides, everything of ours is looked at every 30 s, also while others
change something all the time, so that no lost message leaves a gap for good. What was removed is set again,
with a line in the log. Rate limit: a look each half second, and ten repairs within two minutes; then another
program wants it otherwise, we stop, and `status` says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from math import inf

from nconnect.errors import NconnectError
from nconnect.io.system.monitor import Change, Monitor

log = logging.getLogger(__name__)

_SETTLE_S = 0.1  # an interface that is removed takes its routes along, a message for each
PAUSE_S = 0.4  # after a look, before the next one
NETWORK_PAUSE_S = 1.0  # between two plans: each reads all addresses and routes
_LOOK_S = 30.0  # from one look at all of ours to the next
MAX_REPAIRS = 10  # so many within _WINDOW_S mean that another program wants it otherwise
_WINDOW_S = 120.0


class Reconciler:
    """One interface's. `run` is a task; it may be started again."""

    def __init__(
        self,
        make_monitor: Callable[[], Monitor],
        *,
        on_network: Callable[[], Awaitable[None]],
        on_surroundings: Callable[[], None],
        repair: Callable[[], Awaitable[list[str]]],
        clock: Callable[[], float],
    ) -> None:
        """`on_network`: the machine's network changed. `on_surroundings`: something else of this machine did
        that may stop packets of the tunnel, or send them elsewhere.

        `repair`: set again what is gone, and name it.
        """
        self.problem = ""  # for `status`; a sentence
        self._make_monitor = make_monitor
        self._on_network = on_network
        self._on_surroundings = on_surroundings
        self._repair = repair
        self._clock = clock
        self._recent: deque[float] = deque(maxlen=MAX_REPAIRS)
        self._failed = False
        self._given_up = False
        self._looked_at = -inf
        self._planned_at = -inf

    async def run(self) -> None:
        """Follow changes and repair, until cancelled."""
        monitor = self._make_monitor()
        try:
            monitor.read()  # what we did ourselves
            change = Change.OURS
            while True:
                change = await self._keep(change)
                await asyncio.sleep(PAUSE_S)
                try:
                    async with asyncio.timeout(self._patience_s(change)):
                        await _readable(monitor.fds)
                    await asyncio.sleep(_SETTLE_S)
                    change |= monitor.read()
                except TimeoutError:
                    pass
                if self._clock() >= self._look_at:
                    change |= Change.OURS
        finally:
            monitor.close()

    def _patience_s(self, left: Change) -> float:
        """How long to wait for a message; `left` is what is still to be followed."""
        at = self._look_at
        if Change.NETWORK in left:
            at = min(at, self._planned_at + NETWORK_PAUSE_S)
        return max(0.0, at - self._clock())

    @property
    def _look_at(self) -> float:
        """When all of ours is to be looked at, whatever the messages say."""
        return self._looked_at + (PAUSE_S if self._failed else _LOOK_S)

    def forgive(self) -> None:
        """A reload has set everything anew: forget earlier repairs."""
        self._recent.clear()
        self._given_up = self._failed = False
        self.problem = ""

    async def _keep(self, change: Change) -> Change:
        """Follow the changes; which of them has to wait for its turn."""
        if change & (Change.FIREWALL | Change.POLICY | Change.NETWORK):
            self._on_surroundings()
        if Change.OURS in change:  # first: what is planned anew needs the device
            if not self._given_up:
                await self._mend()
            self._looked_at = self._clock()
        if Change.NETWORK not in change:
            return Change.NONE
        if self._clock() - self._planned_at < NETWORK_PAUSE_S:
            return Change.NETWORK
        await self._on_network()
        self._planned_at = self._clock()
        return Change.NONE

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
            what = gone[0] if len(gone) == 1 else f"{gone[0]} and {len(gone) - 1} more"
            log.warning("somebody removed or changed %s: set again", what)
            self._count(f"something removes {what} again and again")

    def _count(self, why: str) -> None:
        now = self._clock()
        self._recent.append(now)
        if len(self._recent) == MAX_REPAIRS and now - self._recent[0] < _WINDOW_S:
            self._given_up, self._failed = True, False
            self.problem = (
                f"{why}: it is left so; find out what else configures this machine's network,"
                " then run `nconnect down` and `nconnect up`"
            )
            log.error("%s", self.problem)


async def _readable(fds: Iterable[int]) -> None:
    """Wait until one of the descriptors has something to read.

    They are watched only while somebody waits: what stays unread meanwhile must not spin the loop.
    """
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for fd in fds:
        loop.add_reader(fd, told.set)
    try:
        await told.wait()
    finally:
        for fd in fds:
            loop.remove_reader(fd)
