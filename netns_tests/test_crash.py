"""Each supervised task is made to fail in turn: it is started again, and the flows through the tunnel go on.

user ── node ── provider ── server
"""

from __future__ import annotations

import signal
import sys
import time

import pytest

from lab.flows import Tcp, Udp
from lab.process import Process, until
from lab.sides import Side
from lab.snapshot import snapshot
from lab.traffic import SERVICE, serve
from lab.world import PROVIDER_PEER, SERVER, World
from netns_tests.recovery import recovered

# "link 1" and "link 2" are spare links: idle as long as "link" reaches its node.
TASKS = {
    "STUN servers",
    "announcements",
    "direct TCP streams",
    "direct paths",
    "expiry",
    "flows",
    "keeper",
    "link",
    "link 1",
    "link 2",
    "names",
    "official clients",
    "presence",
    "resume",
    "servers",
    "surroundings",
    "usage",
    "watchdog",
}


def start_breakable(side: Side) -> Process:
    command = [sys.executable, "-m", "netns_tests.crashing", "up", "-c", str(side.config)]
    env = {**side.env, "WATCHDOG_USEC": "30000000"}
    side.daemon = Process(side.namespace, command, side.folder / f"{side.name}-breakable.log", env=env)
    return side.daemon


def supervised(daemon: Process) -> list[str]:
    """The names of all supervised tasks, in the order in which they are made to fail."""
    daemon.signal(signal.SIGUSR2)
    until(lambda: "supervised: " in daemon.text(), "the names", process=daemon)
    line = daemon.text().partition("supervised: ")[2].partition("\n")[0]
    return line.split(", ")


@pytest.mark.parametrize("name", ["user", "provider"])
def test_each_task_that_fails_is_started_again(fresh: World, name: str) -> None:
    serve(fresh.server, fresh, SERVICE)
    fresh.configure()
    fresh.node.start()
    side = fresh.user_side if name == "user" else fresh.provider_side
    other = fresh.provider_side if name == "user" else fresh.user_side
    other.start("--keep-trying")
    other.wait()
    daemon = start_breakable(side)
    side.wait()
    fresh.user_side.wait(PROVIDER_PEER)
    before = snapshot(side.namespace)
    tasks = supervised(daemon)
    assert set(tasks) == TASKS, "each of them is tried: add a new one here"
    with Tcp(fresh.user, SERVER) as tcp, Udp(fresh.user, SERVER) as udp:
        for task in tasks:
            daemon.signal(signal.SIGUSR1)
            until(lambda t=task: f"{t} was killed by the test" in daemon.text(), task, process=daemon)
            failed = time.monotonic()
            recovered(udp, f"task {task} fails ({name})", failed, bound_s=2)
            recovered(tcp, f"task {task} fails ({name})", failed, bound_s=3)
            side.wait(timeout_s=5)
        device = [line for line in before if "nc0" in line]
        assert set(device) <= snapshot(side.namespace), "the device and its routes are the same ones"
        problems = "\n".join(side.status()["problems"])
        for task in tasks:
            assert f"the task {task} failed once" in problems
        assert daemon.text().count("Traceback") >= len(tasks), "the log has each cause"
    side.down()
