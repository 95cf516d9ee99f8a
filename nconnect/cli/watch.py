"""`status --watch`: once a second, with rates, until q or Ctrl-C; survives the daemon's restart."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from nconnect.cli.output import use_colour
from nconnect.cli.render import status_text
from nconnect.control.client import ControlClient
from nconnect.control.schema import Status
from nconnect.errors import ControlError

INTERVAL_S = 1.0
_CLEAR = "\x1b[H\x1b[2J"


def watch(client: ControlClient, *, interval_s: float = INTERVAL_S) -> None:
    """Show the status until the user ends it."""
    before: tuple[float, Status] | None = None
    with _keys() as wants_to_quit:
        while True:
            try:
                at, status = time.monotonic(), client.status()
                rates = rates_between(before[1], status, at - before[0]) if before else {}
                before = (at, status)
                text = status_text(status, now=time.time(), colour=use_colour(), rates=rates)
            except ControlError as error:
                before = None
                text = f"{error} (waiting for it)"
            print(f"{_CLEAR if sys.stdout.isatty() else ''}{text}\n", flush=True)
            if wants_to_quit(interval_s):
                return


def rates_between(before: Status, after: Status, seconds: float) -> dict[str, tuple[float, float]]:
    """Bytes a second, received and sent, of each peer; none for one whose counters began anew."""
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
        """Wait so long; True at once when q is pressed."""
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
    """Keys without Enter while standard input is a terminal; its settings are put back."""
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
