from __future__ import annotations

import os
from pathlib import Path

import pytest

from nconnect.io.files import write_atomically


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_the_mode_is_0600_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "x", b"secret")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "x").read_bytes() == b"secret"


def test_it_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    for data in (b"one", b"", b"x" * 300_000):
        write_atomically(tmp_path / "x", data)
        assert [p.name for p in tmp_path.iterdir()] == ["x"]
        assert (tmp_path / "x").read_bytes() == data


def test_a_reader_keeps_what_it_opened(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x", b"old")
    with (tmp_path / "x").open("rb") as reader:
        write_atomically(tmp_path / "x", b"new")
        assert reader.read() == b"old"


def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "x", b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "x", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_the_owner_is_kept(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x", b"new", owner=(12345, 23456))
    status = (tmp_path / "x").stat()
    assert (status.st_uid, status.st_gid) == (12345, 23456)
