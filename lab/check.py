"""`scripts/test`: formatting, lint, types, unit tests and namespace tests, one after the other.

What mostly waits runs beside the next one, and is shown when both have ended. All of them run even when one
fails; the exit status is 0 only when all that ran have passed.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from lab import CHECKOUT, official
from lab.command import give_back, interrupt_once

FUZZ_S = 120
SOAK_MINUTES = 3
OFFICIAL_SOAK_MINUTES = 10
SEED = "1"  # the same in every run: a finding is the change's, `scripts/fuzz` and `scripts/soak` look further


@dataclass(frozen=True, slots=True)
class Check:
    """One program to run; `root` when it builds namespaces, `beside` when it may run beside the next one."""

    name: str
    command: tuple[str, ...]
    root: bool = False
    beside: bool = False


@dataclass
class Outcome:
    name: str
    ok: bool
    seconds: float
    summary: str  # the program's closing line


@dataclass
class Report:
    ok: bool = True
    checks: list[Outcome] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    not_built: list[str] = field(default_factory=list)  # official programs, whose tests are left out
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.checks.append(outcome)
        self.ok = self.ok and outcome.ok

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
    """In their order; the runs of the namespace tests share them by means of the folder `share`."""
    python = sys.executable
    marks = () if everything else ("-m", "not slow")
    return (
        Check("format", (python, "-m", "ruff", "format", "--check", ".")),
        Check("lint", (python, "-m", "ruff", "check", ".")),
        Check("types", (python, "-m", "mypy")),
        Check("documentation", ("bash", "scripts/docs", "build")),
        Check(
            "soak",
            (python, "-m", "lab.soak", "--minutes", str(SOAK_MINUTES), "--seed", SEED),
            root=True,
            beside=True,
        ),
        Check("unit tests", (python, "-m", "pytest", "tests", *marks)),
        *(_long_soaks(python) if everything else ()),
        Check("fuzz", (python, "-m", "lab.fuzz", str(FUZZ_S), "--seed", SEED)),
        # Two runs, one beside the other: their daemons wait most of the time, each in a world of its own.
        *(
            Check(
                f"namespace tests, {number} of 2",
                (python, "-m", "pytest", "netns_tests", "--share", str(share), *marks),
                root=True,
                beside=number == 1,
            )
            for number in (1, 2)
        ),
    )


def _long_soaks(python: str) -> list[Check]:
    if official.missing("nknd", "nknc"):  # which fails the run, and is told at its end
        return []
    command = (python, "-m", "lab.soak", "--official", "--minutes", str(OFFICIAL_SOAK_MINUTES))
    name = "soak over the official node"
    return [Check(name, (*command, "--seed", SEED), root=True, beside=True)]


class Running:
    """A check that was started. Its output is passed on as it comes, or with `held` once it has ended."""

    def __init__(self, check: Check, *, quiet: bool, held: bool = False) -> None:
        """`quiet`: to standard error."""
        self._check = check
        self._out = sys.stderr.buffer if quiet else sys.stdout.buffer
        self._held = tempfile.TemporaryFile() if held else None  # noqa: SIM115 (until `outcome`)
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            check.command,
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=self._held or subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it once, from here: its clean-up is not cut short
        )

    def outcome(self) -> Outcome:
        """Wait for its end."""
        try:
            last = self._pass_on(self._process.stdout) if self._process.stdout is not None else b""
            status = self._process.wait()
            seconds = time.monotonic() - self._started
            if self._held is not None:
                self._held.seek(0)
                last = self._pass_on(self._held)
        except KeyboardInterrupt:
            self.interrupt()
            raise
        finally:
            for file in (self._process.stdout, self._held):
                if file is not None:
                    file.close()
        summary = re.sub(r"\x1b\[[0-9;]*m", "", last.decode(errors="replace")).strip("= ")
        return Outcome(self._check.name, status == 0, round(seconds, 1), summary)

    def interrupt(self) -> None:
        """End it early, and wait until it has cleaned up."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait()

    def _pass_on(self, source: IO[bytes]) -> bytes:
        """The last line that says something."""
        last = b""
        for line in source:
            self._out.write(line)
            self._out.flush()
            last = line.strip() or last
        return last


def run(check: Check, *, quiet: bool) -> Outcome:
    """Run one check to its end."""
    return Running(check, quiet=quiet).outcome()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/test",
        description="Formatting and lint (ruff), types (mypy --strict), the unit tests, fuzzing, and, as"
        " root, a soak and the tests with real daemons in network namespaces.",
    )
    parser.add_argument("--all", action="store_true", help="also the tests that take long")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object last (the rest goes to stderr)"
    )
    options = parser.parse_args()
    interrupt_once()
    out = sys.stderr if options.json else sys.stdout
    report = Report(not_built=official.missing())
    report.ok = not (options.all and report.not_built)
    started = time.monotonic()
    beside: list[Running] = []
    share = tempfile.TemporaryDirectory()
    try:
        for check in checks(Path(share.name), everything=options.all):
            if check.root and (os.geteuid() != 0 or shutil.which("ip") is None):
                report.skipped.append(check.name)
                continue
            words = "beside the next one: " if check.beside else ""
            print(f"--- {check.name}: {words}{' '.join(check.command[2:])}", file=out, flush=True)
            if check.beside:
                beside.append(Running(check, quiet=options.json, held=True))
                continue
            report.add(run(check, quiet=options.json))
            while beside:
                report.add(beside[0].outcome())
                beside.pop(0)
    except KeyboardInterrupt:
        report.ok = False
        print("interrupted", file=out)
    finally:
        for running in beside:
            running.interrupt()
        share.cleanup()
        give_back()
    report.seconds = round(time.monotonic() - started, 1)
    print(file=out)
    for outcome in report.checks:
        word = "ok    " if outcome.ok else "FAILED"
        print(f"{word} {outcome.seconds:6.1f} s  {outcome.name}: {outcome.summary}", file=out)
    for line in report.left_out():
        print(line, file=out)
    print(f"{'all passed' if report.ok else 'FAILED'} in {report.seconds:.0f} s", file=out, flush=True)
    if options.json:
        print(json.dumps(asdict(report)))
    sys.exit(0 if report.ok else 1)


if __name__ == "__main__":
    main()
