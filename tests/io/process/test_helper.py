"""The process that stays root: what it gives, and that it gives nothing else."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from nconnect.errors import ConfigError, HostError
from nconnect.io.files import config_file, paths
from nconnect.io.files.config_source import ConfigSource
from nconnect.io.process.helper import Helper
from nconnect.io.process.name_keeper import HOSTS_FILE, UNCHANGED
from nconnect.offers.name_codec import MAX_BYTES, MAX_LINES, Names

SEED = "11" * 32
TEXT = '[interface]\nseed_file = "seed"\naddress = ["10.86.0.1/24"]\n'
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="it is for a daemon that root starts")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NCONNECT_RUN_DIR", str(tmp_path / "run"))
    path = tmp_path / "etc" / "nc0.toml"
    config_file.create(path, TEXT)
    seed = path.with_name("seed")
    seed.write_text(SEED)
    seed.chmod(0o600)
    return path


@pytest.fixture
def helper(config: Path) -> Iterator[Helper]:
    started = Helper.start("nc0", config, "seed")
    yield started
    started.close()
    assert not Path(f"/proc/{started._pid}").exists()


def test_it_opens_the_configuration_as_it_is_now(helper: Helper, config: Path) -> None:
    source = ConfigSource(config, helper, "seed")
    assert source.load().seed == bytes.fromhex(SEED)
    config_file.write(config, TEXT + "mtu = 1400\n")
    assert source.load().mtu == 1400
    config_file.write(config, TEXT.replace("seed_file = ", 'seed_file = "/etc/" # '))
    with pytest.raises(ConfigError, match="another file cannot be used now"):
        source.load()
    config.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        source.load()
    config.unlink()
    with pytest.raises(ConfigError, match="does not exist"):
        source.load()


def test_it_has_no_capability_and_nothing_of_ours_open(config: Path) -> None:
    read, write = os.pipe()
    helper = Helper.start("nc0", config, "seed")
    try:
        os.close(helper.open_config())
        with pytest.raises(HostError):
            helper._ask(b"?")  # so that it has come to the end of the first one
        status = Path(f"/proc/{helper._pid}/status").read_text()
        for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
            assert f"{name}:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        open_files = sorted(os.readlink(path) for path in Path(f"/proc/{helper._pid}/fd").iterdir())
        assert open_files[:-1] == ["/dev/null"] * 3, "and the channel"
        os.close(write)
        assert os.read(read, 1) == b"", "the pipe is closed there too"
    finally:
        helper.close()
        os.close(read)


def test_it_follows_no_link_of_the_user_whose_folder_it_is(config: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(TEXT)
    secret.chmod(0o600)
    for path in (config.parent, *config.parent.iterdir()):
        os.chown(path, 12345, 12345)
    config.parent.chmod(0o700)
    config.write_text(TEXT.replace('seed_file = "seed"', f'seed = "{SEED}"'))
    helper = Helper.start("nc0", config, None)
    try:
        assert ConfigSource(config, helper).load().seed == bytes.fromhex(SEED)
        config.unlink()
        for place in (config.symlink_to, config.hardlink_to):
            place(secret)
            with pytest.raises(ConfigError):
                os.close(helper.open_config())
            config.unlink()
    finally:
        helper.close()


def test_lock_and_socket(helper: Helper) -> None:
    lock = helper.lock()
    assert paths.lock_path("nc0").read_text() == f"{os.getpid()}\n", "it is ours"
    with pytest.raises(HostError, match=f"is up already .process {os.getpid()}."):
        helper.lock()
    with helper.listen() as listener:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(paths.socket_path("nc0")))
            listener.setblocking(True)
            listener.accept()[0].close()
        for everybody, mode in ((False, 0o600), (True, 0o666), (False, 0o600)):
            helper.let_in(everybody=everybody)
            assert paths.socket_path("nc0").stat().st_mode & 0o777 == mode
        helper.remove_socket()
    helper.unlock(lock)
    assert list(paths.run_dir().iterdir()) == []
    assert not paths.is_locked("nc0")


def test_no_other_request_means_anything(helper: Helper) -> None:
    for number in set(range(256)) - set(b"CSKULRNDAO"):
        with pytest.raises(HostError, match="no such request"):
            helper._ask(bytes([number]))
    for request in (b"CC", b"C ", b"nx", b"DN"):
        with pytest.raises(HostError, match="no such request"):
            helper._ask(request)
    os.close(helper.open_config())


def test_one_that_has_ended_is_said(config: Path) -> None:
    helper = Helper.start("nc0", config, None)
    with pytest.raises(ConfigError, match="seed_file cannot change"):
        helper.open_seed()
    os.kill(helper._pid, 9)
    with pytest.raises(HostError, match="helper process"):
        helper.open_config()
    helper.close()


def test_names_of_peers_are_written_and_go_with_the_daemon(config: Path, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    helper = Helper.start("nc0", config, None, hosts=hosts)
    known: Names = {"gpu-box.internal": (ip_address("10.86.0.1"),)}
    assert helper.put_names({}) == UNCHANGED
    assert helper.put_names(known) == HOSTS_FILE
    assert "\n10.86.0.1 gpu-box.internal\n" in hosts.read_text()
    assert helper.put_names(known) == UNCHANGED
    helper.close()  # as when the daemon is killed: nobody asks it to take them back
    assert hosts.read_text() == "127.0.0.1 localhost\n"


@pytest.mark.parametrize(
    "lines",
    [
        b"10.86.0.1 bank.example.com\n",
        b"10.86.0.1 metadata.google.internal\n",
        b"127.0.0.1 a.internal\n",
        b"10.86.0.1 a.internal\n\n10.86.0.1 localhost\n",
        b"10.86.0.1 a.internal",
        b"\0",
        b"10.86.0.1 a.internal\n" * (MAX_LINES + 1),
        b"x" * (MAX_BYTES + 1),
    ],
)
def test_it_writes_no_other_names(config: Path, tmp_path: Path, lines: bytes) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    helper = Helper.start("nc0", config, None, hosts=hosts)
    try:
        with pytest.raises(HostError, match="these are not names of peers"):
            helper._ask(b"N" + lines)
        os.close(helper.open_config())  # it goes on
    finally:
        helper.close()
    assert hosts.read_text() == "127.0.0.1 localhost\n"


def test_names_that_change_all_the_time_are_written_ten_times_a_second(config: Path, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("")
    helper = Helper.start("nc0", config, None, hosts=hosts)
    known: Names = {"gpu-box.internal": (ip_address("10.86.0.1"),)}
    began = time.monotonic()
    for wanted in (known, {}, known, {}):
        assert helper.put_names(wanted) == HOSTS_FILE
    assert time.monotonic() - began >= 0.3
    helper.close()


def test_the_name_server_s_socket_is_on_loopback_and_stays_the_same(helper: Helper) -> None:
    with helper.name_server() as one, helper.name_server() as other:
        assert one.getsockname() == other.getsockname()
        assert one.getsockname()[0] == "127.0.0.1"
        assert one.type == socket.SOCK_DGRAM
