from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from nconnect.daemon import counters
from nconnect.daemon.counters import COUNTERS, CounterKeeper, stored
from nconnect.errors import HostError
from nconnect.io.files.state import StateStore
from nconnect.tunnel.outputs import CountersMoved
from tests.loops import run, until


class SlowStore(StateStore):
    """Each save waits until it is let go, and says in which thread it ran."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.go = threading.Event()
        self.threads: list[int] = []
        self.values: list[dict[str, int]] = []
        self.under_way = 0

    def save(self, name: str, value: Any) -> None:
        self.under_way += 1
        assert self.under_way == 1, "one at a time, or an old value might be the last"
        self.threads.append(threading.get_ident())
        assert self.go.wait(10.0)
        self.values.append(value)
        super().save(name, value)
        self.under_way -= 1


class Full(StateStore):
    """Its disk is full for the first two times."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked = 0

    def save(self, name: str, value: Any) -> None:
        self.asked += 1
        if self.asked <= 2:
            raise HostError("cannot write: no space left on device")
        super().save(name, value)


def test_they_are_kept_soon_and_again_when_they_moved_meanwhile(tmp_path: Path) -> None:
    async def test() -> None:
        store = SlowStore(tmp_path)
        now = {"self": 1}
        keeper = CounterKeeper(store, lambda: dict(now))
        keeper.moved(CountersMoved())
        keeper.moved(CountersMoved())
        await until(lambda: bool(store.threads))
        now["self"] = 2
        keeper.moved(CountersMoved())  # while the first is on its way to the disk
        store.go.set()
        await until(lambda: len(store.values) == 2)
        assert store.values == [{"self": 1}, {"self": 2}]
        assert threading.get_ident() not in store.threads, "the loop waits for no disk"
        await keeper.close()
        assert store.load(COUNTERS) == {"self": 2}

    run(test)


def test_closing_waits_for_the_one_under_way_and_the_newest_is_last(tmp_path: Path) -> None:
    async def test() -> None:
        store = SlowStore(tmp_path)
        now = {"self": 1}
        keeper = CounterKeeper(store, lambda: dict(now))
        keeper.moved(CountersMoved())
        await until(lambda: bool(store.threads))
        now["self"] = 2
        asyncio.get_running_loop().call_later(0.05, store.go.set)
        await keeper.close()
        assert store.values == [{"self": 1}, {"self": 2}]
        assert store.load(COUNTERS) == {"self": 2}

    run(test)


def test_closing_at_once_keeps_what_had_just_moved(tmp_path: Path) -> None:
    async def test() -> None:
        store = StateStore(tmp_path)
        keeper = CounterKeeper(store, lambda: {"self": 7})
        keeper.moved(CountersMoved())
        await keeper.close()
        assert store.load(COUNTERS) == {"self": 7}

    run(test)


def test_a_full_disk_is_said_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "SAVE_AGAIN_S", 0.01)

    async def test() -> None:
        store = Full(tmp_path)
        keeper = CounterKeeper(store, lambda: {"self": 1})
        with caplog.at_level(logging.WARNING):
            keeper.moved(CountersMoved())
            await until(lambda: store.load(COUNTERS) == {"self": 1})
            await keeper.close()
        assert [record.message for record in caplog.records] == ["cannot write: no space left on device"]

    run(test)


@pytest.mark.parametrize(
    ("content", "kept"), [(b'{"self": 3, "x": "y"}', {"self": 3}), (b"[]", {}), (b"{", {}), (None, {})]
)
def test_what_the_last_run_kept(content: bytes | None, kept: dict[str, int], tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / f"{COUNTERS}.json").write_bytes(content)
    assert stored(StateStore(tmp_path)) == kept
