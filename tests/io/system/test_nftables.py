"""Running nft, with a program in its place that gives prepared answers."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from nconnect.errors import HostError
from nconnect.host.ruleset import deletion
from nconnect.io.system import nftables
from tests.io.system.test_monitor import in_a_namespace


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Writes `asked` (arguments and input of every run), answers with `says`, or fails with `fails`."""
    program = tmp_path / "nft"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncat >> {tmp_path}/asked\n'
        f"[ -e {tmp_path}/fails ] && cat {tmp_path}/fails >&2 && exit 1\n"
        f"cat {tmp_path}/says 2>/dev/null || true\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(nftables, "kernel_problem", lambda: "")
    return tmp_path


def test_each_transaction_is_one_run(fake: Path) -> None:
    nftables.run([deletion("nconnect_a"), deletion("nconnect_b")])
    asked = (fake / "asked").read_text()
    assert asked.count("-j -f -") == 2
    assert json.dumps({"nftables": deletion("nconnect_b")}) in asked


def test_a_refusal_is_one_line_and_ends_it(fake: Path) -> None:
    (fake / "fails").write_text("Error: Operation not permitted\nsecond line\n")
    with pytest.raises(HostError) as refused:
        nftables.run([deletion("a"), deletion("b")])
    assert str(refused.value) == "nft refused the rules: Error: Operation not permitted (run as root)"
    assert (fake / "asked").read_text().count("-j -f -") == 1


def test_tables_and_their_handles(fake: Path) -> None:
    table = {"table": {"family": "inet", "name": "nconnect_nc0", "handle": 7}}
    (fake / "says").write_text(json.dumps({"nftables": [{"metainfo": {}}, table]}))
    assert nftables.tables() == {"nconnect_nc0": 7}
    assert nftables.counters("nconnect_nc1") == {}


@pytest.mark.skipif(shutil.which("nft") is None, reason="no nft")
def test_the_kernel_tells_a_table_s_handle_without_nft(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        rules = "add table inet nconnect_nc0; add table ip nconnect_nc1; add table inet other"
        subprocess.run(["nft", rules], check=True)
        listed = nftables.tables()
        monkeypatch.setattr(nftables, "tables", lambda: pytest.fail("nft was run"))
        assert nftables.handle("nconnect_nc0") == listed["nconnect_nc0"]
        assert nftables.handle("nconnect_nc1") is None, "of another family"
        assert nftables.handle("nconnect") is None
        subprocess.run(["nft", "delete table inet nconnect_nc0; add table inet nconnect_nc0"], check=True)
        assert nftables.handle("nconnect_nc0") not in (None, listed["nconnect_nc0"])

    in_a_namespace(work)


def test_where_the_kernel_does_not_answer_nft_says_why(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kernel, "code", errno.EPERM)
    monkeypatch.setattr(socket, "socket", Kernel)
    (fake / "fails").write_text("Error: Operation not permitted\n")
    with pytest.raises(HostError, match="run as root"):
        nftables.handle("nconnect_nc0")


def test_the_contents_of_a_table_take_one_run(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fake / "says").write_text(json.dumps({"nftables": [{"metainfo": {}}]}))
    assert nftables.contents("nconnect_nc0") == [{"metainfo": {}}]
    assert (fake / "asked").read_text() == "-j list table inet nconnect_nc0\n"
    (fake / "fails").write_text("Error: No such file or directory\n")
    monkeypatch.setattr(nftables, "handle", {"nconnect_nc1": 7}.get)
    assert nftables.contents("nconnect_nc0") is None
    with pytest.raises(HostError, match="nft refused"):
        nftables.contents("nconnect_nc1")


def test_without_nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nftables, "PATH", str(tmp_path))
    with pytest.raises(HostError, match="nft is missing: install it with `apt install nftables`"):
        nftables.tables()


def test_an_nft_that_cannot_run(fake: Path) -> None:
    (fake / "nft").write_text("#!/nowhere/at/all\n")
    with pytest.raises(HostError, match="nft cannot be run"):
        nftables.tables()


def test_a_kernel_without_nf_tables_is_said_in_place_of_what_nft_says(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fake / "fails").write_text("netlink: Error: cache initialization failed: Invalid argument\n")
    monkeypatch.setattr(nftables, "kernel_problem", lambda: "this kernel has no nf_tables: load it")
    with pytest.raises(HostError, match=r"^this kernel has no nf_tables: load it$"):
        nftables.tables()


def test_a_kernel_without_a_part_of_it(fake: Path) -> None:
    (fake / "fails").write_text("Error: Could not process rule: No such file or directory\n")
    with pytest.raises(HostError, match=r"No such file or directory \(this kernel's nf_tables lacks a part"):
        nftables.run([deletion("a")])


class Kernel(socket.socket):
    """A netlink socket of a kernel that gives one answer."""

    code: int | None = 0  # None: it answers the question
    refuses = 0  # an error of the socket itself

    def __init__(self, *_: object) -> None:
        if self.refuses:
            raise OSError(self.refuses, os.strerror(self.refuses))
        super().__init__()

    def bind(self, *_: object) -> None: ...

    def send(self, *_: object) -> int:
        return 20

    def recv(self, *_: object) -> bytes:
        if self.code is None:
            return struct.pack("=IHHII", 20, 10 << 8 | 15, 0, 1, 0) + bytes(4)
        return struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -self.code) + bytes(16)


@pytest.mark.parametrize(
    ("code", "refuses", "says"),
    [
        (None, 0, ""),
        (errno.EINVAL, 0, "this kernel has no nf_tables (invalid argument)"),
        (0, errno.EPROTONOSUPPORT, "this kernel has no nf_tables (protocol not supported)"),
        (errno.EPERM, 0, "the kernel refuses access to nf_tables: run as root"),
        (0, errno.EPERM, "seccomp profile that allows AF_NETLINK"),
    ],
)
def test_what_the_kernel_itself_lacks(
    monkeypatch: pytest.MonkeyPatch, code: int | None, refuses: int, says: str
) -> None:
    monkeypatch.setattr(Kernel, "code", code)
    monkeypatch.setattr(Kernel, "refuses", refuses)
    monkeypatch.setattr(socket, "socket", Kernel)
    found = nftables.kernel_problem()
    assert says in found
    assert bool(says) == bool(found)


def test_a_ruleset_that_is_too_long_is_asked_for_without_the_elements_of_sets(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fake / "says").write_text(json.dumps({"nftables": [{"table": {"name": "t"}}]}))
    assert nftables.ruleset() == [{"table": {"name": "t"}}]
    assert "-t" not in (fake / "asked").read_text()
    monkeypatch.setattr(nftables, "MAX_RULESET_BYTES", 10)
    with pytest.raises(HostError, match="too many rules"):
        nftables.ruleset()
    assert (fake / "asked").read_text().splitlines()[-1] == "-j -t list ruleset"
