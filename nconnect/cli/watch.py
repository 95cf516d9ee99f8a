"""`status --watch`: once a second, with rates, until q or Ctrl-C, also across a restart of the daemon."""

from __future__ import annotations

import os
import re
import select
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from nconnect.cli.history import History
from nconnect.cli.output import can_move, columns, use_colour
from nconnect.cli.render import status_text
from nconnect.control.client import ControlClient
from nconnect.control.schema import Status
from nconnect.errors import ControlError

_INTERVAL_S = 1.0
_CLEAR = "\x1b[H\x1b[2J"


def watch_status(client: ControlClient, *, interval_s: float = _INTERVAL_S) -> None:
    """Show the status until the user ends it."""
    before: tuple[float, Status] | None = None
    history = History()
    with _screen(), _keys() as wants_to_quit:
        while True:
            try:
                at, status = time.monotonic(), client.status()
                rates = rates_between(before[1], status, at - before[0]) if before else {}
                before = (at, status)
                history.add(status, rates)
                text = status_text(status, now=time.time(), colour=use_colour(), rates=rates, width=columns())
            except ControlError as error:
                before = None
                history.interrupted()
                text = f"{error} (waiting for it)"
            graphs = history.lines()
            text = "\n".join([text, "", *graphs]) if graphs else text
            if can_move():
                print(f"{_CLEAR}{fitting(text, *shutil.get_terminal_size())}", end="", flush=True)
            else:
                print(f"{text}\n", flush=True)
            if wants_to_quit(interval_s):
                return


def fitting(text: str, columns: int, rows: int) -> str:
    """The part of a text that fits the terminal without scrolling; the last line says how to leave."""
    lines = [_cut(line, columns) for line in text.split("\n")]
    if len(lines) > rows - 1:
        lines = [*lines[: max(0, rows - 2)], "…"]
    return "\n".join([*lines, "q ends this"])


def _cut(line: str, columns: int) -> str:
    """The line cut to so many characters, not counting colour codes."""
    parts = re.split(r"(\x1b\[[0-9;]*m)", line)
    left = columns
    for index in range(0, len(parts), 2):
        parts[index] = parts[index][:left]
        left -= len(parts[index])
    return "".join(parts)


@contextmanager
def _screen() -> Iterator[None]:
    """Use the terminal's alternate screen, if there is a terminal: the previous content comes back."""
    if not can_move():
        yield
        return
    print("\x1b[?1049h\x1b[?25l", end="", flush=True)
    try:
        yield
    finally:
        print("\x1b[?25h\x1b[?1049l", end="", flush=True)


def rates_between(before: Status, after: Status, seconds: float) -> dict[str, tuple[float, float]]:
    """Bytes a second, received and sent, of each peer; without peers whose counters were reset."""
    earlier = {peer.name: peer for peer in before.peers}
    rates = {}
    for peer in after.peers:
        old = earlier.get(peer.name)
        if old is None or seconds <= 0 or peer.rx_bytes < old.rx_bytes or peer.tx_bytes < old.tx_bytes:
            continue
        rates[peer.name] = (
            (peer.rx_bytes - old.rx_bytes) / seconds,
            (peer.tx_bytes - old.tx_bytes) / seconds,
        )
    return rates


class _Keys:
    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def __call__(self, seconds: float) -> bool:
        """Wait so long; return True at once if q is pressed."""
        deadline = time.monotonic() + seconds
        while (left_s := deadline - time.monotonic()) > 0:
            readable, _, _ = select.select([self._fd] if self._fd is not None else [], [], [], left_s)
            if readable and self._fd is not None:
                key = os.read(self._fd, 1)
                if key in (b"q", b"Q"):
                    return True
                if not key:
                    self._fd = None
        return False


@contextmanager
def _keys() -> Iterator[_Keys]:
    """Read keys without Enter while standard input is a terminal; restore its settings afterwards."""
    if not sys.stdin.isatty():
        yield _Keys(None)
        return
    import termios
    import tty

    fd = sys.stdin.fileno()
    settings = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield _Keys(fd)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, settings)
