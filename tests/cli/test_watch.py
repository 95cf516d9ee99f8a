from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from lab.terminal import on_terminal
from nconnect.cli import watch
from tests.control.fake import STATUS, running


def test_rates_between() -> None:
    laptop, phone = STATUS.peers
    later = replace(
        STATUS, peers=(replace(laptop, rx_bytes=laptop.rx_bytes + 100), replace(phone, name="new"))
    )
    assert watch.rates_between(STATUS, later, 2.0) == {"laptop": (50.0, 0.0)}
    assert watch.rates_between(STATUS, later, 0.0) == {}


def test_counters_that_began_anew_have_no_rate() -> None:
    laptop, phone = STATUS.peers
    assert "laptop" not in watch.rates_between(
        STATUS, replace(STATUS, peers=(replace(laptop, rx_bytes=0), phone)), 1
    )


@pytest.mark.parametrize(("typed", "ends"), [(b"q", True), (b"xQ", True), (b"x", False), (b"", False)])
def test_q_ends_it(typed: bytes, ends: bool) -> None:
    reader, writer = os.pipe()
    os.write(writer, typed)
    os.close(writer)
    try:
        assert watch._Keys(reader)(0.05) is ends
    finally:
        os.close(reader)


def test_without_keys_it_waits() -> None:
    assert watch._Keys(None)(0.01) is False


def test_it_survives_a_restart_of_the_daemon_and_ends_by_q(made: Path, tmp_path: Path) -> None:
    """On a real terminal. The daemon goes once it was seen, and comes back once its absence was."""
    seen: list[str] = []
    daemon = ExitStack()
    daemon.enter_context(running(tmp_path / "run" / "nc0.sock"))

    def ends(screen: str) -> bool:
        if not screen.endswith("q ends this"):
            return False  # so far half of it was read
        if not seen and "nc0 is running" in screen:
            seen.append("up")
            daemon.close()
        elif seen == ["up"] and "(waiting for it)" in screen:
            seen.append("gone")
            assert "round trip" in screen  # the graphs stay, with a gap
            daemon.enter_context(running(tmp_path / "run" / "nc0.sock"))
        elif seen == ["up", "gone"] and "nc0 is running" in screen:
            seen.append("up again")
        return len(seen) == 3

    command = [sys.executable, "-m", "nconnect", "-c", str(made), "status", "--watch"]
    with daemon:
        shown = on_terminal(command, env={}, ends=ends, key="q", timeout_s=30)
    assert seen == ["up", "gone", "up again"]
    assert shown.endswith("q ends this")
    assert "\x1b[32mup\x1b[0m" in shown
