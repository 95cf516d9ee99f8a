"""Keeps the handshake counters in the state folder: soon after they moved, and out of the data path's way.

They stop replayed handshakes after a restart. Writing them waits for the disk, and with a thousand peers
they are a hundred kilobytes: so a thread does it, one time after another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from nconnect.errors import HostError
from nconnect.io.files.state import StateStore
from nconnect.tunnel.outputs import CountersMoved

log = logging.getLogger(__name__)

COUNTERS = "handshakes"  # the name of their file in the state folder
SOON_S = 0.05
SAVE_AGAIN_S = 10.0  # on a disk that was full
SHARE = 0.1  # at most this much of the time is spent on it, when handshakes do not end


def stored(store: StateStore) -> dict[str, int]:
    """What the last run kept. Blocks."""
    found = store.load(COUNTERS)
    if not isinstance(found, dict):
        return {}
    return {str(key): value for key, value in found.items() if isinstance(value, int)}


class CounterKeeper:
    """Lives in the loop's thread. `close` after the last `moved`."""

    def __init__(self, store: StateStore, counters: Callable[[], dict[str, int]]) -> None:
        """`counters` gives what is to be kept; it is called in the loop's thread."""
        self._store = store
        self._counters = counters
        self._timer: asyncio.TimerHandle | None = None
        self._saving: asyncio.Task[float] | None = None
        self._failed = False
        self._moved = False  # since the value that is being saved

    def moved(self, _: CountersMoved) -> None:
        self._moved = True
        if self._timer is None and self._saving is None:
            self._later(SOON_S)

    async def close(self) -> None:
        """Keep what they are now; it is on the disk when this returns."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.remove_done_callback(self._saved)
            await asyncio.wait([saving])
        await asyncio.to_thread(self._save, self._counters())

    def _later(self, after_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(after_s, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._moved = False
        work = asyncio.to_thread(self._save, self._counters())
        self._saving = asyncio.get_running_loop().create_task(work, name="save counters")
        self._saving.add_done_callback(self._saved)

    def _saved(self, saving: asyncio.Task[float]) -> None:
        self._saving = None
        if saving.cancelled():
            return
        if self._failed:
            self._later(SAVE_AGAIN_S)
        elif self._moved:
            self._later(max(SOON_S, saving.result() / SHARE))

    def _save(self, counters: dict[str, int]) -> float:
        """How long it took, in seconds."""
        began = time.monotonic()
        try:
            self._store.save(COUNTERS, counters)
        except HostError as error:
            if not self._failed:
                log.warning("%s", error)
            self._failed = True
        else:
            self._failed = False
        return time.monotonic() - began
