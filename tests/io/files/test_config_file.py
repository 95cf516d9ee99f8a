from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from nconnect.errors import ConfigError, HostError
from nconnect.io.files import config_file

SEED = "11" * 32
TEXT = f'[interface]\nseed = "{SEED}"\naddress = ["10.86.0.1/24"]\n'
OWN_KEY = bytes(SigningKey(bytes.fromhex(SEED)).verify_key).hex()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "nc7.toml"
    config_file.create(path, TEXT)
    return path


def test_which_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NCONNECT_CONFIG", raising=False)
    assert config_file.choose_path(None) == Path("/etc/nconnect/nc0.toml")
    monkeypatch.setenv("NCONNECT_CONFIG", "/x/nc1.toml")
    assert config_file.choose_path(None) == Path("/x/nc1.toml")
    assert config_file.choose_path(Path("nc2.toml")) == Path("nc2.toml")


def test_load_names_the_interface_after_the_file(path: Path) -> None:
    assert config_file.load(path).interface == "nc7"


def test_load_through_a_link_names_it_after_the_link(path: Path) -> None:
    link = path.with_name("gpu.toml")
    link.symlink_to(path)
    assert config_file.load(link).interface == "gpu"


def test_mistakes_name_the_file_as_given(path: Path) -> None:
    path.write_text(TEXT + "mtu = 1")
    with pytest.raises(ConfigError, match=rf"^{path}:4: \[interface\] mtu: "):
        config_file.load(path)


def test_the_own_address_as_a_peer_is_found(path: Path) -> None:
    path.write_text(TEXT + f'[[peer]]\nname = "a"\naddress = "{OWN_KEY}"\nallowed_ips = ["10.86.0.2"]\n')
    with pytest.raises(ConfigError, match="this device's own address"):
        config_file.load(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o644])
def test_a_file_that_others_can_read_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
        config_file.load(path)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")


@needs_root
def test_a_file_that_root_gave_to_a_user_keeps_its_owner_and_mode(path: Path) -> None:
    os.chown(path, 12345, 23456)
    assert config_file.load(path).interface == "nc7"
    config_file.write(path, TEXT + "mtu = 1400\n")
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (12345, 23456, 0o600)
    found = config_file.writer(path)
    assert found is not None
    assert found.uid == 12345


@needs_root
def test_a_file_in_another_users_folder(path: Path) -> None:
    """It may be that user's, or root's, and stays so; a third user's is refused, and so is a link."""
    os.chown(path.parent, 12345, 12345)
    path.parent.chmod(0o700)
    for owner in (12345, 0):
        os.chown(path, owner, owner)
        assert config_file.load(path).interface == "nc7"
        config_file.write(path, TEXT)
        assert path.stat().st_uid == owner
        assert path.read_text() == TEXT
    config_file.create(path.with_name("nc8.toml"), TEXT)
    assert path.with_name("nc8.toml").stat().st_uid == 12345, "made with that user's rights"
    os.chown(path, 54321, 54321)
    with pytest.raises(ConfigError, match=f"{path} cannot be read: it lies in a folder of user 12345"):
        config_file.load(path)


@needs_root
def test_no_link_of_another_user_is_followed(path: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    link = theirs / "nc0.toml"
    for target in (path, tmp_path / "new.toml"):
        link.symlink_to(target)
        for attempt in (config_file.load, lambda path: config_file.write(path, "x")):
            with pytest.raises((ConfigError, HostError), match="is a link of another user's"):
                attempt(link)
        link.unlink()
    assert path.read_text() == TEXT
    assert not (tmp_path / "new.toml").exists()


@needs_root
def test_a_file_that_others_may_replace_is_refused(path: Path) -> None:
    path.parent.chmod(0o777)
    with pytest.raises(ConfigError, match=r"others can replace what is in the folder .*: chmod go-w"):
        config_file.load(path)
    path.parent.chmod(0o1777)
    assert config_file.load(path).interface == "nc7", "as in /tmp"
    os.link(path, path.with_name("second.toml"))
    with pytest.raises(ConfigError, match="has a second name"):
        config_file.load(path)
    path.with_name("second.toml").unlink()
    os.chown(path, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to another user"):
        config_file.load(path)


@needs_root
def test_what_a_users_file_names_is_read_with_that_users_rights(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "seed"
    secret.write_text(SEED + "\n")
    secret.chmod(0o600)
    path.write_text(TEXT.replace(f'seed = "{SEED}"', f'seed_file = "{secret}"'))
    assert config_file.load(path).seed == bytes.fromhex(SEED)
    os.chown(path, 12345, 12345)
    with pytest.raises(ConfigError, match="cannot be read: user 12345, who named it"):
        config_file.load(path)


def test_what_is_no_file_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist: make it with `nconnect init`"):
        config_file.read(tmp_path / "nothing.toml")
    with pytest.raises(ConfigError, match="is not a file"):
        config_file.read(tmp_path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(ConfigError, match="is not a file"):
        config_file.read(tmp_path / "fifo")
    path.write_bytes(b"# one\n# \xff\n")
    with pytest.raises(ConfigError, match=f"{path}:2: is not text in UTF-8"):
        config_file.read(path)


def test_seed_file_is_read_beside_the_configuration_and_must_be_secret(path: Path) -> None:
    seed_file = path.with_name("seed")
    seed_file.write_text(SEED + "\n")
    seed_file.chmod(0o600)
    path.write_text(TEXT.replace(f'seed = "{SEED}"', 'seed_file = "seed"'))
    assert config_file.load(path).seed == bytes.fromhex(SEED)
    seed_file.chmod(0o644)
    with pytest.raises(ConfigError, match=rf":2: \[interface\] seed_file: seed: .*chmod 600 {seed_file}"):
        config_file.load(path)


def test_create_makes_the_folder_and_never_overwrites_unasked(tmp_path: Path) -> None:
    path = tmp_path / "new" / "nc0.toml"
    config_file.create(path, TEXT)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="exists already"):
        config_file.create(path, "other")
    assert path.read_text() == TEXT
    config_file.create(path, "other", force=True)
    assert path.read_text() == "other"
    assert [p.name for p in path.parent.iterdir()] == ["nc0.toml"]


def test_create_does_not_write_through_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "nc0.toml").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="exists already"):
        config_file.create(tmp_path / "nc0.toml", TEXT)
    assert not (tmp_path / "elsewhere").exists()


def test_write_follows_a_link_and_keeps_it(path: Path) -> None:
    link = path.with_name("gpu.toml")
    link.symlink_to(path)
    config_file.write(link, "new")
    assert link.is_symlink()
    assert path.read_text() == "new"


def test_a_second_change_waits_for_the_first_and_gives_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_file, "LOCK_TIMEOUT_S", 0.0)
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(HostError, match="another nconnect is changing"), config_file.locked(path):
            pass
    finally:
        os.close(fd)
    with config_file.locked(path), pytest.raises(HostError), config_file.locked(path):
        pass
    with config_file.locked(path):
        pass
