from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from nconnect.cli import preflight
from nconnect.errors import HostError
from nconnect.io.system import nftables
from tests.cli.conftest import Run

PROC = "Name:\tpython\nCapEff:\t{:016x}\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nothing is missing."""
    (tmp_path / "tun").write_text("")
    (tmp_path / "status").write_text(PROC.format(1 << 12))
    nft = tmp_path / "bin" / "nft"
    nft.parent.mkdir()
    nft.write_text("")
    nft.chmod(0o755)
    monkeypatch.setattr(preflight, "TUN_DEVICE", tmp_path / "tun")
    monkeypatch.setattr(preflight, "PROCESS_STATUS", tmp_path / "status")
    monkeypatch.setattr(preflight, "SYSTEM_PATH", "/nonexistent")
    monkeypatch.setenv("PATH", str(nft.parent))
    monkeypatch.setattr(nftables, "kernel_problem", lambda: "")
    return tmp_path


def test_nothing_is_missing(machine: Path) -> None:
    preflight.check()


def break_privilege(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "status").write_text(PROC.format(0x1FF & ~(1 << 12)))
    monkeypatch.setattr("os.geteuid", lambda: 1000)


def break_container(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "status").write_text(PROC.format(0))
    monkeypatch.setattr("os.geteuid", lambda: 0)


def break_tun(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "tun").unlink()


def break_tun_device(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "tun").unlink()
    (machine / "tun").mkdir()


def break_nft(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "bin" / "nft").unlink()


def break_kernel(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftables, "kernel_problem", lambda: "this kernel has no nf_tables: load it")


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (break_privilege, "needs root (CAP_NET_ADMIN): try with sudo"),
        (break_container, "--cap-add NET_ADMIN"),
        (break_tun, "does not exist: load the driver with `modprobe tun`"),
        (break_tun_device, "cannot be opened (is a directory)"),
        (break_nft, "apt install nftables"),
        (break_kernel, "this kernel has no nf_tables"),
    ],
)
def test_what_is_missing_is_one_line_and_nothing_is_left(
    machine: Path, monkeypatch: pytest.MonkeyPatch, run: Run, made: Path, broken: object, says: str
) -> None:
    assert callable(broken)
    with monkeypatch.context() as patch:
        broken(machine, patch)
        with pytest.raises(HostError) as caught:
            preflight.check()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_up_checks_the_file_first_and_then_the_machine(machine: Path, run: Run, made: Path) -> None:
    (machine / "tun").unlink()
    result = run("up")
    assert result.status == 1
    assert result.err.startswith(f"nconnect: error: {machine / 'tun'} does not exist")
    assert not (machine / "run").exists()
    assert not (machine / "state").exists()
    made.chmod(0o644)
    result = run("up", "-d")
    assert result.status == 2
    assert "chmod 600" in result.err


def test_a_clock_that_is_far_off_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(time, "time", lambda: 86_400.0)
    with caplog.at_level(logging.WARNING):
        preflight.warn_of_the_clock()
    assert "the clock says 1970-01-02" in caplog.text
    caplog.clear()
    monkeypatch.setattr(time, "time", lambda: 1_790_000_000.0)
    preflight.warn_of_the_clock()
    assert caplog.text == ""
