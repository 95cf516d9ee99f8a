"""systemd is told when the daemon is ready, alive and stopping, and the unit file is valid and hardened.

user ── node ── provider

The test listens on a notification socket of its own; the unit is checked where systemd-analyze is there.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lab import CHECKOUT
from lab.process import until
from lab.traffic import SERVICE, serve
from lab.world import World

WATCHDOG_S = 1.0
UNIT = Path(CHECKOUT, "packaging", "nconnect@.service")
WORST_EXPOSURE = 4.0  # of 10; the rest is CAP_NET_ADMIN, /proc/sys and the network, which the daemon needs


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def heard(manager: socket.socket) -> list[str]:
    """All notifications since the last call."""
    said = []
    with suppress(BlockingIOError):
        while True:
            said.append(manager.recv(1000).decode())
    return said


def test_ready_watchdog_and_stopping_are_told(fresh: World, manager: socket.socket) -> None:
    serve(fresh.server, fresh, SERVICE)
    fresh.configure()
    env = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}
    side = fresh.user_side
    daemon = side.start(env=env)
    words: list[str] = []

    def says(text: str) -> bool:
        words.extend(heard(manager))
        return any(word.startswith(text) for word in words)

    until(lambda: says("WATCHDOG=1"), "the watchdog to be fed", process=daemon)
    until(lambda: "10.86.0.2" in fresh.user.ip("address show dev nc0"), "the address", process=daemon)
    time.sleep(1.5)
    assert not says("READY=1"), "no node has let us in"
    assert daemon.running, "under a service manager it goes on trying"
    fresh.node.start()
    until(lambda: says("READY=1"), "READY", process=daemon)
    assert side.status()["links"][0]["state"] == "up"

    daemon.signal(signal.SIGSTOP)  # so that the loop stands still
    time.sleep(0.2)
    heard(manager)
    time.sleep(2 * WATCHDOG_S)
    assert heard(manager) == []
    daemon.signal(signal.SIGCONT)
    words.clear()
    until(lambda: says("WATCHDOG=1"), "the watchdog to be fed again", process=daemon)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait(10) == 0
    assert says("STOPPING=1")
    assert not says("READY=1"), "that is said once"


analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")


@analyze
def test_the_unit_is_valid() -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "nconnect@" not in done.stderr


@analyze
def test_the_unit_is_hardened() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(UNIT)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= WORST_EXPOSURE
