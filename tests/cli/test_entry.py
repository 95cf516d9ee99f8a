"""`run` is begun without the whole command line; everything else, and mistakes, are left to that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nconnect.cli import entry

NO_TUNNEL = "is not up"


def said(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {
        "NCONNECT_RUN_DIR": str(folder),
        "PATH": "/usr/bin:/bin",
        "NCONNECT_CONFIG": str(folder / "nc9.toml"),
    }
    command = [sys.executable, "-m", "nconnect", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments", [("status",), ("run",), ("run", "--help"), ("run", "true"), ("run", "-x", "--", "true")]
)
def test_what_is_left_to_the_whole_command_line(arguments: tuple[str, ...]) -> None:
    assert entry._run_at_once(arguments) is None


@pytest.mark.parametrize("arguments", [("--", "true"), ("true",), ("-c", "nc8.toml", "--", "true")])
def test_without_a_tunnel_it_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Also by the whole command line, which reads the second of them."""
    done = said("run", *arguments, folder=tmp_path)
    assert done.returncode == 1
    assert NO_TUNNEL in done.stderr
    assert done.stderr.count("\n") == 1
    assert ("nc8" if "-c" in arguments else "nc9") in done.stderr


def test_few_modules_are_imported_for_it(tmp_path: Path) -> None:
    """Those of the command line and of the network take longer than all the rest."""
    program = (
        "import sys\nfrom nconnect.cli.entry import _run_at_once\n"
        "_run_at_once(['run', '--', 'true'])\n"
        "print(*sys.modules)"
    )
    env = {"NCONNECT_RUN_DIR": str(tmp_path), "NCONNECT_CONFIG": str(tmp_path / "nc9.toml")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "nconnect.io.namespace.command" in loaded
    assert not loaded & {"typer", "asyncio", "nconnect.cli.app", "tomlkit", "uvloop"}
