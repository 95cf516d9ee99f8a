"""Whether the configuration's file still says what is in force, for `status`.

The file is looked at whenever somebody asks, since it may lie where the daemon itself cannot watch it. All of
it is read only when it has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import fields

from nconnect.daemon.reload import FIXED
from nconnect.daemon.settings import InForce
from nconnect.errors import NconnectError
from nconnect.invite.table import Table
from nconnect.model import Config

WAIT_S = 1.0  # for a look, which a hung disk may hold: then what the last one found is said
MAX_NAMED = 4  # changes in the sentence; the rest are counted


class FileWatch:
    """One interface's."""

    def __init__(self, stamp: Callable[[], object], load: Callable[[], Table], in_force: InForce) -> None:
        """`stamp`: what changes with the file. `load`: read all of it. Both block."""
        self._stamp = stamp
        self._load = load
        self._in_force = in_force
        self._judged: tuple[object, Config] | None = None
        self._problem = ""
        self._looking: asyncio.Task[None] | None = None

    @property
    def problem(self) -> str:
        """As the last look found it: a sentence; "" while the file says what is in force."""
        is_current = self._judged is not None and self._judged[1] is self._in_force.config
        return self._problem if is_current else ""

    async def look(self) -> None:
        """Look, once for all who ask at the same time; for `WAIT_S` at most."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        await asyncio.wait((self._looking,), timeout=WAIT_S)

    async def _look(self) -> None:
        config = self._in_force.config
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
        fixed = any(getattr(config, name) != getattr(fresh, name) for name in FIXED)
        command = "`nconnect down`, then `nconnect up`" if fixed else "`nconnect reload`"
        return f"the configuration file differs from what is in force ({said}): to use it, run {command}"


def differences(old: Config, fresh: Config) -> list[str]:
    """What changes from one to the other, in words without any value: some are secret."""
    was = {peer.name: peer for peer in old.peers}
    now = {peer.name: peer for peer in fresh.peers}
    found = [f"{name} is no peer any more" for name in was if name not in now]
    found += [f"peer {name} is new" for name in now if name not in was]
    found += [f"peer {name} changes" for name in now if name in was and now[name] != was[name]]
    for field in fields(Config):
        if field.name != "peers" and getattr(old, field.name) != getattr(fresh, field.name):
            found.append(f"{field.name} changes")
    return found
