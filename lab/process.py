"""Processes of the lab: started in a namespace, with their output in a file, ended by process id."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lab import CHECKOUT, environment
from lab.netns import LabError, Namespace

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """A program that runs in the background; `log` holds what it writes to both its outputs."""

    def __init__(
        self, namespace: Namespace, arguments: Sequence[str], log: Path, *, env: dict[str, str] | None = None
    ) -> None:
        self.name = log.stem
        self.log = log
        with log.open("ab") as output:
            # A session of its own, so that Ctrl-C reaches the lab only, which ends its processes in order.
            self._process = subprocess.Popen(
                namespace.command(arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=CHECKOUT,
                env=environment(**(env or {})),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        return self._process.poll()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        if self.running:
            self._process.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        """Wait for the exit status. Raises `LabError` with the end of its output after `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name} still runs after {timeout_s} s:\n{self.tail()}") from None

    def stop(self, timeout_s: float = 10) -> int:
        """Send SIGTERM, after `timeout_s` SIGKILL, and return the exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        self.signal(signal.SIGKILL)
        return self._process.wait()

    def tail(self, lines: int = 40) -> str:
        return "\n".join(f"  {self.name}| {line}" for line in self.text().splitlines()[-lines:])

    def rss_bytes(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def cpu_s(self) -> float:
        """User and system time so far, all threads, without children."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS


def until(
    condition: Callable[[], object], what: str, *, timeout_s: float = 10, process: Process | None = None
) -> None:
    """Poll `condition`. Raises `LabError` when it is not true in time, or when `process` ends before.

    The pauses are 10 ms, or up to 100 ms if the condition itself takes long, as one that runs a program does:
    polling must not keep a processor busy.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        began = time.monotonic()
        if condition():
            return
        if process is not None and not process.running:
            raise LabError(
                f"{process.name} ended with status {process.status} before {what}:\n{process.tail()}"
            )
        if time.monotonic() > deadline:
            words = f":\n{process.tail()}" if process is not None else ""
            raise LabError(f"waited {timeout_s} s in vain for {what}{words}")
        time.sleep(min(0.1, max(0.01, time.monotonic() - began)))
