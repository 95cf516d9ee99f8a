from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import CHECKOUT, check, official
from lab.check import Check, Report, Running, checks, run
from netns_tests.sharing import Share


def test_the_slow_tests_are_left_out_unless_asked_for() -> None:
    usual = {check.name: check for check in checks(Path("share"), everything=False)}
    assert "not slow" in usual["unit tests"].command
    assert all("not slow" not in check.command for check in checks(Path("share"), everything=True))
    names = ["soak", "namespace tests, 1 of 2", "namespace tests, 2 of 2"]
    assert [check.name for check in usual.values() if check.root] == names
    assert not list(usual.values())[-1].beside, "there is a next one"


def test_only_a_run_of_everything_soaks_the_official_node(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def soaks(everything: bool) -> list[str]:
        found = checks(Path("share"), everything=everything)
        return [check.name for check in found if "--official" in check.command]

    monkeypatch.setattr(official, "BUILT", tmp_path)
    assert soaks(True) == [], "it is not built"
    for name in ("nknd", "nknc"):
        (tmp_path / name).touch()
    assert soaks(False) == []
    assert soaks(True) == ["soak over the official node"]


def test_each_file_of_namespace_tests_is_taken_by_one_of_two_runs(tmp_path: Path) -> None:
    one, other = Share(tmp_path), Share(tmp_path)
    assert [one.takes("a"), other.takes("a"), other.takes("b"), one.takes("b")] == [True, False, True, False]
    assert one.takes("a"), "its second test too"


def test_what_another_run_has_begun_is_left_to_it(tmp_path: Path) -> None:
    file, share = tmp_path / "test_one.py", tmp_path / "share"
    file.write_text("def test_one(): pass\n")
    share.mkdir()
    options = ("-c", os.devnull, "-p", "netns_tests.conftest", "--share", share)
    command = (sys.executable, "-m", "pytest", *options, file)
    first, second = (
        subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert "1 passed" in first or "1 skipped" in first, "which needs root"
    assert "no tests ran" in second


def test_the_closing_line_and_the_status_are_kept() -> None:
    program = "print('..'); print('\\x1b[31m=== 2 failed, 1 passed in 0.1s ===\\x1b[0m'); exit(1)"
    outcome = run(Check("some", (sys.executable, "-c", program)), quiet=True)
    assert not outcome.ok
    assert outcome.summary == "2 failed, 1 passed in 0.1s"


def test_a_check_that_passes() -> None:
    outcome = run(Check("some", (sys.executable, "-c", "print('All checks passed!')")), quiet=True)
    assert outcome.ok
    assert outcome.summary == "All checks passed!"


def test_what_runs_beside_another_is_shown_when_it_has_ended(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    program = "print('first'); print('last'); exit(1)"
    running = Running(Check("some", (sys.executable, "-c", program)), quiet=False, held=True)
    assert running._process.wait(30) == 1
    assert capfdbinary.readouterr().out == b""
    outcome = running.outcome()
    assert not outcome.ok
    assert outcome.summary == "last"
    assert capfdbinary.readouterr().out == b"first\nlast\n"


def test_what_is_interrupted_may_clean_up() -> None:
    program = (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # it may be ignored here
        "try:\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt: print('cleaned up')\n"
    )
    running = Running(Check("some", (sys.executable, "-c", program)), quiet=True, held=True)
    assert running._held is not None
    deadline = time.monotonic() + 30
    while not os.fstat(running._held.fileno()).st_size:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.interrupt()
    assert running.outcome().summary == "cleaned up"


def test_official_programs_that_are_not_built_are_told() -> None:
    assert Report().left_out() == []
    (line,) = Report(not_built=["nknd", "nknc"]).left_out()
    assert line.startswith("left out: ")
    assert "nknd, nknc" in line
    assert "scripts/setup --dev" in line


@pytest.mark.parametrize("everything", [False, True])
def test_only_a_run_of_everything_fails_without_the_official_programs(
    everything: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(official, "BUILT", tmp_path)
    monkeypatch.setattr(check, "checks", lambda *_, **__: ())
    monkeypatch.setattr(sys, "argv", ["scripts/test", *(["--all"] if everything else [])])
    with pytest.raises(SystemExit) as ended:
        check.main()
    assert ended.value.code == (1 if everything else 0)
    assert "left out: tests with nkn-tunnel, nknc, nknd" in capsys.readouterr().out
