"""What a contender is, and its properties while it runs."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lab.bench.bed import ECHO_PORT, Bed
from lab.netns import LabError, Namespace
from lab.ping import quantile
from lab.process import Process

START_TIMEOUT_S = 20
Connect = Callable[[], socket.socket]
Measured = Callable[[float], dict[str, float]]  # seconds -> values by metric
ROUND_TRIP_PAUSE_S = 0.01
_CLOCK_TICKS = 100.0  # of /proc/PID/stat, on every Linux that Debian builds


@dataclass(frozen=True)
class Running:
    """A contender that is up."""

    bed: Bed
    host: str  # the provider's address through it
    host6: str
    processes: tuple[Process, ...]  # all that the tunnel consists of, a node included
    start_s: float | None  # from the user's command to the first answered ping
    daemons: tuple[Process, ...] = ()  # the user's and the provider's process, where each has one of its own
    uplink: tuple[Namespace, str] | None = (
        None  # the interface by which the user's packets leave, to be shaped and counted
    )
    downlink: tuple[Namespace, str] | None = None  # the interface by which those for the user leave
    own: Mapping[str, Measured] = field(default_factory=dict)  # cases that it measures itself
    closes_early: bool = False  # a connection may end before all that was sent has arrived

    def cpu_s(self) -> float:
        """User and system time of all processes and those that they started, so far."""
        return sum(_cpu_s(pid) for process in self.processes for pid in family(process.pid))

    def rss_bytes(self) -> int:
        """The resident size of the largest process."""
        return max((_rss_bytes(pid) for process in self.processes for pid in family(process.pid)), default=0)


class Contender(Protocol):
    """A tunnel that the bench can start."""

    name: str
    about: str

    def measures(self, case: str) -> bool:
        """Whether a case means something for it."""

    def missing(self) -> str | None:
        """Why it cannot be measured on this machine, if so."""

    def running(self, bed: Bed) -> AbstractContextManager[Running]:
        """Start it, and stop it when the block ends."""


TCP_ONLY = frozenset({"start", "ping", "tcp-up", "tcp-down"})
OVER_LINKS = frozenset({"links-cubic", "links-bbr"})  # for us, over one link and over several
BY_CABLE = frozenset({"tcp-segments"})  # for who goes straight from user to provider
# For us, and perhaps for what we are compared with.
LONG = frozenset({"volume", "chat", "shaped-cubic", "shaped-bbr"}) | OVER_LINKS


def family(pid: int) -> list[int]:
    """A process and all that descend from it; empty when it has ended."""
    found = []
    waiting = [pid]
    while waiting:
        pid = waiting.pop()
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
        found.append(pid)
    return found


def answers(ask: Callable[[], bool], what: str, timeout_s: float = START_TIMEOUT_S) -> float:
    """Ask until it is true; return `time.monotonic()` of then."""
    deadline = time.monotonic() + timeout_s
    while not ask():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: no answer in {timeout_s} s")
        time.sleep(0.01)
    return time.monotonic()


def to_echo(host: str) -> Connect:
    """Connect to the provider's echo server."""
    return lambda: socket.create_connection((host, ECHO_PORT), timeout=1)


def tcp_round_trips(bed: Bed, connect: Connect, count: int) -> list[float]:
    """Round trips of a byte over one TCP connection, in seconds; fewer when the connection fails."""

    def work() -> list[float]:
        trips: list[float] = []
        try:
            with closing(connect()) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.sendall(b"echo\n")
                for _ in range(count):
                    at = time.perf_counter()
                    connection.sendall(b".")
                    if not connection.recv(1):
                        break
                    trips.append(time.perf_counter() - at)
                    time.sleep(ROUND_TRIP_PAUSE_S if count > 1 else 0)
        except OSError:
            pass
        return trips

    return bed.user.enter(work)


def by_cable(bed: Bed, round_trips: Callable[[], int]) -> bool:
    """Whether as many packets at least leave by the cable as there are round trips meanwhile."""
    before = bed.user.counters("direct0")["tx_packets"]
    return round_trips() <= bed.user.counters("direct0")["tx_packets"] - before


def ping_over_tcp(bed: Bed, connect: Connect, seconds: float) -> dict[str, float]:
    """The values of `ping` for what carries no ICMP."""
    return ping_values(tcp_round_trips(bed, connect, max(10, int(seconds / ROUND_TRIP_PAUSE_S))))


def ping_values(trips: list[float]) -> dict[str, float]:
    """The values of `ping` from round trips in seconds."""
    if not trips:
        raise LabError("no round trip was answered")
    trips = sorted(trips)
    return {"ping_p50": quantile(trips, 0.5) * 1e3, "ping_p99": quantile(trips, 0.99) * 1e3}


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS


def _rss_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
