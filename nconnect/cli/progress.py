"""`up` in a terminal: each step with its time, then what can be reached, then one line that is updated.

The daemon reports through its log; records with an `event` are the steps. All writing to the terminal is
under one lock, because the live line has its own thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from typing import IO, Any

from nconnect.cli.output import bytes_text, ms_text
from nconnect.cli.round_trip import WAYS
from nconnect.cli.watch import rates_between
from nconnect.control.schema import Status
from nconnect.errors import NO_LINK, NconnectError
from nconnect.wire.text import visible

REFRESH_S = 2.0
_ANSWER_S = 5.0  # guessed: a busy loop answers within this time, or the line is not refreshed once
_CLEAR_LINE = "\r\x1b[K"
STEPS = ("node_found", "logged_in", "routes_set", "peer_up", "up")


class Progress(logging.Handler):
    """The terminal's log handler, and the owner of its last line."""

    def __init__(
        self, terminal: IO[str], *, colour: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(logging.DEBUG)
        self._terminal = terminal
        self._colour = colour
        self._clock = clock
        self._began_at = clock()
        self._line = ""  # what stands in the last line
        self._told: set[str] = set()  # the peers whose prefixes were said to be reachable
        self._is_up = False
        # Peers that were reached before the routes were set, with their prefixes.
        self._waiting: list[tuple[str, Sequence[str]]] = []

    def install(self) -> None:
        """Become the only handler. Steps are shown at any level, other records from INFO on."""
        root = logging.getLogger()
        root.handlers[:] = [self]
        root.setLevel(logging.INFO)
        logging.getLogger("nconnect.daemon.event_log").setLevel(logging.DEBUG)

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if record.levelno < logging.INFO and event not in STEPS:
            return
        try:
            for line in self._lines(record, event):
                self.say(line)
        except Exception:
            self.handleError(record)

    def say(self, line: str) -> None:
        """Print one line above the live line."""
        self.acquire()
        try:
            self._terminal.write(f"{_CLEAR_LINE if self._line else ''}{line}\n{self._line}")
            self._terminal.flush()
        finally:
            self.release()

    def show(self, line: str) -> None:
        """Show this in the last line."""
        self.acquire()
        try:
            self._terminal.write(f"{_CLEAR_LINE}{line}")
            self._terminal.flush()
            self._line = line
        finally:
            self.release()

    def end(self) -> None:
        """End the live line, so that other output begins on its own line."""
        if self._line:
            self.show("")

    def _lines(self, record: logging.LogRecord, event: object) -> Sequence[str]:
        text = " ".join(record.getMessage().splitlines())
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        if event not in STEPS:
            if record.levelno < logging.WARNING:
                return [f"{'':>9} {self._paint(text, '2')}"]
            return [f"{'':>9} {self._paint(text, '33' if record.levelno < logging.ERROR else '31')}"]
        after = f"{self._clock() - self._began_at:7.2f} s"
        if event == "up":
            self._is_up = True
            skipped = getattr(record, "skipped", ())  # was not known yet when the peers were reached
            now = [(p, [r for r in routes if r not in skipped]) for p, routes in self._waiting]
            self._waiting = []
            name = getattr(record, "interface", "")  # a log also has the address; here there is little room
            text = f"{name} is up" if name else text
            lines = [f"{after} {self._paint(text, '1')} (Ctrl-C ends it)"]
            return lines + [self._reachable(p, routes) for p, routes in now if routes]
        lines = [f"{after} {text}"]
        peer, reach = str(getattr(record, "peer", "")), getattr(record, "allowed_ips", ())
        if event == "peer_up":
            lines = [f"{after} {peer} reached"]
            if reach and peer not in self._told:
                self._told.add(peer)
                if self._is_up:
                    lines.append(self._reachable(peer, reach))
                else:
                    self._waiting.append((peer, reach))
        return lines

    def _reachable(self, peer: str, prefixes: Sequence[str]) -> str:
        return f"{'':>9} {self._paint(reachable(peer, prefixes), '32')}"

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def reachable(peer: str, prefixes: Sequence[str]) -> str:
    """What goes through a peer now, in one line. The peer decides what of it may be reached."""
    hosts = [p.partition("/")[0] if p.endswith(("/32", "/128")) else p for p in prefixes]
    return f"routed through {peer}: {', '.join(hosts)}"


class LiveLine:
    """Keeps the last line up to date, in a thread, so that a slow terminal does not block the loop.

    It asks this process, not the control socket: that is root's, and the daemon no longer is.
    """

    def __init__(self, progress: Progress, *, width: int = 80) -> None:
        self._progress = progress
        self._width = width
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, status: Callable[[], Coroutine[Any, Any, Status]]) -> None:
        """Begin, from the loop's thread. `status` is awaited on the loop."""
        target, loop = self._run, asyncio.get_running_loop()
        self._thread = threading.Thread(target=target, args=(status, loop), name="live line", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return once nothing more is written."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(1.0)
        self._progress.end()

    def _run(
        self, status: Callable[[], Coroutine[Any, Any, Status]], loop: asyncio.AbstractEventLoop
    ) -> None:
        before: tuple[float, Status] | None = None
        while not self._ended.wait(REFRESH_S):
            asked = status()
            try:
                found = asyncio.run_coroutine_threadsafe(asked, loop).result(_ANSWER_S)
            except (NconnectError, TimeoutError):
                continue
            except (RuntimeError, CancelledError):  # the loop has ended
                asked.close()
                return
            at = time.monotonic()
            rates = rates_between(before[1], found, at - before[0]) if before else {}
            before = (at, found)
            if not self._ended.is_set():
                self._progress.show(visible(live_text(found, rates))[: self._width - 1])


def live_text(status: Status, rates: dict[str, tuple[float, float]]) -> str:
    """The state in one line: peers that are up, round trip, rates."""
    if not any(link.state == "up" for link in status.links):
        why = next((link.why for link in status.links if link.why), "")
        return f"{status.interface}: {NO_LINK}{': ' + why if why else ''}"
    up = [peer for peer in status.peers if peer.state == "up"]
    rx = sum(rate[0] for rate in rates.values())
    tx = sum(rate[1] for rate in rates.values())
    if len(up) == 1:
        who = f"{up[0].name} {ms_text(up[0].rtt_ms)} {WAYS.get(up[0].path, up[0].path)}"
    else:
        directly = sum(peer.path == "direct" for peer in up)
        who = f"{len(up)} of {len(status.peers)} peers up" + (f" ({directly} directly)" if directly else "")
    flow = f", {bytes_text(rx)}/s in, {bytes_text(tx)}/s out" if rates else ""
    return f"{status.interface}: {who}{flow}"
