from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest

from lab import CHECKOUT, check, official, shared
from lab.check import Check, Outcome, Progress, Report, Running, checks, run
from lab.shared import Phase, Share


def program(text: str, name: str = "some") -> Check:
    return Check(name, (sys.executable, "-c", text))


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


def ended(started: Running) -> Outcome:
    deadline = time.monotonic() + 30
    while not (outcome := started.poll()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return outcome


def outcome_of(text: str) -> tuple[Outcome, bytes]:
    started, shown = Running(program(text)), io.BytesIO()
    outcome = ended(started)
    started.show(shown)
    return outcome, shown.getvalue()


@pytest.fixture
def share(tmp_path: Path) -> Share:
    folder = tmp_path / "share"
    folder.mkdir()
    return Share(folder)


@pytest.fixture
def progress(share: Share) -> Progress:
    return Progress(share, io.StringIO())


def test_the_slow_tests_and_the_long_fuzzing_and_soak_are_left_out_unless_asked_for() -> None:
    usual = {check.name: check.command for check in checks(Path("share"), everything=False)}
    everything = {check.name: check.command for check in checks(Path("share"), everything=True)}
    assert usual.keys() <= everything.keys()
    runs = [name for name in usual if "tests" in name]
    assert len(runs) == 5
    assert all("not slow" in usual[name] and "not slow" not in everything[name] for name in runs)
    assert "1" in usual["soak"]
    assert "3" in everything["soak"]
    assert usual["fuzz"] != everything["fuzz"]


def test_what_needs_root_says_so_and_what_is_divided_comes_last() -> None:
    wanted = checks(Path("share"), everything=False)
    for each in wanted:
        assert each.root is (each.name == "soak" or each.name.startswith("namespace tests"))
    assert [each.name.partition(",")[0] for each in wanted[-3:]] == [
        "unit tests",
        "namespace tests",
        "unit tests",
    ]


def test_the_closing_line_and_the_status_are_kept() -> None:
    outcome, shown = outcome_of("print('..'); print('\\x1b[31m=== 2 failed in 0.1s ===\\x1b[0m'); exit(1)")
    assert not outcome.ok
    assert outcome.summary == "2 failed in 0.1s"
    assert shown.startswith(b"..\n")


def test_a_check_that_passes_and_says_nothing() -> None:
    outcome, shown = outcome_of("pass")
    assert outcome.ok
    assert (outcome.summary, shown) == ("", b"")


def test_processor_time_is_that_of_the_program() -> None:
    text = "import time\nwhile time.process_time() < 0.3: pass\ntime.sleep(0.3)"
    outcome, _ = outcome_of(text)
    assert 0.3 <= outcome.processor_s < 5
    assert outcome.seconds >= 0.6


def test_all_run_and_a_failure_is_told_at_once(
    share: Share, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(check, "TELL_EVERY_S", 0.0)
    failed = Phase("tests/test_x.py::test_it", "call", 0.5, True)
    share.add(failed)
    share.add(Phase(failed.test, "teardown", 0.0, False))
    report, shown, said = Report(), io.BytesIO(), progress._out
    run(deque(program(f"print({n}); exit({n})", f"number {n}") for n in range(5)), report, progress, shown)
    assert sorted(outcome.name for outcome in report.checks) == [f"number {n}" for n in range(5)]
    assert [outcome.name for outcome in report.checks if outcome.ok] == ["number 0"]
    assert not report.ok
    assert sorted(shown.getvalue().split()) == [b"0", b"1", b"2", b"3", b"4"]
    assert isinstance(said, io.StringIO)
    assert said.getvalue().count("FAILED tests/test_x.py::test_it ") == 1
    assert "tests done: 1 of tests; running: " in said.getvalue()


def test_so_many_run_at_once(tmp_path: Path, progress: Progress) -> None:
    """The first ones wait for one another: they would never end one after the other."""
    meet = (
        "import pathlib, sys, time\n"
        f"folder = pathlib.Path({str(tmp_path / 'met')!r})\n"
        "folder.mkdir(exist_ok=True); (folder / sys.argv[1]).touch()\n"
        f"while len(list(folder.iterdir())) < {check.AT_ONCE}: time.sleep(0.01)\n"
    )
    names = [str(number) for number in range(check.AT_ONCE + 1)]
    todo = deque(Check(name, (sys.executable, "-c", meet, name)) for name in names)
    report = Report()
    run(todo, report, progress, io.BytesIO())
    assert report.ok
    assert len(report.checks) == check.AT_ONCE + 1


def test_what_is_interrupted_may_clean_up(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    started = Running(
        program(
            "import pathlib, signal, time\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # it may be ignored here
            "try:\n"
            f"    pathlib.Path({str(ready)!r}).touch()\n"
            "    time.sleep(60)\n"
            "except KeyboardInterrupt: print('cleaned up')\n"
        )
    )
    deadline = time.monotonic() + 30
    while not ready.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert started.interrupt().summary == "cleaned up"
    started.show(io.BytesIO())


def test_each_file_is_taken_by_one_of_two_runs(tmp_path: Path) -> None:
    one, other = Share(tmp_path), Share(tmp_path)
    assert [one.takes("a"), other.takes("a"), other.takes("b"), one.takes("b")] == [True, False, True, False]
    assert one.takes("a"), "its second test too"


def pytest_with(share: Path, *files: Path) -> str:
    options = (
        "-c",
        os.devnull,
        "--rootdir",
        str(share.parent),
        "-p",
        "lab.sharing",
        "--share",
        str(share),
        "-v",
    )
    command: tuple[str | Path, ...] = (sys.executable, "-m", "pytest", *options, *files)
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False).stdout


def test_what_another_run_has_begun_is_left_to_it(tmp_path: Path) -> None:
    file, share = tmp_path / "test_one.py", tmp_path / "share"
    file.write_text("def test_good(): pass\ndef test_bad(): assert 0\n")
    share.mkdir()
    first, second = pytest_with(share, file), pytest_with(share, file)
    assert "1 failed, 1 passed" in first
    assert "no tests ran" in second
    phases = Share(share).phases()
    assert [phase.test for phase in phases if phase.failed] == ["test_one.py::test_bad"]
    assert sum(phase.when == "teardown" for phase in phases) == 2
    assert Share(share).seconds()["test_one.py"] == sum(phase.seconds for phase in phases)


def test_what_is_left_to_another_run_leaves_nothing_set_up(tmp_path: Path) -> None:
    """The file between two others is in the folder of the first, and the second one is in another folder."""
    names = ("some/test_one.py", "some/test_two.py", "other/test_three.py")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("def test_good(): pass\n")
    share = tmp_path / "share"
    share.mkdir()
    assert Share(share).takes("some/test_two.py")
    assert "2 passed" in pytest_with(share, *(tmp_path / name for name in names))


def test_the_files_that_take_longest_come_first(tmp_path: Path) -> None:
    """By the recorded times."""
    recorded = shared.recorded()
    assert list(recorded.values()) == sorted(recorded.values(), reverse=True)
    folder = tmp_path / "share"
    folder.mkdir()
    short, long = CHECKOUT / "tests/test_locks.py", CHECKOUT / "tests/lab/test_ping.py"
    table = tmp_path / "durations.json"
    table.write_text(json.dumps({"tests/lab/test_ping.py": 9.0, "tests/test_locks.py": 2.0}))
    program = (
        "import pathlib, sys, pytest\nfrom lab import shared, sharing\n"
        f"shared.RECORDED = pathlib.Path({str(table)!r})\n"
        "sys.exit(pytest.main(sys.argv[1:], plugins=[sharing]))"
    )
    command = (sys.executable, "-c", program, "--collect-only", "-q", "--share", folder, short, long)
    said = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    assert said.index("test_ping.py") < said.index("test_locks.py")


def test_recorded_times_are_replaced_and_short_ones_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "RECORDED", tmp_path / "durations.json")
    monkeypatch.setattr(shared, "CHECKOUT", tmp_path)
    before = {"gone.py": 9.0, "kept.py": 3.0, "slower.py": 2.0, "faster.py": 2.0}
    shared.RECORDED.write_text(json.dumps(before))
    for name in ("kept.py", "slower.py", "faster.py", "new.py"):
        (tmp_path / name).touch()
    shared.record({"slower.py": 4.04, "faster.py": 0.4, "new.py": 5.0})
    assert list(shared.recorded().items()) == [("new.py", 5.0), ("slower.py", 4.0), ("kept.py", 3.0)]


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
    assert "left out: tests with nkn-sdk-go, nkn-tunnel, nknc, nknd" in capsys.readouterr().out
