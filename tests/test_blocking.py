"""The watch that finds what blocks an event loop: what it reports, and what it leaves alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from nconnect.io.files.state import StateStore
from tests.blocking import WATCH, Watch
from tests.loops import BOTH


@pytest.fixture
def watch() -> Iterator[Watch]:
    WATCH.begin()
    yield WATCH
    WATCH.end()


def test_a_file_of_the_package_that_is_read_on_the_loop_is_found(watch: Watch, tmp_path: Path) -> None:
    store = StateStore(tmp_path)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(store.load, "nothing")  # as the package would do it
        await asyncio.sleep(0)

    for loop_factory in BOTH:
        watch.begin()
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())
        assert "io.files.trusted.Folder.open_file" in {line.partition(":")[0] for line in watch.end()}


def test_in_a_thread_or_without_a_loop_it_may_block(watch: Watch, tmp_path: Path) -> None:
    async def main() -> None:
        await asyncio.to_thread(StateStore(tmp_path).load, "nothing")

    asyncio.run(main())
    StateStore(tmp_path).load("nothing")
    assert watch.end() == []


def test_what_a_test_itself_does_is_its_own_affair(watch: Watch, tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "file").write_text("text")
        (tmp_path / "file").stat()
        StateStore(tmp_path).load("nothing")

    asyncio.run(main())
    assert watch.end() == []
