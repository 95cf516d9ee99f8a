"""When `status` says that the file differs from what is in force, and in which words."""

from __future__ import annotations

import asyncio
import dataclasses
import threading

import pytest

from nconnect.daemon import reload
from nconnect.daemon.reload import FileWatch, differences
from nconnect.daemon.settings import InForce
from nconnect.errors import ConfigError, NconnectError
from nconnect.invite.table import PeerTable
from nconnect.model import Config, NknAddress, PeerConfig

LAPTOP = PeerConfig("laptop", NknAddress("laptop", bytes(32)), ())
BARE = Config("nc7", b"s" * 32, "gpu", (), peers=(LAPTOP,))


class File:
    """The file and what is in force; `loads` counts how often all of it was read."""

    def __init__(self) -> None:
        self.text: Config | NconnectError = BARE
        self.in_force = InForce(PeerTable(BARE, {}))
        self.gone = False
        self.edits = self.loads = 0
        self.watch = FileWatch(self._stamp, self._load, self.in_force)

    def _stamp(self) -> int:
        if self.gone:
            raise ConfigError("there is no file")
        return self.edits

    def _load(self) -> PeerTable:
        self.loads += 1
        if self.gone:
            raise ConfigError("there is no file")
        if isinstance(self.text, NconnectError):
            raise self.text
        return PeerTable(self.text, {})

    def edit(self, text: Config | NconnectError) -> None:
        self.text = text
        self.edits += 1

    def look(self, times: int = 1) -> str:
        for _ in range(times):
            asyncio.run(self.watch.look())
        return self.watch.problem


def test_a_file_that_stays_as_it_is_is_read_once() -> None:
    file = File()
    assert file.look(10) == ""
    assert file.loads == 1


def test_what_would_change_is_said_until_it_is_in_force() -> None:
    file = File()
    file.look()
    file.edit(dataclasses.replace(BARE, inbound=True, peers=()))
    assert file.look() == (
        "the configuration file differs from what is in force (laptop is no peer any more, inbound changes):"
        " to use it, run `nconnect reload`"
    )
    loads = file.loads
    file.look(5)
    assert file.loads == loads
    assert isinstance(file.text, Config)
    file.in_force.put(PeerTable(file.text, {}))  # reloaded
    assert file.watch.problem == "", "at once"
    assert file.look() == ""


def test_a_file_that_cannot_be_read_now_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "WAIT_S", 0.01)
    file, disk = File(), threading.Event()
    stamp = file._stamp
    file.watch._stamp = lambda: disk.wait(10) and stamp()

    async def ask() -> None:
        for _ in range(9):
            await file.watch.look()
        assert threading.active_count() <= before + 1, "one look for all of them"
        assert file.watch.problem == ""
        disk.set()
        assert file.watch._looking is not None
        await file.watch._looking
        assert "inbound changes" in file.watch.problem

    before = threading.active_count()
    file.edit(dataclasses.replace(BARE, inbound=True))
    asyncio.run(ask())


def test_one_that_was_put_back_is_no_problem_any_more() -> None:
    file = File()
    file.edit(dataclasses.replace(BARE, inbound=True))
    assert file.look()
    file.edit(dataclasses.replace(BARE))
    assert file.look() == ""


@pytest.mark.parametrize("gone", [False, True])
def test_a_broken_file_and_one_that_is_gone(gone: bool) -> None:
    file = File()
    file.look()
    file.edit(ConfigError(["line 3: what is this", "line 4: and this"]))
    file.gone = gone
    assert file.look() == (
        "the configuration file has changed and cannot be put in force:"
        f" {'there is no file' if gone else 'line 3: what is this'}; correct it, then run `nconnect reload`"
    )


def test_what_needs_a_new_start_names_that() -> None:
    file = File()
    file.edit(dataclasses.replace(BARE, mtu=1400, seed=b"x" * 32))
    said = file.look()
    assert said.endswith("(seed changes, mtu changes): to use it, run `nconnect down`, then `nconnect up`")
    assert "xx" not in said


def test_each_kind_of_difference() -> None:
    other = dataclasses.replace(LAPTOP, name="other")
    narrower = dataclasses.replace(LAPTOP, allow=())
    assert differences(BARE, BARE) == []
    assert differences(BARE, dataclasses.replace(BARE, peers=(narrower, other))) == [
        "peer other is new",
        "peer laptop changes",
    ]
    peers = tuple(dataclasses.replace(LAPTOP, name=f"p{n}") for n in range(9))
    file = File()
    file.edit(dataclasses.replace(BARE, peers=peers))
    assert "peer p2 is new and 6 more)" in file.look()
