"""The attacks' table, and the verdict over them."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import pytest

from lab.attack.__main__ import at_most
from lab.attack.overheard import UDP, Seen
from lab.attack.packets import MORE_FRAGMENTS, ipv4, udp
from lab.attack.report import Outcome, Report, table
from lab.attack.rows import PARTS
from lab.netns import LabError

GOOD = Outcome("tunnel", "node", "replay", "frames again", "", "", "replayed +7", 0.06, 0.1)


def test_all_is_well() -> None:
    report = Report([GOOD, replace(GOOD, seen="")], {"user": 1_000_000})
    assert report.ok
    assert "2 attacks, none worked" in report.verdict()
    assert "replayed +7" in table(report.outcomes)


@pytest.mark.parametrize(
    ("outcome", "grown", "problem"),
    [
        (replace(GOOD, achieved="it was not counted as replayed"), 0, "was not counted as replayed"),
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


def test_each_attack_has_a_name_of_its_own() -> None:
    names = Counter(attack.name for rows in PARTS.values() for attack in rows)
    assert not [name for name, count in names.items() if count > 1]


def test_a_row_that_takes_too_long_is_stopped() -> None:
    with pytest.raises(LabError, match="not done"), at_most(0.01):
        time.sleep(10)


def test_what_is_overheard() -> None:
    packet = ipv4("192.0.2.1", "192.0.2.2", UDP, udp(5000, 53, b"word"))
    assert Seen.parse(packet + b"padding") == Seen(UDP, "192.0.2.1", 5000, "192.0.2.2", 53, 32, b"word")
    later = ipv4("192.0.2.1", "192.0.2.2", UDP, b"the rest", fragment=MORE_FRAGMENTS | 1)
    assert Seen.parse(later) == Seen(UDP, "192.0.2.1", 0, "192.0.2.2", 0, 28, b"the rest")
    for cut in (b"", b"\x60" + bytes(39), packet[:19]):
        assert Seen.parse(cut) is None
