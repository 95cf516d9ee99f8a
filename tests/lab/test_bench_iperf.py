"""What the bench makes of iperf3's answers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lab.bench import cases
from lab.bench.__main__ import FULL
from lab.bench.bed import Bed
from lab.bench.contenders import Running
from lab.netns import LabError

GOOD = {"end": {"sum_received": {"bits_per_second": 3e9}}}
BUSY = {"error": "the server is busy running a test. try again later", "end": {}}
CUT = {"error": "control socket has closed unexpectedly", "end": {}}


def answering(*answers: dict[str, Any], closes_early: bool = False) -> Running:
    left = [json.dumps(answer) for answer in answers]

    def run(command: list[str], *, timeout_s: float) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, left.pop(0), "")

    user = SimpleNamespace(run=run)
    bed = Bed(Path(), cast(Any, user), cast(Any, None), cast(Any, None))
    return Running(bed, "10.0.0.1", "", (), None, closes_early=closes_early)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.bench.cases.time.sleep", lambda _: None)


def test_a_server_that_is_still_busy_is_asked_again() -> None:
    assert cases.tcp_up_8(answering(BUSY, BUSY, GOOD), FULL) == {"tcp_up_8": 3.0}


def test_a_connection_that_is_cut_is_a_failure() -> None:
    with pytest.raises(LabError, match="closed unexpectedly"):
        cases.tcp_up_8(answering(CUT, GOOD), FULL)


def test_but_not_where_the_tunnel_is_known_to_close_early() -> None:
    assert cases.tcp_up_8(answering(CUT, GOOD, closes_early=True), FULL) == {"tcp_up_8": 3.0}
