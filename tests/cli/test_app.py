from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run

COMMANDS = ["init", "up", "down", "wait", "status", "address", "ping", "node", "version", "peer"]
HEAVY = ["asyncio", "rich", "pydantic", "tomlkit", "nacl", "cryptography", "uvloop", "h11"]


def test_help_names_every_command(run: Run) -> None:
    result = run("--help")
    assert result.status == 0
    assert all(f"\n  {command} " in result.out for command in COMMANDS)
    assert run().out == result.out


def test_no_summary_is_cut_off(run: Run) -> None:
    for group in ([], ["peer"], ["invite"], ["config"], ["node"]):
        text = run(*group, "--help").out
        assert "Commands" in text or "Set up:" in text
        assert "..." not in text.replace("[ARGS]...", "")


def test_help_of_a_group_ends_in_examples(run: Run) -> None:
    """`invite --help` is what a person reads who wants to invite; the options are those of `invite new`."""
    text = run("invite", "--help").out
    assert text.rstrip().rpartition("\n\n")[2].startswith("Examples:\n  sudo nconnect invite ")
    assert "nconnect invite new --help" in text
    assert "Examples:\n  sudo nconnect provide " in run("provide", "--help").out


@pytest.mark.parametrize(
    "command", [*COMMANDS, *(f"peer {c}" for c in ("add", "list", "show", "set", "remove"))]
)
def test_each_command_has_help(run: Run, command: str) -> None:
    result = run(*command.split(), "--help")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(f"Usage: nconnect {command}")


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from nconnect.cli.app import main
main(["--help"])
print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr == "[]\n"


def test_as_a_module() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "nconnect", "statsu"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("nconnect: error: no such command 'statsu'. Did you mean 'status'?")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["statsu"], "did you mean 'status'"),
        (["up", "--frobnicate"], "no such option: --frobnicate"),
        (["wait", "--timeout", "soon"], "'--timeout'"),
        (["wait", "--timeout", "-1"], "'--timeout'"),
        (["wait", "a", "b"], "unexpected extra argument"),
        (["node"], "missing option '--listen'"),
        (["node", "--listen"], "requires an argument"),
        (["node", "--listen", "0.0.0.0:30002"], "without port"),
        (["node", "--listen", "0.0.0.0", "--ws-port", "70000"], "'--ws-port'"),
        (["node", "--listen", "0.0.0.0", "--ws-port", "5", "--rpc-port", "5"], "give each its own"),
        (["peer", "ad"], "did you mean 'add'"),
        (["peer", "add"], "missing argument 'NAME'"),
        (["peer", "show"], "missing argument 'NAME'"),
        (["ping"], "missing argument 'PEER'"),
        (["ping", "a", "--count", "0"], "'--count'"),
        (["status", "--watch", "--json"], "give only one of them"),
        (["-c"], "requires an argument"),
    ],
)
def test_usage_errors_are_one_line_and_status_2(run: Run, arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert result.status == 2
    assert result.out == ""
    assert result.err.startswith("nconnect: error: ")
    assert result.err.count("\n") == 1
    assert says.lower() in result.err.lower()


def test_an_unexpected_error_is_one_line_and_debug_shows_where(
    run: Run, monkeypatch: pytest.MonkeyPatch, made: Path
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr("nconnect.io.files.config_file.load", broken)
    result = run("address")
    assert result.status == 1
    assert result.err == (
        "nconnect: error: unexpected ZeroDivisionError: no such luck"
        " (a bug in nconnect: --debug shows where)\n"
    )
    result = run("address", "--debug")
    assert result.status == 1
    assert "Traceback" in result.err
    assert result.err.endswith("nconnect: error: unexpected ZeroDivisionError: no such luck\n")


def test_an_interrupt_is_status_130_and_silent(run: Run, monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nconnect.io.files.config_file.load", interrupted)
    result = run("address")
    assert (result.status, result.err) == (130, "")


def test_a_closed_pipe_is_no_traceback(made: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nconnect", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert err == ""
    assert process.returncode == 1


def test_the_file_may_be_named_before_or_after_the_command(run: Run, made: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    assert run("init", "--address", "10.86.0.9/24", "-c", other).status == 0
    first, second = run("address").out, run("address", "-c", other).out
    assert first != second
    assert run("-c", other, "address").out == second
    assert run(f"--config={other}", "address").out == second
    assert run("-c", made, "address", "-c", other).out == second
    for where in (
        ["-c", other, "peer", "list"],
        ["peer", "-c", other, "list"],
        ["peer", "list", "-c", other],
    ):
        assert run(*where, "--json").out == '{"peers": []}\n'
    assert run("-c", tmp_path / "none.toml", "peer", "list").status == 2
