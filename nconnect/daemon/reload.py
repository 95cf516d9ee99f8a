"""The configuration's file while the interface is up: put in force as a whole or not at all, and compared."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import fields, replace

from nconnect.daemon.events import Bus, Reloaded
from nconnect.daemon.host_state import HostState
from nconnect.daemon.settings import InForce
from nconnect.errors import ConfigError, NconnectError
from nconnect.invite.table import PeerTable
from nconnect.model import Config

log = logging.getLogger(__name__)

# What a running daemon cannot change: these need a new device, or another identity.
FIXED = ("interface", "seed", "identifier", "address", "mtu", "cipher", "network", "node", "metrics")
# Of `network`, what can change nevertheless.
DIRECT = ("direct", "direct_port", "port_mapping", "stun")
WAIT_S = 1.0  # for a look at the file: if the disk hangs, `status` has the result of the last look
MAX_NAMED = 4  # changes in the sentence; the rest are counted


class Reload:
    """One interface's. `problem` is a sentence for `status`: why the file is not in force."""

    def __init__(
        self,
        load: Callable[[], PeerTable],
        in_force: InForce,
        host_state: HostState,
        bus: Bus,
        *,
        prepare: Callable[[Config], Awaitable[None]],
    ) -> None:
        """`load` reads all of it; it blocks. `prepare`: get what else a configuration needs, before anything
        is changed; may raise `NconnectError`."""
        self.problem = ""
        self._load = load
        self._in_force = in_force
        self._host_state = host_state
        self._bus = bus
        self._prepare = prepare
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
        if changed := fixed_changes(self._in_force.file.config, fresh):
            raise ConfigError(
                f"{', '.join(changed)} cannot change while {old.interface} is up:"
                " run `nconnect down`, then `nconnect up`"
            )
        await self._prepare(fresh)
        await self._host_state.change(table)
        self._bus.publish(Reloaded())
        await self._host_state.end_flows(old)

    def in_background(self) -> None:
        """As `apply`, for a signal: errors go to the log."""
        task = self._apply_or_say_why()
        self._signalled = asyncio.get_running_loop().create_task(task, name="reload")

    async def _apply_or_say_why(self) -> None:
        """Log an error, and show it in `status` until a reload succeeds."""
        try:
            await self.apply()
        except NconnectError as error:
            log.error("reload: %s", error)
            first = str(error).partition("\n")[0]
            self.problem = (
                f"the configuration file is not applied: {first}; correct it, then run `nconnect reload`"
            )


class FileWatch:
    """Whether the file still says what is in force, for `status`.

    It is looked at whenever somebody asks, since it may lie where the daemon itself cannot watch it. All of
    it is read only when it has changed.
    """

    def __init__(self, stamp: Callable[[], object], load: Callable[[], PeerTable], in_force: InForce) -> None:
        """`stamp`: what changes with the file. `load`: read all of it. Both block."""
        self._stamp = stamp
        self._load = load
        self._in_force = in_force
        self._judged: tuple[object, Config] | None = None
        self._problem = ""
        self._looking: asyncio.Task[None] | None = None

    @property
    def problem(self) -> str:
        """The result of the last look: a sentence; "" while the file says what is in force."""
        is_current = self._judged is not None and self._judged[1] is self._in_force.file.config
        return self._problem if is_current else ""

    async def look(self) -> None:
        """Look at the file, once for all who ask at the same time; waits `WAIT_S` at most."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        await asyncio.wait((self._looking,), timeout=WAIT_S)

    async def _look(self) -> None:
        config = self._in_force.file.config
        stamp = await asyncio.to_thread(self._stamp_now)
        if self._judged is not None and self._judged[0] == stamp and self._judged[1] is config:
            return
        problem = await asyncio.to_thread(self._judge, config)
        self._judged, self._problem = (stamp, config), problem

    def _stamp_now(self) -> object:
        try:
            return self._stamp()
        except (NconnectError, OSError) as error:
            return str(error)

    def _judge(self, config: Config) -> str:
        try:
            fresh = self._load().config
        except NconnectError as error:
            first = str(error).partition("\n")[0]
            return (
                f"the configuration file has changed and cannot be put in force: {first}; correct it, then"
                " run `nconnect reload`"
            )
        changed = differences(config, fresh)
        if not changed:
            return ""
        more = f" and {len(changed) - MAX_NAMED} more" if len(changed) > MAX_NAMED else ""
        said = ", ".join(changed[:MAX_NAMED]) + more
        command = (
            "`nconnect down`, then `nconnect up`" if fixed_changes(config, fresh) else "`nconnect reload`"
        )
        return f"the configuration file differs from what is in force ({said}): to use it, run {command}"


def fixed_changes(old: Config, fresh: Config) -> list[str]:
    """The names of what differs and needs a new start."""
    kept = {name: getattr(old.network, name) for name in DIRECT}
    comparable = replace(fresh, network=replace(fresh.network, **kept))
    return [name for name in FIXED if getattr(comparable, name) != getattr(old, name)]


def differences(old: Config, fresh: Config) -> list[str]:
    """What differs, in words; without values, since some are secret."""
    was = {peer.name: peer for peer in old.peers}
    now = {peer.name: peer for peer in fresh.peers}
    found = [f"{name} is no peer any more" for name in was if name not in now]
    found += [f"peer {name} is new" for name in now if name not in was]
    found += [f"peer {name} changes" for name in now if name in was and now[name] != was[name]]
    for field in fields(Config):
        if field.name != "peers" and getattr(old, field.name) != getattr(fresh, field.name):
            found.append(f"{field.name} changes")
    return found
