from __future__ import annotations

import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from nconnect.cli import preflight
from nconnect.control.schema import Status
from nconnect.daemon.up import OnReady
from nconnect.errors import NetworkError
from nconnect.io.files import paths
from nconnect.io.files.config_source import ConfigSource
from tests.cli.conftest import Run
from tests.control.fake import STATUS, FakeBackend, running


async def _status() -> Status:
    return STATUS


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Instead of a daemon, a record of how it would have been started."""
    calls: list[dict[str, Any]] = []

    def run(config_path: Path, config: object, source: object, *, on_ready: OnReady, **how: object) -> int:
        calls.append({"path": config_path, "config": config, **how})
        on_ready(_status)
        return 0

    module = types.ModuleType("nconnect.daemon.up")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nconnect.daemon.up", module)
    monkeypatch.setattr(preflight, "check", lambda: None)
    monkeypatch.setattr(ConfigSource, "start", lambda path, interface: ConfigSource(path))
    monkeypatch.setattr("nconnect.cli.logs.log_to_stderr", lambda **how: None)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    return calls


def test_up_in_the_foreground(run: Run, made: Path, started: list[dict[str, Any]]) -> None:
    assert run("up").status == 0
    assert run("up", "--keep-trying").status == 0
    assert [(c["path"], c["keep_trying"]) for c in started] == [(made, False), (made, True)]
    assert started[0]["config"].interface == "nc0"


def test_under_systemd_it_keeps_trying(
    run: Run, made: Path, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    run("up")
    assert started[0]["keep_trying"]


def test_up_passes_on_what_failed(
    run: Run, made: Path, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*arguments: object, **how: object) -> int:
        raise NetworkError("no seed answers: is the node up?")

    monkeypatch.setattr(sys.modules["nconnect.daemon.up"], "run", unreachable)
    result = run("up")
    assert (result.status, result.err) == (1, "nconnect: error: no seed answers: is the node up?\n")


def test_a_second_daemon_is_refused_before_anything_is_forked(
    run: Run, made: Path, started: list[dict[str, Any]]
) -> None:
    lock = paths.acquire_lock("nc0")
    result = run("up", "-d")
    paths.release_lock("nc0", lock)
    assert result.status == 1
    assert "nc0 is up already" in result.err
    assert started == []
    assert not paths.state_dir("nc0").exists()


def test_up_in_the_background_waits_for_a_link(
    run: Run, daemon: FakeBackend, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what is missing, with status 1; only --keep-trying does not wait."""
    monkeypatch.setattr("nconnect.cli.detach.detached", lambda log, run, *, timeout_s: True)
    assert run("up", "-d").out.startswith("nc0 is up (log: ")
    daemon.answers = False
    result = run("up", "-d")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("nconnect: error: no link is up")
    assert "goes on trying" in result.err
    assert [timeout for _, _, timeout in daemon.asked] == [5, 5]
    result = run("up", "-d", "--keep-trying")
    assert (result.status, len(daemon.asked)) == (0, 2)
    assert "connects when it can" in result.out


def test_down_waits_until_socket_and_lock_are_gone(run: Run, made: Path, tmp_path: Path) -> None:
    lock = paths.acquire_lock("nc0")
    with running(paths.socket_path("nc0")) as backend:
        released = threading.Event()

        def end() -> None:
            backend.stop.wait(10)
            paths.release_lock("nc0", lock)
            released.set()

        thread = threading.Thread(target=end)
        thread.start()
        result = run("down")
        assert not paths.is_locked("nc0")
        thread.join()
    assert released.is_set()
    assert (result.status, result.out) == (0, "nc0 is down\n")
    assert list((tmp_path / "run").iterdir()) == []


def test_down_says_when_the_daemon_does_not_end(
    run: Run, daemon: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nconnect.cli.daemon.STOP_TIMEOUT_S", 0.0)
    lock = paths.acquire_lock("nc0")
    result = run("down")
    paths.release_lock("nc0", lock)
    assert result.status == 1
    assert "has not ended" in result.err


def test_down_while_a_daemon_starts(run: Run, made: Path) -> None:
    lock = paths.acquire_lock("nc0")
    result = run("down")
    paths.release_lock("nc0", lock)
    assert result.status == 1
    assert "is starting or stopping" in result.err


def test_down_cleans_up_after_a_killed_daemon(run: Run, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[tuple[str, Path]] = []

    class Host:
        def __init__(self, interface: str, state_dir: Path) -> None:
            self.which = (interface, state_dir)

        def remove(self) -> None:
            assert paths.is_locked("nc0")  # nobody starts one meanwhile
            removed.append(self.which)

    module = types.ModuleType("nconnect.io.system.host")
    module.Host = Host  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nconnect.io.system.host", module)
    assert run("down").out == "nc0 was not up\n"
    paths.lock_path("nc0").touch()
    result = run("down")
    assert (result.status, result.out) == (0, "nc0 was not up; what a killed daemon had left is removed\n")
    assert removed == [("nc0", paths.state_dir("nc0"))] * 2
    assert list(paths.run_dir().iterdir()) == []


def test_wait(run: Run, daemon: FakeBackend) -> None:
    assert run("wait", "--timeout", "5").status == 0
    assert run("wait", "laptop").status == 0
    assert [(what, peer) for what, peer, _ in daemon.asked] == [("wait", None), ("wait", "laptop")]
    daemon.answers = False
    result = run("wait", "--timeout", "0.1")
    assert (result.status, result.err) == (1, "nconnect: error: no link is up\n")


def test_wait_begins_before_the_daemon(run: Run, made: Path) -> None:
    results: list[None] = []
    thread = threading.Thread(target=lambda: results.append(_wait()))
    thread.start()
    with running(paths.socket_path("nc0")):
        thread.join(20)
    assert results == [None]


def _wait() -> None:
    from nconnect.cli.app import main

    assert main(["wait", "--timeout", "15"]) == 0
