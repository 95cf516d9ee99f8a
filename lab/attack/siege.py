"""Strangers against a node that carries a tunnel: each in a namespace with an address of its own.

    user ──── internet ──── provider ──── server
              node (30002, 30003), and another one (31002, 31003), which is idle
    s0 … s9, honest: each with a cable to the internet

The control of a measurement is the same load against the idle node, because it uses the same processors. If
the load goes to a client, a program that does nothing else reads it there.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from lab.attack.client import login_s
from lab.netns import LabError, Namespace, cable, namespaces
from lab.ping import RoundTrips, round_trips
from lab.process import Process, until
from lab.sides import nconnect_command
from lab.world import NODE_HOST, SERVER, World, world
from nconnect.crypto.keys import Identity

PORTS = (30002, 30003)
IDLE_PORTS = (31002, 31003)
MANY = 10
LOGINS = 10
LEAST_PING_S = 0.005
SETTLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """What one stranger does, at which rate (bytes a second, or connections held)."""

    attack: str
    rate: int
    what: str


LOADS = (
    Load("inflate", 2_800_000, "frames of 4 KB that inflate to 4 MiB, 2.8 MB/s"),
    Load("small", 3_000_000, "small messages to the provider, 3 MB/s"),
    Load("kilobyte", 25_000_000, "messages of 1 KB to the provider, 25 MB/s"),
    Load("half_frames", 90, "90 connections that never log in, each with half a frame"),
    Load("rpc", 512, "512 idle RPC connections"),
    Load("rpc_halves", 512, "512 RPC requests that do not end"),
    Load("requests", 500_000, "RPC requests one behind the other, 0.5 MB/s"),
    Load("chunks", 500_000, "RPC requests in chunks of one byte, 0.5 MB/s"),
    Load("logins", 768, "768 logins with fresh keys"),
    Load("deaf", 50_000_000, "50 clients that read nothing, 50 MB/s for them"),
    Load("frame_halves", 90, "90 clients, each with half a frame"),
    Load("mail", 1_000_000, "mail for clients that do not exist, 1 MB/s"),
    Load("mail_to_one", 1_000_000, "mail for one client, 1 MB/s"),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What the tunnel, an honest client and the node looked like under a load."""

    trips: RoundTrips
    login_s: float  # the slowest
    rss_bytes: int  # of the node, at the end
    drops: dict[str, int]  # of the node, by the load


@dataclass
class Siege:
    """The world, the tunnel up, and strangers that do nothing yet."""

    world: World
    strangers: tuple[Namespace, ...]
    honest: Namespace
    idle: Process
    idle_dest: str
    rested_bytes: int  # of the node, before anything
    processes: list[Process] = field(default_factory=list)

    def measure(
        self, load: Load, strangers: int, *, control: bool = False, pings: int = 1000, logins: int = LOGINS
    ) -> Measured:
        """Measure under a load from so many addresses."""
        return self.measure_all((load,), strangers, control=control, pings=pings, logins=logins)

    def measure_all(
        self,
        loads: Sequence[Load],
        strangers: int,
        *,
        control: bool = False,
        pings: int = 1000,
        logins: int = LOGINS,
        apart: bool = False,
    ) -> Measured:
        """Measure under several loads at once: each from all addresses, or with `apart` from some of them."""
        before = self.world.node.status()["drops"]
        with self._under(loads, strangers, control, apart):
            slowest: list[float] = []
            failed: list[BaseException] = []

            def log_in() -> None:
                try:
                    slowest.append(max(self.login_s() for _ in range(logins)))
                except BaseException as error:
                    failed.append(error)

            thread = threading.Thread(target=log_in)
            thread.start()
            trips = round_trips(self.world.user, SERVER, count=pings, interval_s=LEAST_PING_S)
            thread.join()
            if failed:
                raise LabError(f"an honest client cannot log in: {failed[0]!r}")
            assert self.world.node.process is not None
            rss = self.world.node.process.rss_bytes()
        after = self.world.node.status()["drops"]
        drops = {name: n - before.get(name, 0) for name, n in after.items() if n > before.get(name, 0)}
        return Measured(trips, slowest[0], rss, drops)

    @contextmanager
    def _under(self, loads: Sequence[Load], strangers: int, control: bool, apart: bool) -> Iterator[None]:
        ports = IDLE_PORTS if control else PORTS
        dest = self.idle_dest if control else self.world.provider_side.address()
        begun = []
        try:
            for number, load in enumerate(loads):
                addresses = self.strangers[:strangers]
                if apart:
                    addresses = addresses[number :: len(loads)]
                command = ["nice", "-n", "19", sys.executable, "-m", "lab.attack.stranger", load.attack]
                command += [NODE_HOST, *map(str, ports), str(load.rate), dest]
                begun += [self.world.run_in(s, command, load.attack) for s in addresses]
            for process in begun:
                until(lambda p=process: "ready" in p.text(), process.name, timeout_s=60, process=process)  # type: ignore[misc]
            time.sleep(SETTLE_S)
            yield
            for process in begun:
                if not process.running:
                    raise LabError(f"the load ended early:\n{process.tail()}")
        finally:
            for process in begun:
                process.kill()

    def login_s(self) -> float:
        """Seconds that an honest client takes to log in at the tunnel's node."""
        return self.honest.enter(lambda: login_s(NODE_HOST, PORTS[0]))


@contextmanager
def siege(prefix: str = "ncsiege", *, node_options: tuple[str, ...] = ()) -> Iterator[Siege]:
    """Build the siege, and remove it when the block ends."""
    with world(prefix, node_options=node_options) as made, ExitStack() as undo:
        names = [*(f"s{n}" for n in range(MANY)), "honest"]
        machines = namespaces(undo, prefix, *names)
        for number, machine in enumerate(machines):
            here, there = f"10.99.{number}.1", f"10.99.{number}.2"
            cable(machine, "wan0", [f"{there}/24"], made.internet, names[number], [f"{here}/24"])
            machine.ip(f"route add default via {here}")
        made.configure()
        made.node.start()
        made.up()
        idle_command = [*nconnect_command(), "node", "--listen", "0.0.0.0"]
        idle_command += ["--ws-port", str(IDLE_PORTS[0]), "--rpc-port", str(IDLE_PORTS[1])]
        idle = made.run_in(made.internet, idle_command, "idle")
        until(lambda: "clients find it" in idle.text(), "the idle node", timeout_s=20, process=idle)
        seed = os.urandom(32)
        reader_command = [sys.executable, "-m", "lab.attack.stranger", "read", NODE_HOST]
        reader_command += [*map(str, IDLE_PORTS), "0", seed.hex()]
        reader = made.run_in(made.internet, reader_command, "reader")
        until(lambda: "ready" in reader.text(), "the reader", timeout_s=20, process=reader)
        assert made.node.process is not None
        rested = made.node.process.rss_bytes()
        dest = Identity(seed).public_key.hex()
        yield Siege(made, machines[:MANY], machines[MANY], idle, dest, rested)


def row(load: Load, strangers: int, found: Measured, control: Measured | None, rested_bytes: int) -> str:
    """A line for the table."""
    grown = (found.rss_bytes - rested_bytes) / 1e6
    beside = f"{control.trips.p50_ms:7.1f} {control.trips.p99_ms:7.1f}" if control else " " * 15
    return (
        f"{load.attack:13}{strangers:3} {found.trips.p50_ms:7.1f} {found.trips.p99_ms:7.1f} {beside}"
        f" {found.trips.lost:5} {found.login_s * 1e3:7.0f} {grown:+8.1f}"
        f"  {', '.join(f'{name} {n}' for name, n in sorted(found.drops.items()))}"
    )


HEAD = (
    "attack        by     p50     p99   control: p50, p99   lost  login ms  node MB  counted\n"
    "                (round trips of the tunnel, ms)"
)
