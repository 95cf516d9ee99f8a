"""The verdict over the attacks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lab.attack.report import Outcome, Report, table

GOOD = Outcome("node", "replay", "frames again", "replayed", 7, 0.06)


def test_all_is_well() -> None:
    report = Report([GOOD, replace(GOOD, reason="", counted=0)], {"user": 1_000_000})
    assert report.ok
    assert "2 attacks, none noticed" in report.verdict()
    assert "replayed +7" in table(report.outcomes)


@pytest.mark.parametrize(
    ("outcome", "grown", "problem"),
    [
        (replace(GOOD, counted=0), 0, "was not counted as replayed"),
        (replace(GOOD, pause_s=1.2), 0, "the chat paused for 1.20 s"),
        (GOOD, 21_000_000, "grew by 21 MB"),
    ],
)
def test_what_fails(outcome: Outcome, grown: int, problem: str) -> None:
    report = Report([outcome], {"provider": grown})
    assert not report.ok
    assert problem in report.verdict()


def test_nothing_is_no_success() -> None:
    assert not Report().ok
