"""`scripts/test`: formatting, lint, types, unit tests and namespace tests, one after the other.

All of them run even when one fails; the exit status is 0 only when all that ran have passed.
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
import time
from dataclasses import asdict, dataclass, field

from lab import CHECKOUT
from lab.command import give_back, interrupt_once

FUZZ_S = 120
FUZZ_SEED = "1"  # the same in every run: a finding is the change's, `scripts/fuzz` alone looks further


@dataclass(frozen=True, slots=True)
class Check:
    """One program to run; `root` when it builds namespaces."""

    name: str
    command: tuple[str, ...]
    root: bool = False


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
    seconds: float = 0.0


def checks(*, everything: bool) -> tuple[Check, ...]:
    python = sys.executable
    marks = () if everything else ("-m", "not slow")
    return (
        Check("format", (python, "-m", "ruff", "format", "--check", ".")),
        Check("lint", (python, "-m", "ruff", "check", ".")),
        Check("types", (python, "-m", "mypy")),
        Check("documentation", ("bash", "scripts/docs", "build")),
        Check("unit tests", (python, "-m", "pytest", "tests", *marks)),
        Check("fuzz", (python, "-m", "lab.fuzz", str(FUZZ_S), "--seed", FUZZ_SEED)),
        Check("namespace tests", (python, "-m", "pytest", "netns_tests", *marks), root=True),
    )


def run(check: Check, *, quiet: bool) -> Outcome:
    """Run one check, its output passed on as it comes; with `quiet` to standard error."""
    started = time.monotonic()
    process = subprocess.Popen(
        check.command,
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches it once, from here, so that its clean-up is not cut short
    )
    assert process.stdout is not None
    last = b""
    out = sys.stderr.buffer if quiet else sys.stdout.buffer
    try:
        for line in process.stdout:
            out.write(line)
            out.flush()
            last = line.strip() or last
        status = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    finally:
        process.stdout.close()
    summary = re.sub(r"\x1b\[[0-9;]*m", "", last.decode(errors="replace")).strip("= ")
    return Outcome(check.name, status == 0, round(time.monotonic() - started, 1), summary)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/test",
        description="Formatting and lint (ruff), types (mypy --strict), the unit tests, and, as root, the"
        " tests with real daemons in network namespaces.",
    )
    parser.add_argument("--all", action="store_true", help="also the tests that take long")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object last (the rest goes to stderr)"
    )
    options = parser.parse_args()
    interrupt_once()
    out = sys.stderr if options.json else sys.stdout
    report = Report()
    started = time.monotonic()
    try:
        for check in checks(everything=options.all):
            if check.root and (os.geteuid() != 0 or shutil.which("ip") is None):
                report.skipped.append(check.name)
                continue
            print(f"--- {check.name}: {' '.join(check.command[2:])}", file=out, flush=True)
            outcome = run(check, quiet=options.json)
            report.checks.append(outcome)
            report.ok = report.ok and outcome.ok
    except KeyboardInterrupt:
        report.ok = False
        print("interrupted", file=out)
    finally:
        give_back()
    report.seconds = round(time.monotonic() - started, 1)
    print(file=out)
    for outcome in report.checks:
        word = "ok    " if outcome.ok else "FAILED"
        print(f"{word} {outcome.seconds:6.1f} s  {outcome.name}: {outcome.summary}", file=out)
    if report.skipped:
        print(f"left out: {', '.join(report.skipped)} (they need root: sudo ./scripts/test)", file=out)
    print(f"{'all passed' if report.ok else 'FAILED'} in {report.seconds:.0f} s", file=out, flush=True)
    if options.json:
        print(json.dumps(asdict(report)))
    sys.exit(0 if report.ok else 1)


if __name__ == "__main__":
    main()
