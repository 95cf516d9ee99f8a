from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nconnect.cli.completion import SHELLS
from tests.cli.conftest import Run
from tests.control.fake import KEY

BASH = shutil.which("bash")


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_every_command(run: Run, shell: str) -> None:
    result = run("completion", shell)
    assert (result.status, result.err) == (0, "")
    assert all(word in result.out for word in ("doctor", "peer add", "--allowed-ips", "peers-for-completion"))


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_can_read_it(run: Run, shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(run("completion", shell).out)
    done = subprocess.run([program, "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def complete(script: str, line: str, bin_dir: Path) -> list[str]:
    """What bash offers at the end of `line`."""
    assert BASH is not None
    program = f"""{script}
COMP_WORDS=({line.replace(" |", " ''")})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_nconnect
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    env = {**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}"}
    done = subprocess.run([BASH, "-c", program], capture_output=True, text=True, check=True, env=env)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
def test_bash_goes_into_commands_and_asks_for_peers(run: Run, made: Path, tmp_path: Path) -> None:
    run("peer", "add", "gpu-box", f"gpu-box.{KEY}", "--allowed-ips", "10.86.0.2/32")
    script = run("completion", "bash").out
    program = tmp_path / "bin" / "nconnect"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m nconnect "$@"\n')
    program.chmod(0o755)
    root = Path(__file__).parents[2]
    os.environ["PYTHONPATH"] = str(root)
    try:
        assert {"up", "down", "doctor", "peer"} <= set(complete(script, "nconnect |", program.parent))
        assert complete(script, "nconnect do", program.parent) == ["down", "doctor"]
        assert complete(script, "nconnect -c x pe", program.parent) == ["peer"]
        assert "remove" in complete(script, "nconnect peer |", program.parent)
        assert complete(script, "nconnect peer show g", program.parent) == ["gpu-box"]
        assert complete(script, f"nconnect -c {made} ping |", program.parent) == ["gpu-box"]
        assert complete(script, "nconnect ping gpu-box |", program.parent) == []
        assert complete(script, "nconnect peer add g", program.parent) == []  # a new name
        assert "--keep-trying" in complete(script, "nconnect up --k", program.parent)
        assert "peers-for-completion" not in complete(script, "nconnect p", program.parent)
    finally:
        del os.environ["PYTHONPATH"]


def test_names_are_never_an_error(run: Run, config_path: Path) -> None:
    result = run("peers-for-completion")
    assert (result.status, result.out, result.err) == (0, "", "")


def test_install(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("ZDOTDIR", str(tmp_path / "z"))
    assert run("completion", "bash", "--install").status == 0
    assert (tmp_path / "data/bash-completion/completions/nconnect").read_text() == run(
        "completion", "bash"
    ).out
    assert "compinit" in run("completion", "zsh", "--install").out
    assert (tmp_path / "z/.zfunc/_nconnect").exists()


def test_another_shell_is_a_mistake(run: Run) -> None:
    result = run("completion", "bsh")
    assert result.status == 2
    assert "did you mean bash" in result.err
    assert "write bash, zsh or fish" in run("completion", "powershell").err


def test_where_it_cannot_be_written(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    result = run("completion", "bash", "--install")
    assert result.status == 1
    assert "cannot write" in result.err
