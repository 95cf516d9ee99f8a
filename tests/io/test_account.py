"""Whose files are whose, and when the daemon has to stay root; that it changes user is in netns_tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nconnect.io import account
from nconnect.io.account import ROOT, Account

OTHER = Account("nobody-here", 54321, 54322)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configurations, with run and state folders in it."""
    folder = tmp_path / "nconnect"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("NCONNECT_RUN_DIR", str(folder / "run"))
    monkeypatch.setenv("NCONNECT_STATE_DIR", str(folder / "state"))
    (folder / "run").mkdir()
    (folder / "state" / "nc0").mkdir(parents=True)
    (folder / "state" / "nc0" / "handshakes.json").write_text("{}")
    path = folder / "nc0.toml"
    path.write_text("[interface]\n")
    path.chmod(0o600)
    return path


def obstacle(config: Path, user: Account | None, *, able: bool = True) -> str:
    return account._obstacle(user, "nc0", config, [config], able=able)


def give(config: Path, known: Account, to: Account) -> None:
    account._give(known, to, "nc0", config, [config])


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


def test_without_the_user_it_says_how_to_make_it(config: Path) -> None:
    assert "useradd --system" in obstacle(config, None)


def test_a_container_that_lets_nobody_change_users(config: Path) -> None:
    assert "SETUID" in obstacle(config, OTHER, able=False)


@pytest.mark.parametrize("name", ["notes.txt", "id_ed25519", "src"])
def test_a_folder_that_holds_other_things_is_not_taken(config: Path, name: str) -> None:
    (config.parent / name).mkdir()
    assert "a folder of its own" in obstacle(config, OTHER)


@needs_root
def test_what_is_being_written_and_logs_are_no_obstacle(config: Path) -> None:
    for name in (".nc0.toml.0123456789ab", "nc1.toml", "nc0.log"):
        (config.parent / name).touch()
    assert "a folder of its own" not in obstacle(config, OTHER)


@needs_root
def test_a_folder_that_the_user_cannot_enter_is_named(config: Path) -> None:
    config.parent.parent.chmod(0o700)
    said = obstacle(config, OTHER)
    assert said.startswith(f"the user {OTHER.name} cannot enter /")
    assert os.geteuid() == 0, "and we are who we were"


@needs_root
def test_the_user_gets_its_files_and_root_gets_them_back(config: Path) -> None:
    state = config.parent / "state" / "nc0"
    ours = [config, config.parent, state, state / "handshakes.json"]
    give(config, OTHER, OTHER)
    assert {owner(path) for path in ours} == {(OTHER.uid, OTHER.gid)}
    run = config.parent / "run"
    assert owner(run) == (OTHER.uid, 0)
    assert run.stat().st_mode & 0o777 == 0o775
    give(config, OTHER, ROOT)
    assert {owner(path) for path in (config, state, state / "handshakes.json")} == {(0, 0)}


@needs_root
def test_what_belongs_to_somebody_else_stays_so(config: Path, tmp_path: Path) -> None:
    """No link in the state folder makes another's file the daemon's."""
    state = config.parent / "state" / "nc0"
    treasure = tmp_path / "treasure"
    treasure.touch()
    os.link(treasure, state / "hard.json")
    (state / "soft.json").symlink_to(treasure)
    foreign = state / "foreign.json"
    foreign.touch()
    os.chown(foreign, 4242, 4242)
    give(config, OTHER, OTHER)
    assert owner(treasure) == (0, 0)
    assert owner(state / "soft.json") == (0, 0)
    assert owner(foreign) == (4242, 4242)


def test_the_file_of_the_seed_goes_with_the_configuration(config: Path) -> None:
    assert account._seed_files(config) == []
    config.write_text('[interface]\nseed_file = "seed"\n')
    assert account._seed_files(config) == [config.parent / "seed"]
