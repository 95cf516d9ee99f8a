"""`scripts/test`: formatting, lint, types, documentation, unit tests, fuzzing, soak and namespace tests.

Most of them wait for much of their time, so a few run at once. The unit tests and the namespace tests are
several runs each, which share the test files (`lab.sharing`). Every check runs even when another fails; the
exit status is 0 only if all that ran have passed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, TextIO

from lab import CHECKOUT, official
from lab.command import give_back, interrupt_once
from lab.interpreters import interpreters
from lab.shared import Share, record, recorded

AT_ONCE = 3  # on two processors: the tests use half of one on average
# Seconds of fuzzing for all targets together, and minutes of soak: a smoke, and with --all more.
FUZZ_S, SOAK_MINUTES = 30, 1
ALL_FUZZ_S, ALL_SOAK_MINUTES = 240, 3
OFFICIAL_SOAK_MINUTES = 10
SEED = (
    "1"  # the same in every run, so that a change causes a finding; scripts/fuzz and scripts/soak try others
)
POLL_S = 0.2
LOOK_EVERY_S, TELL_EVERY_S = (
    5.0,
    20.0,
)  # seconds between looks for failures, and between lines of output at most
LONG_S = 20.0  # a test file that takes longer must be in the table of recorded times


@dataclass(frozen=True, slots=True)
class Check:
    """One program to run. `root`: it builds namespaces. `nice`: it runs with a lower priority."""

    name: str
    command: tuple[str, ...]
    root: bool = False
    nice: bool = False


@dataclass
class Outcome:
    name: str
    ok: bool
    seconds: float
    processor_s: float  # of the program and its children
    summary: str  # the program's closing line


@dataclass
class Report:
    ok: bool = True
    checks: list[Outcome] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    not_built: list[str] = field(default_factory=list)  # official programs, whose tests are left out
    seconds: float = 0.0
    processor_s: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.checks.append(outcome)
        self.ok = self.ok and outcome.ok
        self.processor_s = round(self.processor_s + outcome.processor_s, 1)

    def left_out(self) -> list[str]:
        """What was not checked, and what to do about it, a line each."""
        lines = []
        if self.skipped:
            lines.append(f"left out: {', '.join(self.skipped)} (they need root: sudo ./scripts/test)")
        if self.not_built:
            names = ", ".join(self.not_built)
            lines.append(f"left out: tests with {names} (not built: see scripts/setup --dev)")
        return lines


def checks(share: Path, *, everything: bool) -> tuple[Check, ...]:
    """All checks, in the order in which they are started. Runs of the same tests share files by a folder.

    Checks that cannot be divided come early, and the runs of tests, which can, fill the end.
    """
    python = sys.executable
    marks = () if everything else ("-m", "not slow")
    fuzz_s, soak_minutes = (ALL_FUZZ_S, ALL_SOAK_MINUTES) if everything else (FUZZ_S, SOAK_MINUTES)

    def tests(name: str, folder: str, number: int, *, root: bool = False) -> Check:
        command = (python, "-m", "pytest", "-p", "lab.sharing", "--share", str(share), folder, *marks)
        return Check(f"{name}, run {number}", command, root=root)

    return (
        Check("format", (python, "-m", "ruff", "format", "--check", ".")),
        Check("lint", (python, "-m", "ruff", "check", ".")),
        tests("namespace tests", "netns_tests", 1, root=True),
        tests("namespace tests", "netns_tests", 2, root=True),
        Check("fuzz", (python, "-m", "lab.fuzz", str(fuzz_s), "--workers", "1", "--seed", SEED), nice=True),
        *(_long_soaks(python) if everything else ()),
        *(_other_pythons(python) if everything else ()),
        Check("soak", (python, "-m", "lab.soak", "--minutes", str(soak_minutes), "--seed", SEED), root=True),
        Check("types", (python, "-m", "mypy"), nice=True),
        Check("documentation", ("bash", "scripts/docs", "build"), nice=True),
        tests("unit tests", "tests", 1),
        tests("namespace tests", "netns_tests", 3, root=True),
        tests("unit tests", "tests", 2),
    )


def _other_pythons(python: str) -> list[Check]:
    """The unit tests on the other versions that nconnect supports, as far as they are on this machine."""
    others = [version for version in interpreters() if version != sys.version_info[:2]]
    names = ["{}.{}".format(*version) for version in others]
    return [
        Check(f"unit tests, Python {name}", (python, "-m", "lab.other_python", name), nice=True)
        for name in names
    ]


def _long_soaks(python: str) -> list[Check]:
    if official.missing("nknd", "nknc"):  # the run fails, and says so at its end
        return []
    command = (python, "-m", "lab.soak", "--official", "--minutes", str(OFFICIAL_SOAK_MINUTES))
    name = "soak over the official node"
    return [Check(name, (*command, "--seed", SEED), root=True)]


class Running:
    """A check that was started. Its output is kept until it has ended."""

    def __init__(self, check: Check) -> None:
        self.name = check.name
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (until `show`)
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [*(("nice", "-n", "10") if check.nice else ()), *check.command],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it by `interrupt` only, once
        )

    def poll(self) -> Outcome | None:
        """Its outcome once it has ended."""
        return self._wait(os.WNOHANG)

    def interrupt(self) -> Outcome:
        """End it early, and wait until it has cleaned up."""
        if self._process.returncode is None:
            os.kill(self._process.pid, signal.SIGINT)
        outcome = self._wait(0)
        assert outcome is not None
        return outcome

    def show(self, out: BinaryIO) -> None:
        """Copy its output; it must have ended."""
        with self._output:
            self._output.seek(0)
            shutil.copyfileobj(self._output, out)
        out.flush()

    def _wait(self, options: int) -> Outcome | None:
        pid, status, usage = os.wait4(self._process.pid, options)
        if pid == 0:
            return None
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return Outcome(
            self.name,
            self._process.returncode == 0,
            round(time.monotonic() - self._started, 1),
            round(usage.ru_utime + usage.ru_stime, 1),
            self._closing_line(),
        )

    def _closing_line(self) -> str:
        self._output.seek(0)
        lines = [line for line in self._output.read().decode(errors="replace").splitlines() if line.strip()]
        return re.sub(r"\x1b\[[0-9;]*m", "", lines[-1]).strip("= ") if lines else ""


class Progress:
    """Prints what runs, how many tests are done, and each failure at once."""

    def __init__(self, share: Share, out: TextIO) -> None:
        self._share = share
        self._out = out
        self._started = self._looked = self._told = time.monotonic()
        self._failures: set[str] = set()

    def say(self, text: str) -> None:
        self._told = time.monotonic()
        print(f"{self._told - self._started:5.0f} s  {text}", file=self._out, flush=True)

    def tell(self, running: list[Running]) -> None:
        if time.monotonic() < self._looked + LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        phases = self._share.phases()
        for failure in sorted({phase.test for phase in phases if phase.failed} - self._failures):
            self._failures.add(failure)
            self.say(f"FAILED {failure} (its run tells more when it ends)")
        if time.monotonic() >= self._told + TELL_EVERY_S:
            done = Counter(phase.test.partition("/")[0] for phase in phases if phase.when == "teardown")
            tests = ", ".join(f"{count} of {folder}" for folder, count in sorted(done.items()))
            self.say(f"tests done: {tests or 'none'}; running: {', '.join(each.name for each in running)}")


def run(todo: deque[Check], report: Report, progress: Progress, out: BinaryIO) -> None:
    """Run all, some at once, and show the output of each when it ends."""
    running: list[Running] = []
    try:
        while todo or running:
            while todo and len(running) < AT_ONCE:
                check = todo.popleft()
                progress.say(f"start {check.name}: {' '.join(check.command)}")
                running.append(Running(check))
            time.sleep(POLL_S)
            for each in list(running):
                if outcome := each.poll():
                    running.remove(each)
                    report.add(outcome)
                    each.show(out)
                    progress.say(f"{'passed' if outcome.ok else 'FAILED'}: {outcome.name}")
            progress.tell(running)
    finally:
        for each in running:
            report.add(each.interrupt())
            each.show(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/test",
        description="Formatting and lint (ruff), types (mypy --strict), the documentation, the unit tests,"
        " fuzzing, and, as root, a soak and the tests with real daemons in network namespaces.",
    )
    parser.add_argument("--all", action="store_true", help="also the tests that take long")
    parser.add_argument(
        "--record", action="store_true", help="keep how long each test file took, in lab/durations.json"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object last (the rest goes to stderr)"
    )
    options = parser.parse_args()
    if options.all and options.record:
        parser.error("--record keeps the times of a run without --all: give one of the two")
    interrupt_once()
    out = sys.stderr if options.json else sys.stdout
    report = Report(not_built=official.missing())
    report.ok = not (options.all and report.not_built)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        share = Share(Path(folder))
        root = os.geteuid() == 0 and shutil.which("ip") is not None
        wanted = checks(Path(folder), everything=options.all)
        report.skipped = [check.name for check in wanted if check.root and not root]
        todo = deque(check for check in wanted if check.name not in report.skipped)
        try:
            run(todo, report, Progress(share, out), out.buffer)
        except KeyboardInterrupt:
            report.ok = False
            print("interrupted", file=out)
        else:
            if options.record:
                record(share.seconds())
        finally:
            give_back()
        measured = share.seconds()
    report.seconds = round(time.monotonic() - started, 1)
    _print(report, out)
    late = [name for name, seconds in measured.items() if seconds > LONG_S and name not in recorded()]
    if late and not options.all:
        print(f"not in lab/durations.json (scripts/test --record): {', '.join(late)}", file=out)
    if options.json:
        print(json.dumps(asdict(report)))
    sys.exit(0 if report.ok else 1)


def _print(report: Report, out: TextIO) -> None:
    """A line for each check: how long it took, and how much of that time it used a processor."""
    print("\n          time  processor", file=out)
    for outcome in report.checks:
        word = "ok    " if outcome.ok else "FAILED"
        times = f"{outcome.seconds:6.1f} s {outcome.processor_s:8.1f} s"
        print(f"{word} {times}  {outcome.name}: {outcome.summary}", file=out)
    for line in report.left_out():
        print(line, file=out)
    took = f"{report.seconds:.0f} s, {report.processor_s:.0f} s of processor time"
    print(f"{'all passed' if report.ok else 'FAILED'} in {took}", file=out, flush=True)


if __name__ == "__main__":
    main()
