"""Removals from a folder are reported, by the real kernel."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from nconnect.io.system.inotify import Watch


@pytest.fixture
def watch() -> Iterator[Watch]:
    with Watch() as made:
        yield made


def told(watch: Watch) -> bool:
    readable, _, _ = select.select([watch.fd], [], [], 0)
    assert bool(readable) is watch.read()
    return bool(readable)


def test_removals_are_told_and_nothing_else(watch: Watch, tmp_path: Path) -> None:
    assert watch.add(tmp_path)
    assert watch.add(tmp_path), "again is harmless"
    made = tmp_path / "made"
    made.write_text("1")
    assert not told(watch)
    made.unlink()
    assert told(watch)
    assert not told(watch)
    made.touch()
    made.rename(tmp_path.parent / f"{tmp_path.name}-moved")
    assert told(watch)


def test_the_folder_itself_goes(watch: Watch, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert not watch.add(folder)
    folder.mkdir()
    assert watch.add(folder)
    folder.rmdir()
    assert told(watch)
    folder.mkdir()
    assert watch.add(folder)
    folder.rename(tmp_path / "elsewhere")
    assert told(watch)


def test_a_file_is_no_folder(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not watch.add(tmp_path / "file")
