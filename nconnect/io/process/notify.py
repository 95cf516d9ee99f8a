"""Tells systemd the daemon's state: sd_notify(3), datagrams to `$NOTIFY_SOCKET`.

Nothing here raises an error: a daemon does not stop because nobody listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping


class ServiceManager:
    """systemd, if it started us; otherwise every call does nothing."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        path = environment.get("NOTIFY_SOCKET", "")
        # "@name" is the abstract name space: a zero byte and the name.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.watchdog_s = _watchdog_s(environment)  # how long it waits for a sign of life; None: for ever
        self._socket: socket.socket | None = None
        self._is_ready = False
        if path.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            # Now, while we may go wherever the socket is: the daemon gives its rights up later.
            with contextlib.suppress(OSError):
                self._socket.connect(self._address)

    def ready(self, status: str) -> None:
        """Report that everything is up, once."""
        if not self._is_ready:
            self._is_ready = True
            self._send(f"READY=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """Send the watchdog a sign of life."""
        self._send("WATCHDOG=1")

    async def feed_watchdog(self) -> None:
        """For a task: systemd restarts us when the loop does not come round any more."""
        while self.watchdog_s is not None:
            self.alive()
            await asyncio.sleep(self.watchdog_s / 3)

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(text.encode())


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """$WATCHDOG_USEC, if it is meant for this process ($WATCHDOG_PID)."""
    try:
        pid = int(environment.get("WATCHDOG_PID", os.getpid()))
        micros = int(environment["WATCHDOG_USEC"])
    except (KeyError, ValueError):
        return None
    return micros / 1e6 if pid == os.getpid() and micros > 0 else None
