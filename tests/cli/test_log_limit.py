"""How much others can make a process log is bounded."""

from __future__ import annotations

import io
import logging

import pytest

from nconnect.cli import log_limit
from nconnect.cli.log_limit import BURST, EVERY_S, LogLimit
from nconnect.cli.logs import log_to_stderr

log = logging.getLogger("nconnect.test")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return [0.0]


@pytest.fixture
def written(now: list[float]) -> io.StringIO:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(LogLimit(lambda: now[0]))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    return stream


def _up(peer: str) -> None:
    log.info("%s: session up", peer, extra={"peer": peer})


def test_a_peer_that_comes_and_goes_for_a_day_writes_little(now: list[float], written: io.StringIO) -> None:
    for number in range(86_400):  # one a second; it may do twenty
        now[0] = float(number)
        _up("evil")
        if number == 50_000:
            _up("laptop")
            log.info("something else")
    lines = written.getvalue().splitlines()
    assert len(lines) <= BURST + 86_400 / EVERY_S + 3
    assert lines[BURST - 1] == "evil: session up"
    assert lines[-1].endswith("(9 lines like this were left out)")
    assert "laptop: session up" in lines, "another peer's line is not held back"
    assert "something else" in lines


def test_what_is_said_now_and_then_is_said_each_time(now: list[float], written: io.StringIO) -> None:
    for number in range(1000):
        now[0] = number * EVERY_S
        _up("laptop")
    assert written.getvalue() == "laptop: session up\n" * 1000


def test_the_kinds_that_are_counted_are_bounded(
    now: list[float], written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_limit, "MAX_KINDS", 50)
    limit = LogLimit(lambda: 0.0)
    for number in range(500):
        record = logging.LogRecord("x", logging.INFO, "file", 1, "text", (), None)
        record.peer = f"peer {number}"
        assert limit.filter(record)
        assert len(limit._kinds) <= 50


def test_a_process_s_log_has_it() -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    try:
        log_to_stderr(stream=stream)
        for _ in range(3 * BURST):
            logging.getLogger("nconnect.other").info("again")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert len(stream.getvalue().splitlines()) == BURST
