"""The lock and the control socket come back when somebody removes them; a real folder, a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from nconnect.control.client import ControlClient
from nconnect.daemon import runtime_files
from nconnect.daemon.runtime_files import Lock, RuntimeFiles
from nconnect.io.files import paths
from nconnect.io.files.run_files import OwnRunFiles


class Asked:
    """A backend that can be asked to stop."""

    def __init__(self) -> None:
        self.stops = 0

    def request_stop(self) -> None:
        self.stops += 1


@pytest.fixture(autouse=True)
def _run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCONNECT_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(runtime_files, "_PAUSE_S", 0.01)
    monkeypatch.setattr(runtime_files, "TRY_AGAIN_S", 0.05)


def running(body: Callable[[RuntimeFiles, Asked], Awaitable[Any]]) -> None:
    async def main() -> None:
        lock, backend = Lock("nc9"), Asked()
        made = RuntimeFiles(lock, backend)  # type: ignore[arg-type]
        await made.listen()
        task = asyncio.create_task(made.run())
        await asyncio.sleep(0.02)
        try:
            await body(made, backend)
        finally:
            await made.close()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            lock.release()

    asyncio.run(main())
    assert not paths.socket_path("nc9").exists()
    assert not paths.lock_path("nc9").exists()


async def until_it_can_be_asked(backend: Asked) -> None:
    before = backend.stops
    async with asyncio.timeout(5):
        while not (paths.socket_path("nc9").exists() and paths.is_locked("nc9")):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await asyncio.to_thread(ControlClient("nc9").down)
    assert backend.stops == before + 1


@pytest.mark.parametrize("what", ["socket", "lock", "folder", "moved", "socket and lock"])
def test_what_is_removed_is_made_again(what: str) -> None:
    async def body(files: RuntimeFiles, backend: Asked) -> None:
        for _ in range(2):
            await until_it_can_be_asked(backend)
            if what == "folder":
                shutil.rmtree(paths.run_dir())
            elif what == "moved":
                paths.run_dir().rename(paths.run_dir().with_name(f"moved-{backend.stops}"))
            if "socket" in what:
                paths.socket_path("nc9").unlink()
            if "lock" in what:
                paths.lock_path("nc9").unlink()
            await until_it_can_be_asked(backend)

    running(body)


def test_a_folder_that_cannot_be_made_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(_: RuntimeFiles, backend: Asked) -> None:
        while not paths.run_dir().is_file():  # a file is in the way, for root too
            shutil.rmtree(paths.run_dir(), ignore_errors=True)
            paths.run_dir().touch()  # unless the folder has been made again already
        async with asyncio.timeout(5):
            while "nobody can ask" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.3)
        assert caplog.text.count("nobody can ask") == 1, "said once"
        paths.run_dir().unlink()
        await until_it_can_be_asked(backend)

    running(body)


@pytest.mark.parametrize("cancelled", [False, True])
def test_nothing_is_left_that_was_being_made_again_at_the_end(
    cancelled: bool,
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(OwnRunFiles):
        def listen(self) -> socket.socket:
            begun.set()
            go_on.wait(5)
            return super().listen()

    async def main() -> None:
        lock = Lock("nc9", Slow("nc9"))
        made = RuntimeFiles(lock, Asked())  # type: ignore[arg-type]
        go_on.set()
        await made.listen()
        begun.clear()
        go_on.clear()
        task = asyncio.create_task(made.run())
        paths.socket_path("nc9").unlink()
        await asyncio.to_thread(begun.wait, 5)
        if cancelled:
            task.cancel()
        closing = asyncio.create_task(made.close())
        await asyncio.sleep(0.05)  # it has removed the old socket, unless it waits
        go_on.set()
        await closing
        await asyncio.sleep(0.05)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        lock.release()

    asyncio.run(main())
    assert os.listdir(paths.run_dir()) == []


def test_another_daemons_files_are_left_alone() -> None:
    """Nothing of ours is removed by name alone when we end."""

    async def main() -> None:
        lock, backend = Lock("nc9"), Asked()
        made = RuntimeFiles(lock, backend)  # type: ignore[arg-type]
        await made.listen()
        paths.socket_path("nc9").unlink()
        paths.lock_path("nc9").unlink()
        second, others = Lock("nc9"), Asked()
        other = RuntimeFiles(second, others)  # type: ignore[arg-type]
        await other.listen()
        await made.close()
        lock.release()
        await until_it_can_be_asked(others)
        await other.close()
        second.release()

    asyncio.run(main())
    assert os.listdir(paths.run_dir()) == []
