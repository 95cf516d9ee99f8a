from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nconnect.errors import HostError
from nconnect.io.files import paths
from tests.others import BECOME, UID, becomes_a_user


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


# An ordinary user, in a process of their own: who started a process decides.


def ask(expression: str, **environment: str) -> str:
    """What a process of that user says to an expression of `paths` and `config_file`."""
    code = (
        "from nconnect.errors import HostError\nfrom nconnect.io.files import config_file, paths\n"
        f"try: print({expression})\nexcept HostError as error: print('refused:', error)"
    )
    done = subprocess.run(
        [*BECOME, sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "HOME": "/home/someone", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@becomes_a_user
def test_folders_are_their_own() -> None:
    xdg = {"XDG_CONFIG_HOME": "/a", "XDG_STATE_HOME": "/b", "XDG_RUNTIME_DIR": "/c"}
    where = "config_file.own_path(), paths.state_dir('nc0'), paths.socket_path('nc0'), paths.node_dir(80)"
    expected = "/a/nconnect/nc0.toml /b/nconnect/nc0 /c/nconnect/nc0.sock /b/nconnect/standalone-node-80"
    assert ask(f"*map(str, ({where}))", **xdg) == expected
    expected = (
        "/home/someone/.config/nconnect/nc0.toml /home/someone/.local/state/nconnect/nc0"
        f" /tmp/nconnect-{UID}/nc0.sock /home/someone/.local/state/nconnect/standalone-node-80"
    )
    assert ask(f"*map(str, ({where}))") == expected
    assert ask(f"*map(str, ({where}))", XDG_CONFIG_HOME="relative") == expected


@becomes_a_user
def test_the_run_folder_is_closed_to_others(tmp_path: Path) -> None:
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    os.chown(runtime, UID, 0)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == 0 and parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o011)
    tmp_path.chmod(0o755)
    made = runtime / "nconnect"
    assert ask("paths.make_run_dir()", XDG_RUNTIME_DIR=str(runtime)) == str(made)
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o777)
    ask("paths.make_run_dir()", XDG_RUNTIME_DIR=str(runtime))
    assert made.stat().st_mode & 0o777 == 0o700
    os.chown(made, 0, 0)
    assert "another user's" in ask("paths.make_run_dir()", XDG_RUNTIME_DIR=str(runtime))
    made.rmdir()
    made.symlink_to(runtime)
    assert "refused: " in ask("paths.make_run_dir()", XDG_RUNTIME_DIR=str(runtime))


@becomes_a_user
def test_another_users_folder_in_tmp_is_asked_by_no_command() -> None:
    planted = Path(f"/tmp/nconnect-{UID}")
    planted.mkdir()
    try:
        for asked in ("asked_socket_path", "socket_path", "lock_path", "door_path", "is_locked"):
            assert "refused: cannot use the folder" in ask(f"paths.{asked}('nc0')")
        os.chown(planted, UID, 0)
        assert ask("paths.socket_path('nc0')").strip() == f"{planted}/nc0.sock"
    finally:
        planted.rmdir()


@becomes_a_user
def test_commands_mean_their_own_daemon_and_file_first(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == 0 and parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o011)
    roots, own = tmp_path / "roots", tmp_path / "own" / "nconnect"
    roots.mkdir()
    own.mkdir(parents=True)
    asked = (
        f"(setattr(paths, 'RUN_DIR', __import__('pathlib').Path({str(roots)!r})),"
        f" setattr(config_file, 'CONFIG_DIR', __import__('pathlib').Path({str(roots)!r})),"
        " str(paths.asked_socket_path('nc0')) + ' ' + str(config_file.choose_path(None)))[-1]"
    )
    xdg = {"XDG_CONFIG_HOME": str(own.parent), "XDG_RUNTIME_DIR": str(own.parent)}
    assert ask(asked, **xdg) == f"{own}/nc0.sock {roots}/nc0.toml"
    (roots / "nc0.sock").touch()
    assert ask(asked, **xdg) == f"{roots}/nc0.sock {roots}/nc0.toml"
    (own / "nc0.lock").touch()
    assert ask(asked, **xdg) == f"{own}/nc0.sock {roots}/nc0.toml"
    (own / "nc0.lock").unlink()
    (own / "nc0.toml").touch()
    assert ask(asked, **xdg) == f"{own}/nc0.sock {own}/nc0.toml", "a tunnel of their own, which is not up"
