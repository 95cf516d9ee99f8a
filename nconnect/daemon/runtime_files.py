"""The lock and the control socket, by which commands find a running daemon.

Both are files in the run folder. When somebody removes them, or the folder, they are made again at once; if
the daemon may not make the folder (its parent belongs to root), as soon as somebody has made it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress

from nconnect.control.server import Backend, ControlServer
from nconnect.errors import HostError
from nconnect.io.files import paths
from nconnect.io.files.run_files import OwnRunFiles, RunFiles
from nconnect.io.system.inotify import Watch

log = logging.getLogger(__name__)

TRY_AGAIN_S = 2.0
_PAUSE_S = 1.0  # rate limit, so that we don't fight a program that keeps deleting them


class Lock:
    """The lock of one interface. It is held from the start until everything is removed. Blocks."""

    def __init__(self, interface: str, files: RunFiles | None = None) -> None:
        """Take it; raises `HostError`. `files` makes and removes it; absent, this process does."""
        self.interface = interface
        self.files = files or OwnRunFiles(interface)
        self.fd = self.files.lock()

    def renew(self) -> bool:
        """Take it again if its file was removed, and say whether it was. Raises `HostError`."""
        if paths.holds_lock(self.interface, self.fd):
            return False
        fresh = self.files.lock()
        os.close(self.fd)
        self.fd = fresh
        return True

    def release(self) -> None:
        self.files.unlock(self.fd)


class RuntimeFiles:
    """One interface's: keeps its lock, and serves on its control socket."""

    def __init__(self, lock: Lock, backend: Backend, has_readers: Callable[[], bool] = lambda: False) -> None:
        """`has_readers`: whether users who are not root may ask for something."""
        self._has_readers = has_readers
        self._let_in = False  # all users may connect
        self._told = asyncio.Event()
        self._lock = lock
        self._path = paths.socket_path(lock.interface)
        self._files = lock.files
        self._backend = backend
        self._server: ControlServer | None = None
        self._failed = ""
        self._closed = False
        self._changing = asyncio.Lock()  # else what `close` removes would be made again

    async def listen(self) -> None:
        """Serve on the control socket. Raises `HostError`."""
        listener = await asyncio.to_thread(self._files.listen)
        self._let_in = False
        await self._follow_readers()
        self._server = await ControlServer.on(listener, self._path, self._backend)

    def look(self) -> None:
        """The configuration may name other readers: `run` looks."""
        self._told.set()

    async def _follow_readers(self) -> None:
        if self._let_in != (everybody := self._has_readers()):
            await asyncio.to_thread(self._files.let_in, everybody=everybody)
            self._let_in = everybody

    async def close(self) -> None:
        """Serve no more, and remove the socket; the lock stays."""
        async with self._changing:
            self._closed = True
            await self._stop_serving()

    async def _stop_serving(self) -> None:
        if self._server is not None:
            await asyncio.to_thread(self._files.remove_socket)
            await self._server.close()

    async def run(self) -> None:
        """Make them again whenever somebody removes them, until cancelled."""
        loop = asyncio.get_running_loop()
        with Watch() as watch:
            told = self._told

            def on_removal() -> None:
                watch.read()
                told.set()

            loop.add_reader(watch.fd, on_removal)
            try:
                while True:
                    told.clear()
                    watching = await asyncio.to_thread(watch.add, paths.run_dir())
                    server = self._server
                    # Not cut off when this is cancelled: `close` waits until it is done.
                    kept = await asyncio.shield(self._keep())
                    if self._server is not server:
                        await asyncio.sleep(_PAUSE_S)
                    if kept and not watching:
                        continue  # the folder is new
                    with suppress(TimeoutError):
                        async with asyncio.timeout(None if kept else TRY_AGAIN_S):
                            await told.wait()
            finally:
                loop.remove_reader(watch.fd)

    async def _keep(self) -> bool:
        """Make again what is gone; whether all is there."""
        async with self._changing:
            if self._closed:
                return True
            try:
                if await asyncio.to_thread(self._lock.renew):
                    log.warning("somebody removed %s: made again", paths.lock_path(self._lock.interface))
                if self._server is None or not await asyncio.to_thread(self._server.is_reachable):
                    await self._stop_serving()
                    await self.listen()
                    log.warning("somebody removed %s: made again", self._path)
                await self._follow_readers()
            except HostError as error:
                if str(error) != self._failed:
                    self._failed = str(error)
                    log.error("nobody can ask this daemon any more, and it goes on: %s", error)
                return False
            self._failed = ""
            return True
