"""After 500 connections a daemon holds no more than before, and an idle daemon hardly wakes.

user ── node ── provider ── server
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.netns import Namespace
from lab.process import Process, until
from lab.snapshot import differences, snapshot
from lab.traffic import SERVICE, pings, serve, tcp_echo
from lab.world import PROVIDER_PEER, SERVER, World
from netns_tests.test_crash import start_breakable
from netns_tests.topology import start

ROUNDS = 500
WARM_UP = 20  # until caches are full and the allocator has what it will keep
MAX_GROWTH_BYTES = 6 << 20
IDLE_S = 30.0


@dataclass(frozen=True)
class Held:
    """Memory, descriptors and threads of a process."""

    rss_bytes: int
    descriptors: int
    threads: int

    @classmethod
    def by(cls, process: Process | None) -> Held:
        assert process is not None
        folder = Path("/proc", str(process.pid))
        return cls(process.rss_bytes(), len(os.listdir(folder / "fd")), len(os.listdir(folder / "task")))


def tasks(daemon: Process) -> list[str]:
    """The names of all lasting tasks of a daemon's loop, which it prints on SIGUSR2.

    Without those that have no name, and the dialling of a TCP stream, which may be under way.
    """
    before = daemon.text().count("\ntasks: ")
    daemon.signal(signal.SIGUSR2)
    until(lambda: daemon.text().count("\ntasks: ") > before, "the names", process=daemon)
    names = daemon.text().rpartition("\ntasks: ")[2].partition("\n")[0].split(", ")
    return [name for name in names if not name.startswith(("stream to ", "Task-"))]


def open_flows(namespace: Namespace) -> list[str]:
    """Connections to the server that are open for conntrack."""
    listed = namespace.run(["conntrack", "-L"]).stdout.splitlines()
    return [line for line in listed if "ESTABLISHED" in line and f"dst={SERVER}" in line]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_five_hundred_connections_leave_nothing_in_memory(fresh: World) -> None:
    serve(fresh.server, fresh, SERVICE)
    fresh.configure()
    fresh.node.start()
    provider, user = fresh.provider_side, fresh.user_side
    daemon = start_breakable(provider)
    provider.wait()
    of_user = snapshot(fresh.user)

    def once() -> None:
        user.start()
        user.wait(PROVIDER_PEER)
        assert tcp_echo(fresh.user, SERVER, SERVICE, b"?" * 5000) == b"?" * 5000
        user.down()

    for _ in range(WARM_UP):
        once()
    of_provider = snapshot(fresh.provider)
    before = {"provider": Held.by(daemon), "node": Held.by(fresh.node.process)}
    tasks_before = tasks(daemon)
    for _ in range(ROUNDS):
        once()
    for name, process in (("provider", daemon), ("node", fresh.node.process)):
        now, then = Held.by(process), before[name]
        print(f"{name} after {ROUNDS} more: {now}, before: {then}")
        assert now.descriptors <= then.descriptors, name
        assert now.threads <= then.threads + 2, name
        assert now.rss_bytes <= then.rss_bytes + MAX_GROWTH_BYTES, name
    assert tasks(daemon) == tasks_before
    assert open_flows(fresh.provider) == []
    assert _without_counters(snapshot(fresh.provider)) == _without_counters(of_provider)
    assert differences(of_user, snapshot(fresh.user)) == []


def _without_counters(lines: frozenset[str]) -> set[str]:
    return {line for line in lines if "counter" not in line}


@pytest.mark.slow
def test_an_idle_daemon_sleeps(fresh: World) -> None:
    start(fresh)
    assert pings(fresh.user, SERVER)
    time.sleep(12)  # until the keepalive that answers the ping has been sent
    daemons = {"user": fresh.user_side.daemon, "provider": fresh.provider_side.daemon}
    before = {name: switches(daemon) for name, daemon in daemons.items()}
    time.sleep(IDLE_S)
    woken = {name: switches(daemon) - before[name] for name, daemon in daemons.items()}
    print(f"woken in {IDLE_S:g} s: {woken}")
    # Every 30 s it checks its own rules and those of others. What was refused of peers is looked at every
    # 5 s, and the loop wakes two or three times for each timer. Measured: 83.
    assert max(woken.values()) < 2 * IDLE_S + LOOKS * A_LOOK
    assert min(woken.values()) > 0, "the control: it is seen to wake"


LOOKS = 2
A_LOOK = 20  # wakeups; measured: 9 to 16, for a thread, a child process, its pipes and the interpreter lock


def switches(process: Process | None) -> int:
    """How often the threads of a process have gone to sleep so far."""
    assert process is not None
    found = 0
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                found += int(line.split()[1])
    return found
