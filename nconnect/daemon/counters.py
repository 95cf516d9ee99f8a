"""Stores the handshake counters in the state folder soon after they have changed.

They protect against replayed handshakes after a restart. Writing waits for the disk, and a thousand peers'
counters are a hundred kilobytes; so a thread writes them, one version after another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from nconnect.errors import HostError
from nconnect.io.files.state import StateStore
from nconnect.tunnel.outputs import CountersMoved

log = logging.getLogger(__name__)

COUNTERS = "handshakes"  # the name of their file in the state folder
_SOON_S = 0.05
SAVE_AGAIN_S = 10.0  # on a disk that was full
SHARE = 0.1  # at most this share of the time is spent on writing, however many handshakes there are


def stored(store: StateStore) -> dict[str, int]:
    """The counters that the last run stored. Blocks."""
    found = store.load(COUNTERS)
    if not isinstance(found, dict):
        return {}
    return {str(key): value for key, value in found.items() if isinstance(value, int)}


class CounterKeeper:
    """Lives in the loop's thread. `close` after the last `moved`."""

    def __init__(self, store: StateStore, counters: Callable[[], dict[str, int]]) -> None:
        """`counters` returns the current values; it is called in the loop's thread."""
        self._store = store
        self._counters = counters
        self._saving: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._failed = False
        self._moved = False  # since the value that is being saved

    def moved(self, _: CountersMoved | None = None) -> None:
        self._moved = True
        if self._saving is None or self._saving.done():
            self._saving = asyncio.get_running_loop().create_task(self._save(), name="save counters")

    async def close(self) -> None:
        """Store the current values; they are on the disk when this returns."""
        self._closing.set()
        self.moved()
        if self._saving is not None:
            await self._saving

    async def _save(self) -> None:
        """Save until nothing has changed since: one version after another, so that the newest is last."""
        pause_s = _SOON_S
        while self._moved:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._closing.wait()
            self._moved = False
            began = time.monotonic()
            try:
                await asyncio.to_thread(self._store.save, COUNTERS, self._counters())
            except HostError as error:
                if not self._failed:
                    log.warning("%s", error)
                self._failed, pause_s = True, SAVE_AGAIN_S
                self._moved = self._moved or not self._closing.is_set()
            else:
                self._failed, pause_s = False, max(_SOON_S, (time.monotonic() - began) / SHARE)
