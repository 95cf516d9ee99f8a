"""Configuration and table of peers, read again while the interface is up: all is put in force, or nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nconnect.daemon.events import Bus, PeersChanged, Reloaded
from nconnect.daemon.host_state import HostState
from nconnect.daemon.settings import InForce
from nconnect.errors import ConfigError, NconnectError
from nconnect.invite.table import Table

log = logging.getLogger(__name__)

# What a running daemon cannot change: these need a new device, or another identity.
FIXED = ("interface", "seed", "identifier", "address", "mtu", "cipher", "network", "node", "metrics")


class Reload:
    """One interface's. `problem` is a sentence for `status`: why the file is not in force."""

    def __init__(self, load: Callable[[], Table], in_force: InForce, host_state: HostState, bus: Bus) -> None:
        """`load` reads all of it; it blocks."""
        self.problem = ""
        self._load = load
        self._in_force = in_force
        self._host_state = host_state
        self._bus = bus
        self._lock = asyncio.Lock()
        self._signalled: asyncio.Task[None] | None = None  # the newest; the loop keeps none

    async def apply(self) -> None:
        """Put the file as it is now in force. Peers and what is provided change at once.

        Raises `NconnectError` when it is wrong, or changes what is fixed; then nothing has changed.
        """
        async with self._lock:
            await self._apply()
            self.problem = ""

    async def _apply(self) -> None:
        table = await asyncio.to_thread(self._load)
        old, fresh = self._in_force.config, table.config
        changed = [name for name in FIXED if getattr(fresh, name) != getattr(old, name)]
        if changed:
            raise ConfigError(
                f"{', '.join(changed)} cannot change while {old.interface} is up:"
                " run `nconnect down`, then `nconnect up`"
            )
        self._bus.publish(PeersChanged(fresh.peers))
        try:
            await self._host_state.change(table)
        except NconnectError:
            self._bus.publish(PeersChanged(old.peers))
            raise
        self._bus.publish(Reloaded())
        await self._host_state.end_flows(old)

    def in_background(self) -> None:
        """For a signal: nobody waits for an answer."""
        task = self._apply_or_say_why()
        self._signalled = asyncio.get_running_loop().create_task(task, name="reload")

    async def _apply_or_say_why(self) -> None:
        """What is wrong is in the log, and in `status` until a reload succeeds."""
        try:
            await self.apply()
        except NconnectError as error:
            log.error("reload: %s", error)
            first = str(error).partition("\n")[0]
            self.problem = (
                f"the configuration file is not applied: {first}; correct it, then run `nconnect reload`"
            )
