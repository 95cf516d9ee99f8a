"""Names in a hosts file: replaced as a whole with owner and mode kept, in place where it is a mount point."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from ipaddress import ip_address
from pathlib import Path

import pytest

from nconnect.errors import HostError
from nconnect.io.system import hosts_file
from nconnect.io.system.hosts_file import names_in, put
from nconnect.offers.name_codec import Names

OTHERS = "127.0.0.1 localhost\n10.0.0.5 nas.corp.internal NAS\n"
NAMES: Names = {"gpu-box.internal": (ip_address("10.86.0.1"),)}


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text(OTHERS)
    path.chmod(0o640)
    return path


def test_it_is_replaced_as_a_whole_and_keeps_mode_and_attributes(hosts: Path) -> None:
    os.setxattr(hosts, "user.note", b"kept")
    before = hosts.stat()
    assert put("nc0", NAMES, hosts)
    assert hosts.read_text().startswith(OTHERS)
    assert "10.86.0.1 gpu-box.internal\n" in hosts.read_text()
    after = hosts.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert os.getxattr(hosts, "user.note") == b"kept"
    assert not put("nc0", NAMES, hosts), "it is so already"
    assert put("nc0", {}, hosts)
    assert hosts.read_text() == OTHERS
    assert [path.name for path in hosts.parent.iterdir()] == ["hosts"]


@pytest.mark.skipif(os.geteuid() != 0, reason="chown needs root")
def test_the_owner_stays(hosts: Path) -> None:
    os.chown(hosts, 12345, 54321)
    assert put("nc0", NAMES, hosts)
    assert (hosts.stat().st_uid, hosts.stat().st_gid) == (12345, 54321)


def test_a_link_leads_on_and_stays_a_link(hosts: Path) -> None:
    link = hosts.with_name("link")
    link.symlink_to("hosts")
    assert put("nc0", NAMES, link)
    assert link.is_symlink()
    assert "gpu-box" in hosts.read_text()


def test_one_that_is_missing_is_made_for_all_to_read(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    assert not put("nc0", {}, path)
    assert not path.exists()
    mask = os.umask(0o077)
    try:
        assert put("nc0", NAMES, path)
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o644
    assert put("nc1", NAMES, path)
    assert put("nc0", {}, path)
    assert "gpu-box" in path.read_text(), "another interface's"
    assert put("nc1", {}, path)
    assert not path.exists()


def test_one_that_we_made_stays_when_others_have_written_into_it(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    assert put("nc0", NAMES, path)
    path.write_text(path.read_text() + "127.0.0.1 localhost\n")
    assert put("nc0", {}, path)
    assert path.read_text().endswith("127.0.0.1 localhost\n")
    assert "gpu-box" not in path.read_text()


def test_an_empty_one_that_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("")
    assert put("nc0", NAMES, path)
    assert put("nc0", {}, path)
    assert path.read_text() == ""


def test_what_is_no_file_or_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostError, match="cannot write names into"):
        put("nc0", NAMES, tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(HostError, match="it is no file"):
        put("nc0", NAMES, tmp_path / "fifo")
    monkeypatch.setattr(hosts_file, "MAX_BYTES", 10)
    (tmp_path / "large").write_text(OTHERS)
    with pytest.raises(HostError, match="larger than"):
        put("nc0", NAMES, tmp_path / "large")
    assert (tmp_path / "large").read_text() == OTHERS


def test_a_file_that_is_left_of_a_killed_helper_is_in_nobodys_way(hosts: Path) -> None:
    hosts.with_name(".hosts.nc0").write_text("half")
    assert put("nc0", NAMES, hosts)
    assert not hosts.with_name(".hosts.nc0").exists()


def test_a_change_meanwhile_is_not_undone(hosts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program writes between our reading and our replacing."""
    real, lines = hosts_file._write, ["10.9.9.1 one\n", "10.9.9.2 two\n"]

    def meanwhile(*arguments: object) -> bool:
        if lines:
            with hosts.open("a") as file:
                file.write(lines.pop(0))
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(hosts_file, "_write", meanwhile)
    assert put("nc0", NAMES, hosts)
    assert hosts.read_text().startswith(OTHERS + "10.9.9.1 one\n10.9.9.2 two\n# nconnect nc0 begin")


def test_where_it_cannot_be_replaced_it_is_rewritten(hosts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(os, "replace", busy)
    inode = hosts.stat().st_ino
    assert put("nc0", NAMES, hosts)
    assert put("nc0", {**NAMES, "attic.internal": (ip_address("10.86.0.3"),)}, hosts)
    assert put("nc0", NAMES, hosts)
    assert hosts.read_text().startswith(OTHERS)
    assert "attic" not in hosts.read_text()
    assert put("nc0", {}, hosts)
    assert (hosts.read_text(), hosts.stat().st_ino) == (OTHERS, inode)


def test_a_full_disk_loses_no_line(hosts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts_file, "_is_mount_point", lambda _: True)
    real, calls = os.pwrite, [0]

    def full(fd: int, data: bytes, at: int) -> int:
        calls[0] += 1
        if calls[0] == 1:
            return real(fd, data[:10], at)
        if calls[0] == 2:
            raise OSError(28, "No space left on device")
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(HostError, match="no space left"):
        put("nc0", NAMES, hosts)
    assert hosts.read_text() == OTHERS


MOUNTED = """
import sys
import threading
from ipaddress import ip_address
from pathlib import Path
from nconnect.io.system.hosts_file import put
print(put("nc0", {"gpu-box.internal": (ip_address("10.86.0.1"),)}, Path(sys.argv[1])))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace needs root")
def test_a_mount_point_is_rewritten_without_a_file_beside_it(hosts: Path) -> None:
    """As in a container, and below `ip netns exec`."""
    place = hosts.parent / "a folder"
    place.mkdir()
    point = place / "hosts"
    point.write_text("hidden\n")
    folder = place.stat().st_mtime_ns
    script = 'mount --bind "$1" "$2" && exec "$3" -c "$4" "$2"'
    command = ["unshare", "-m", "sh", "-ec", script, "sh", str(hosts), str(point), sys.executable, MOUNTED]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"
    assert "gpu-box.internal" in hosts.read_text()
    assert point.read_text() == "hidden\n"
    assert place.stat().st_mtime_ns == folder, "nothing was made beside it"


def test_which_names_the_file_has(hosts: Path, tmp_path: Path) -> None:
    put("nc0", NAMES, hosts)
    assert names_in("nc0", hosts) == {"localhost", "nas.corp.internal", "nas"}
    assert "gpu-box.internal" in names_in("nc1", hosts)
    assert names_in("nc0", tmp_path / "none") == set()


def test_what_the_c_library_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switch = tmp_path / "nsswitch.conf"
    monkeypatch.setattr(hosts_file, "NSSWITCH", switch)
    assert hosts_file.nss_sources() is None
    switch.write_text("passwd: files\nhosts:  files resolve [!UNAVAIL=return] dns # all\n")
    assert hosts_file.nss_sources() == ["files", "resolve", "[!UNAVAIL=return]", "dns"]


def test_two_interfaces_that_write_at_the_same_time_lose_nothing(
    hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither sees what the other one has half written, also where the file cannot be replaced."""
    monkeypatch.setattr(hosts_file, "_is_mount_point", lambda path: True)
    lost: list[str] = []

    def keep(interface: str) -> None:
        for number in range(200):
            put(interface, {f"{interface}.internal": (ip_address(f"10.0.0.{number}"),)}, hosts)
            if put(interface, {f"{interface}.internal": (ip_address(f"10.0.0.{number}"),)}, hosts):
                lost.append(interface)

    threads = [threading.Thread(target=keep, args=(name,)) for name in ("nc0", "nc1")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost == []


def test_a_lock_that_somebody_holds_stops_nothing(hosts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts_file, "_TURN_S", 0.05)
    with hosts.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert put("nc0", {"box.internal": (ip_address("10.0.0.1"),)}, hosts)
    assert b"box.internal" in hosts.read_bytes()
