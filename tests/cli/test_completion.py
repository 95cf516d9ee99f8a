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


# A zsh inside a zsh's pseudo-terminal: the line is typed, Tab pressed, and a key that prints the line.
ZSH = r"""
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -D; PS1="
zpty -w z 'tell() { print -r -- "<<$BUFFER>>"; exit }; zle -N tell; bindkey "^X" tell; print rea""dy'
zpty -r -m z found '*ready*'
zpty -n -w z "$2"$'\t\x18'
zpty -r -m z found '*<<*>>*'
print -r -- "$found"
zpty -d z
"""


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


@pytest.fixture
def bin_dir(run: Run, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `nconnect` in it, for shells; the configuration has one peer, gpu-box."""
    run("peer", "add", "gpu-box", f"gpu-box.{KEY}", "--allowed-ips", "10.86.0.2/32")
    program = tmp_path / "bin" / "nconnect"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m nconnect "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return program.parent


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
def test_bash_goes_into_commands_and_asks_for_peers(run: Run, made: Path, bin_dir: Path) -> None:
    script = run("completion", "bash").out
    assert {"up", "down", "doctor", "peer"} <= set(complete(script, "nconnect |", bin_dir))
    assert complete(script, "nconnect do", bin_dir) == ["down", "doctor"]
    assert complete(script, "nconnect -c x pe", bin_dir) == ["peer"]
    assert "remove" in complete(script, "nconnect peer |", bin_dir)
    assert complete(script, "nconnect provide |", bin_dir) == ["show", "add", "remove", "server", "host"]
    assert complete(script, "nconnect provide add --se", bin_dir) == ["--service"]
    assert complete(script, "nconnect peer show g", bin_dir) == ["gpu-box"]
    assert complete(script, f"nconnect -c {made} ping |", bin_dir) == ["gpu-box"]
    assert complete(script, "nconnect ping gpu-box |", bin_dir) == []
    assert complete(script, "nconnect peer add g", bin_dir) == []  # a new name
    assert "--keep-trying" in complete(script, "nconnect up --k", bin_dir)
    assert "peers-for-completion" not in complete(script, "nconnect p", bin_dir)


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_goes_into_commands_and_asks_for_peers(
    run: Run, made: Path, bin_dir: Path, tmp_path: Path
) -> None:
    script = tmp_path / "nconnect.fish"
    script.write_text(run("completion", "fish").out)
    env = {**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}", "HOME": str(tmp_path)}

    def offered(line: str) -> list[str]:
        command = ["fish", "--no-config", "-c", f"source {script}; complete -C {line!r}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env, timeout=60)
        assert done.stderr == ""
        return [found.partition("\t")[0] for found in done.stdout.splitlines()]

    assert {"up", "down", "doctor", "peer"} <= set(offered("nconnect "))
    assert offered("nconnect do") == ["doctor", "down"]
    assert "remove" in offered("nconnect peer ")
    assert offered("nconnect peer show g") == ["gpu-box"]
    assert offered(f"nconnect -c {made} ping ") == ["gpu-box"]
    assert offered(f"nconnect -c {tmp_path}/none.toml ping ") == []
    assert offered("nconnect ping gpu-box ") == []
    assert offered("nconnect peer add g") == []
    assert "--keep-trying" in offered("nconnect up --k")
    assert "peers-for-completion" not in offered("nconnect p")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_goes_into_commands_and_asks_for_peers(
    run: Run, made: Path, bin_dir: Path, tmp_path: Path
) -> None:
    """In a zsh of its own, on a terminal, with Tab pressed: what it has made of the line."""
    (tmp_path / "_nconnect").write_text(run("completion", "zsh").out)
    (tmp_path / "completed.zsh").write_text(ZSH)
    env = {**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}", "HOME": str(tmp_path)}

    def completed(line: str) -> str:
        command = ["zsh", "-f", str(tmp_path / "completed.zsh"), str(tmp_path), line]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env, timeout=60)
        return done.stdout.rpartition("<<")[2].partition(">>")[0]

    assert completed("nconnect doc") == "nconnect doctor "
    assert completed("nconnect peer sh") == "nconnect peer show "
    assert completed("nconnect peer show g") == "nconnect peer show gpu-box "
    assert completed(f"nconnect -c {made} ping ") == f"nconnect -c {made} ping gpu-box "
    assert completed("nconnect peer add g") == "nconnect peer add g"
    assert completed("nconnect up --k") == "nconnect up --keep-trying "
    assert completed("nconnect peers-f") == "nconnect peers-f"


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
