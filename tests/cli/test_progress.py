from __future__ import annotations

import asyncio
import io
import logging
import threading
from dataclasses import replace

import pytest

from nconnect.cli.progress import LiveLine, Progress, live_text, reachable
from nconnect.control.schema import LinkStatus, Status
from nconnect.errors import HostError
from tests.clocks import HandClock
from tests.control.fake import STATUS


@pytest.fixture
def terminal() -> io.StringIO:
    return io.StringIO()


def emit(progress: Progress, text: str, level: int = logging.INFO, **fields: object) -> None:
    record = logging.makeLogRecord({"levelno": level, "msg": text} | fields)
    progress.handle(record)


def test_each_step_has_its_time(terminal: io.StringIO) -> None:
    clock = HandClock(100.0)
    progress = Progress(terminal, clock=clock)
    clock.now += 0.12
    emit(progress, "node found: 203.0.113.7:30002", logging.DEBUG, event="node_found")
    clock.now += 0.30
    emit(progress, "nc0 is up as x.4d6f, logged in at node n", event="up", interface="nc0")
    emit(
        progress,
        "gpu-box: session up",
        event="peer_up",
        peer="gpu-box",
        allowed_ips=["10.86.0.1/32", "192.168.50.0/24"],
    )
    emit(progress, "gpu-box: session up", event="peer_up", peer="gpu-box", allowed_ips=["10.86.0.1/32"])
    assert terminal.getvalue().splitlines() == [
        "   0.12 s node found: 203.0.113.7:30002",
        "   0.42 s nc0 is up (Ctrl-C ends it)",
        "   0.42 s gpu-box reached",
        "          routed through gpu-box: 10.86.0.1, 192.168.50.0/24",
        "   0.42 s gpu-box reached",
    ]


def test_what_can_be_reached_is_said_once_the_routes_are_set(terminal: io.StringIO) -> None:
    progress = Progress(terminal)
    emit(progress, "x", event="peer_up", peer="b", allowed_ips=["10.0.0.1/32", "10.9.0.0/16"])
    emit(progress, "x", event="peer_up", peer="c", allowed_ips=[])
    assert "reachable" not in terminal.getvalue()
    emit(progress, "nc0 is up", event="up", skipped=["10.9.0.0/16"])
    assert terminal.getvalue().splitlines()[-1] == "          routed through b: 10.0.0.1"


def test_debug_without_an_event_is_not_shown(terminal: io.StringIO) -> None:
    emit(Progress(terminal), "noise", logging.DEBUG)
    emit(Progress(terminal), "careful\nnow", logging.WARNING)
    assert terminal.getvalue() == "          careful now\n"


def test_lines_go_above_the_live_line(terminal: io.StringIO) -> None:
    progress = Progress(terminal)
    progress.show("nc0: gpu-box 12 ms")
    progress.say("hello")
    assert terminal.getvalue().endswith("\r\x1b[Khello\nnc0: gpu-box 12 ms")
    progress.end()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_colours_only_when_wanted(terminal: io.StringIO) -> None:
    emit(Progress(terminal, colour=True), "bad", logging.ERROR)
    assert "\x1b[31mbad\x1b[0m" in terminal.getvalue()


def test_what_can_be_reached() -> None:
    assert reachable("b", ["10.0.0.1/32", "fd00::1/128", "192.168.0.0/24"]) == (
        "routed through b: 10.0.0.1, fd00::1, 192.168.0.0/24"
    )


def test_the_live_line_says_what_matters() -> None:
    one = replace(STATUS, peers=STATUS.peers[:1])
    assert live_text(one, {"laptop": (1024.0, 0.0)}) == (
        "nc0: laptop 12 ms by a node, 1.0 KiB/s in, 0 B/s out"
    )
    two = replace(STATUS, peers=2 * (replace(STATUS.peers[0], path="direct"),))
    assert live_text(two, {}) == "nc0: 2 of 2 peers up (2 directly)"
    assert live_text(replace(STATUS, peers=()), {}) == "nc0: 0 of 0 peers up"
    down = replace(STATUS, links=(LinkStatus("", "down", why="no route"),))
    assert live_text(down, {}) == "nc0: no link to a node: no route"


def test_the_live_line_is_refreshed_over_the_loop(
    terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a status that cannot be had, and until it is stopped."""
    monkeypatch.setattr("nconnect.cli.progress.REFRESH_S", 0.001)
    live = LiveLine(Progress(terminal))
    answered = 0

    async def run() -> None:
        enough = asyncio.Event()

        async def status() -> Status:
            nonlocal answered
            answered += 1
            if answered == 1:
                raise HostError("the kernel does not answer")
            if answered > 3:
                enough.set()
            why = LinkStatus("", "down", why="no \x1b[2Jroute")
            return replace(STATUS, links=(why,))

        live.start(status)
        await enough.wait()

    asyncio.run(asyncio.wait_for(run(), 20))
    live.stop()
    written = terminal.getvalue()
    assert "\r\x1b[Knc0: no link to a node: no \ufffd[2Jroute\r" in written
    assert written.endswith("\r\x1b[K")


def test_the_live_line_ends_with_the_loop(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A status that is still asked for is given up, and `stop` does not wait for it."""
    monkeypatch.setattr("nconnect.cli.progress.REFRESH_S", 0.001)
    live = LiveLine(Progress(terminal))

    async def run() -> None:
        asked = asyncio.Event()

        async def status() -> Status:
            asked.set()
            await asyncio.Event().wait()
            return STATUS

        live.start(status)
        await asked.wait()

    asyncio.run(asyncio.wait_for(run(), 20))
    live.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "live line"]


def test_a_live_line_that_never_began_stops(terminal: io.StringIO) -> None:
    LiveLine(Progress(terminal)).stop()
    assert terminal.getvalue() == ""
