from __future__ import annotations

import sys

from lab.check import Check, checks, run


def test_the_slow_tests_are_left_out_unless_asked_for() -> None:
    usual = {check.name: check for check in checks(everything=False)}
    assert "not slow" in usual["unit tests"].command
    assert all("not slow" not in check.command for check in checks(everything=True))
    assert [check.name for check in usual.values() if check.root] == ["namespace tests"]


def test_the_closing_line_and_the_status_are_kept() -> None:
    program = "print('..'); print('\\x1b[31m=== 2 failed, 1 passed in 0.1s ===\\x1b[0m'); exit(1)"
    outcome = run(Check("some", (sys.executable, "-c", program)), quiet=True)
    assert not outcome.ok
    assert outcome.summary == "2 failed, 1 passed in 0.1s"


def test_a_check_that_passes() -> None:
    outcome = run(Check("some", (sys.executable, "-c", "print('All checks passed!')")), quiet=True)
    assert outcome.ok
    assert outcome.summary == "All checks passed!"
