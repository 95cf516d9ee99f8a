from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nconnect.model import NodeConfig
from tests.cli.conftest import Run


@dataclass(frozen=True)
class Settings:
    verify_signatures: bool
    reorder: bool = False


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[NodeConfig, dict[str, Any]]]:
    calls: list[tuple[NodeConfig, dict[str, Any]]] = []

    def run(config: NodeConfig, **how: Any) -> int:
        calls.append((config, how))
        return 0

    module = types.ModuleType("nconnect.daemon.node")
    module.run = run  # type: ignore[attr-defined]
    module.settings_of = lambda config: Settings(config.verify_signatures)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nconnect.daemon.node", module)
    monkeypatch.setattr("nconnect.cli.logs.log_to_stderr", lambda **how: None)
    return calls


def test_the_official_ports(run: Run, started: list[tuple[NodeConfig, dict[str, Any]]]) -> None:
    assert run("node", "--listen", "0.0.0.0").status == 0
    config, how = started[0]
    assert config == NodeConfig("0.0.0.0", 30002, 30003)
    assert how == {"settings": Settings(False), "seed_file": None, "stats_file": None, "capture_file": None}


def test_everything(run: Run, started: list[tuple[NodeConfig, dict[str, Any]]], tmp_path: Path) -> None:
    result = run(
        "node", "--listen", "::", "--ws-port", "0", "--rpc-port", "0", "--advertise", "node.example",
        "--verify-signatures", "--reorder", "--stats-file", tmp_path / "s", "--capture-file", tmp_path / "c",
    )  # fmt: skip
    assert result.status == 0, result.err
    config, how = started[0]
    assert config == NodeConfig("::", 0, 0, "node.example", True)
    assert how["settings"] == Settings(True, True)
    assert (how["stats_file"], how["capture_file"]) == (tmp_path / "s", tmp_path / "c")


def test_what_tests_need_is_hidden(run: Run) -> None:
    shown = run("node", "--help").out
    assert "--advertise" in shown
    assert "--reorder" not in shown
