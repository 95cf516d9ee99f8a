from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nconnect.cli.app import main
from tests.control.fake import FakeBackend, running


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def config_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that commands are about; it does not exist yet. All folders are the test's own."""
    path = tmp_path / "etc" / "nc0.toml"
    monkeypatch.setenv("NCONNECT_CONFIG", str(path))
    monkeypatch.setenv("NCONNECT_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("NCONNECT_STATE_DIR", str(tmp_path / "state"))
    return path


@pytest.fixture
def run(config_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        return Result(status, *capfd.readouterr())

    return run


@pytest.fixture
def made(run: Run, config_path: Path) -> Path:
    """A configuration as `init` makes it."""
    result = run(
        "init", "--address", "10.86.0.1/24", "--provide", "192.168.50.0/24", "--identifier", "gpu-box"
    )
    assert result.status == 0, result.err
    return config_path


@pytest.fixture
def daemon(made: Path, tmp_path: Path) -> Iterator[FakeBackend]:
    """A control socket that answers for nc0."""
    with running(tmp_path / "run" / "nc0.sock") as backend:
        yield backend
