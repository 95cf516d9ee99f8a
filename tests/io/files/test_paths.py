from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nconnect.errors import HostError
from nconnect.io.files import paths


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCONNECT_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("NCONNECT_STATE_DIR", str(tmp_path / "state"))


def test_the_environment_overrides_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.socket_path("nc0") == tmp_path / "run" / "nc0.sock"
    assert paths.state_dir("nc0") == tmp_path / "state" / "nc0"
    monkeypatch.delenv("NCONNECT_RUN_DIR")
    monkeypatch.setenv("NCONNECT_STATE_DIR", "")
    assert paths.socket_path("nc0") == Path("/run/nconnect/nc0.sock")
    assert paths.state_dir("nc0") == Path("/var/lib/nconnect/nc0")


def test_the_state_folder_is_secret_even_if_it_was_not() -> None:
    folder = paths.make_state_dir("nc0")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    assert paths.make_state_dir("nc0").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(HostError, match="cannot make the folder"):
        paths.make_run_dir()


def test_one_daemon_for_each_interface() -> None:
    assert not paths.is_locked("nc0")
    lock = paths.acquire_lock("nc0")
    assert paths.is_locked("nc0")
    with pytest.raises(HostError, match=f"nc0 is up already \\(process {os.getpid()}\\): see"):
        paths.acquire_lock("nc0")
    paths.release_lock("nc1", paths.acquire_lock("nc1"))
    paths.release_lock("nc0", lock)
    assert not paths.is_locked("nc0")
    assert list(paths.run_dir().iterdir()) == []
    paths.release_lock("nc0", paths.acquire_lock("nc0"))


def test_a_killed_daemon_holds_no_lock() -> None:
    code = (
        "from nconnect.io.files.paths import acquire_lock; import os;"
        "acquire_lock('nc0'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert paths.lock_path("nc0").exists()
    assert not paths.is_locked("nc0")
    paths.release_lock("nc0", paths.acquire_lock("nc0"))


def test_a_lock_whose_file_was_removed_is_not_held_and_anothers_is_not_removed() -> None:
    lock = paths.acquire_lock("nc0")
    assert paths.holds_lock("nc0", lock)
    paths.lock_path("nc0").unlink()
    assert not paths.holds_lock("nc0", lock)
    other = paths.acquire_lock("nc0")
    paths.release_lock("nc0", lock)
    assert paths.is_locked("nc0")
    paths.release_lock("nc0", other)


def test_the_lock_is_given_up_when_its_folder_has_gone() -> None:
    lock = paths.acquire_lock("nc0")
    shutil.rmtree(paths.run_dir())
    paths.release_lock("nc0", lock)
    assert not paths.is_locked("nc0")


def test_the_lock_is_not_inherited() -> None:
    lock = paths.acquire_lock("nc0")
    assert not os.get_inheritable(lock)
    paths.release_lock("nc0", lock)


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    paths.make_run_dir()
    paths.lock_path("nc0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="cannot open"):
        paths.acquire_lock("nc0")
    assert not (tmp_path / "elsewhere").exists()
