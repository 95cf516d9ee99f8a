"""Who owns the state, and when the daemon has to stay root; netns_tests has the change of user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nconnect.errors import ConfigError, HostError
from nconnect.io.files import config_file, paths
from nconnect.io.files.user import User
from nconnect.io.process import privileges, rights

OTHER = User(54321, 54322, (), "nobody-here")
SEED = "11" * 32
TEXT = f'[interface]\nseed = "{SEED}"\naddress = ["10.86.0.1/24"]\n'
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration in a folder with other things; run and state folders elsewhere."""
    monkeypatch.setenv("NCONNECT_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("NCONNECT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(rights, "daemon_account", lambda: OTHER)
    monkeypatch.setattr(paths, "daemon_account", lambda: OTHER)
    path = tmp_path / "etc" / "nc0.toml"
    config_file.create(path, TEXT)
    return path


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


def test_without_the_user_it_says_how_to_make_it(config: Path) -> None:
    assert "useradd --system" in rights._obstacle(None, "nc0")


def test_a_user_that_is_not_of_this_namespace(
    config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "uid_map").write_text("         0       1000          1\n")
    (tmp_path / "gid_map").write_text("         0          0 4294967295\n")
    monkeypatch.setattr(privileges, "_PROC", tmp_path)
    assert "user namespace" in rights._obstacle(OTHER, "nc0")
    (tmp_path / "uid_map").write_text("         0          0 4294967295\n")
    (tmp_path / "setgroups").write_text("deny\n")
    assert "groups" in rights._obstacle(OTHER, "nc0")


def test_a_folder_that_the_user_cannot_enter_is_named(config: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert rights._obstacle(OTHER, "nc0").startswith(f"the user {OTHER.name} cannot enter /")
    assert os.geteuid() == 0, "and we are who we were"


def test_the_user_gets_the_state_alone_and_root_gets_it_back(config: Path, tmp_path: Path) -> None:
    state = paths.make_state_dir("nc0")
    (state / "handshakes.json").write_text("{}")
    treasure = tmp_path / "treasure"
    treasure.touch()
    os.link(treasure, state / "hard.json")
    (state / "soft.json").symlink_to(treasure)
    rights._give_state(OTHER, "nc0")
    assert {owner(state), owner(state / "handshakes.json")} == {(OTHER.uid, OTHER.gid)}
    for path in (treasure, state / "soft.json", config, config.parent, state.parent, paths.make_run_dir()):
        assert owner(path) == (0, 0), path
    rights._give_state(OTHER, "nc0")
    rights._take_state_back("nc0")
    assert {owner(state), owner(state / "handshakes.json"), owner(treasure)} == {(0, 0)}


def test_state_in_somebody_elses_folder_is_refused(config: Path) -> None:
    state = paths.make_state_dir("nc0")
    os.chown(state, 4242, 4242)
    with pytest.raises(HostError, match="belongs to user 4242: the state cannot be kept there"):
        rights._give_state(OTHER, "nc0")


@pytest.mark.parametrize("uid", [OTHER.uid, 4242])
def test_the_folder_around_the_state_is_roots(config: Path, uid: int) -> None:
    """There lies what invitations allow, which the daemon's user must not write."""
    os.chown(paths.make_state_dir("nc0").parent, uid, uid)
    with pytest.raises(HostError, match="who could forge what invitations allow: chown root"):
        rights._give_state(OTHER, "nc0")


def test_the_run_folder_is_roots(config: Path, tmp_path: Path) -> None:
    run = paths.make_run_dir()
    os.chown(run, OTHER.uid, 0)  # as an earlier version left it
    run.chmod(0o775)
    assert paths.make_run_dir() == run
    assert (owner(run), run.stat().st_mode & 0o777) == ((0, 0), 0o755)
    os.chown(run, 4242, 4242)
    with pytest.raises(HostError, match=r"cannot use the folder .*: it belongs to user 4242"):
        paths.make_run_dir()


def test_what_an_earlier_version_gave_away_is_taken_back_once(config: Path) -> None:
    seed = config.with_name("seed")
    seed.write_text(SEED)
    seed.chmod(0o600)
    config_file.write(config, TEXT.replace(f'seed = "{SEED}"', 'seed_file = "seed"'))
    held = os.open(config, os.O_RDWR)
    ours = (config, config.parent, seed)
    for path in ours:
        os.chown(path, OTHER.uid, OTHER.gid)
    text = config.read_text()
    rights.take_back(config, "nc0")
    assert {owner(path) for path in ours} == {(0, 0)}
    assert config.stat().st_mode & 0o777 == 0o600
    os.write(held, b"who still has it open changes nothing")
    os.close(held)
    assert config.read_text() == text
    paths.issued_path("nc0").parent.mkdir(parents=True)
    paths.issued_path("nc0").touch()  # from now on it is never done again
    os.chown(config, OTHER.uid, OTHER.gid)
    with pytest.raises(ConfigError, match="the daemon's own user, who must not change it"):
        rights.take_back(config, "nc0")


def test_a_persons_configuration_stays_that_persons(config: Path) -> None:
    for path in (config, config.parent):
        os.chown(path, 4242, 4242)
    rights.take_back(config, "nc0")
    assert {owner(config), owner(config.parent)} == {(4242, 4242)}


def test_nothing_is_taken_below_a_persons_folder(config: Path) -> None:
    """Its owner could put there what is not theirs to give."""
    os.chown(config, OTHER.uid, OTHER.gid)
    os.chown(config.parent, OTHER.uid, OTHER.gid)
    os.chown(config.parent.parent, 4242, 4242)
    with pytest.raises((ConfigError, OSError)):
        rights.take_back(config, "nc0")
    assert {owner(config), owner(config.parent)} == {(OTHER.uid, OTHER.gid)}
