"""Many peers of one provider, and many idle clients of one node.

    crowd 0 … 3 ──┐
    user ─────────┴── internet (node) ─────── provider (a TUN, and 1 to 1,000 peers)

All but one of the peers are users without a TUN (`lab.bench.crowd`): each has its own key, link, session and
place in the provider's routing table. The other one is the shipped daemon, through which throughput is
measured. With direct paths all of them, and that user, send by UDP past the node, from an address each. The
crowd's processes have a machine and an address each, and the node's limits for one address are
lifted. All of it shares this machine's cores, and the node stays on one of them: on two cores the scheduler,
left alone, moves it to and fro a thousand times a second in some transfers and not in others, which costs a
seventh of the rate whatever the number of peers.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from lab.bench.bed import PREFIX, Bed, bed
from lab.bench.cases import Settings, tcp_down, tcp_up
from lab.bench.compare import Results, Tell
from lab.bench.contenders import Running
from lab.bench.contenders.nconnect import NconnectDirect, configure
from lab.bench.crowd import hosts, tunnel_address, user_address
from lab.netns import LabError, Namespace, cable, namespaces
from lab.ping import first_reply
from lab.process import Process
from lab.sides import Node, Side
from lab.world import SEED_RPC

CROWDS = 4
MOST_USERS = 250  # of a crowd
UP_TIMEOUT_S = 90
LIMIT_S = 420  # seconds after which no further round is started
TELL_S = 5
TRANSFERS = 3  # transfers each way in a round, because a single one may be unlucky
NODE_OPTIONS = ("--rate-limit", "0")


@dataclass(frozen=True, slots=True)
class Plan:
    """`direct`: the numbers of peers that have direct paths, in further turns."""

    peers: tuple[int, ...]
    direct: tuple[int, ...]
    clients: int
    rounds: int
    settings: Settings


def label(peers: int, *, direct: bool = False) -> str:
    return f"{peers:,} peer{'s' if peers > 1 else ''}{', direct' if direct else ''}"


def clients_label(clients: int) -> str:
    return f"{clients:,} clients"


def scale(plan: Plan, tell: Tell) -> Results:
    """Peers in rounds that take turns; the clients once, after the first."""
    results = Results()
    started = time.monotonic()
    with bed() as machines, ExitStack() as undo:
        machines.serve_iperf()
        homes = _homes(machines, undo)
        for number in range(1, plan.rounds + 1):
            if time.monotonic() > started + LIMIT_S:
                results.skipped.append(f"round {number} of {plan.rounds}: over {LIMIT_S} s by then")
                tell(results.skipped[-1])
                break
            turns = [(peers, False) for peers in plan.peers] + [(peers, True) for peers in plan.direct]
            for peers, direct in turns:
                name = f"round {number} of {plan.rounds}, {label(peers, direct=direct)}"
                with _told(results, name, tell), _way(machines, direct=direct):
                    _peers(machines, homes, peers, plan, results, name, tell, direct=direct)
            if plan.clients and number == 1:
                name = clients_label(plan.clients)
                with _told(results, name, tell):
                    _clients(machines, homes, plan.clients, results, name, tell)
    _per_peer(results, plan.peers, direct=False)
    _per_peer(results, plan.direct, direct=True)
    results.seconds = round(time.monotonic() - started, 1)
    return results


@contextmanager
def _told(results: Results, name: str, tell: Tell) -> Iterator[None]:
    """Record a failure of the block, and go on after it."""
    try:
        yield
    except LabError as error:
        results.failures.append(f"{name}: {error}")
        tell(results.failures[-1])


def _homes(machines: Bed, undo: ExitStack) -> tuple[Namespace, ...]:
    """Make a machine for each process of the crowd."""
    homes = namespaces(undo, PREFIX, *(f"crowd{n}" for n in range(CROWDS)))
    for n, home in enumerate(homes):
        addresses = list(map(str, hosts(_network(n), MOST_USERS)))
        cable(home, "wan0", addresses[:1], machines.internet, f"crowd{n}", [f"198.18.{n}.1/24"])
        home.must(
            "ip", "-batch", "-", input_text="".join(f"address add {a} dev wan0\n" for a in addresses[1:])
        )
        home.ip(f"route add default via 198.18.{n}.1")
    return homes


def _network(home: int) -> IPv4Network:
    return IPv4Network(f"198.18.{home}.0/24")


@contextmanager
def _way(machines: Bed, *, direct: bool) -> Iterator[None]:
    """With direct paths: the cable carries UDP alone, and the internet forwards for the crowd."""
    if not direct:
        yield
        return
    with ExitStack() as undo:
        NconnectDirect("udp").take_way(machines, undo)
        machines.internet.nft(
            "add table ip bench\n"
            "add chain ip bench forward { type filter hook forward priority 0; }\n"
            'add rule ip bench forward iifname "user" drop\n'
            'add rule ip bench forward oifname "user" drop'
        )
        undo.callback(machines.internet.nft, "delete table ip bench")
        machines.internet.sysctl("net.ipv4.ip_forward", "1")
        undo.callback(machines.internet.sysctl, "net.ipv4.ip_forward", "0")
        yield


class Crowd:
    """Many clients, spread over the homes; with `provider` they are users of a tunnel."""

    def __init__(
        self,
        homes: Sequence[Namespace],
        folder: Path,
        count: int,
        tell: Tell,
        provider: str | None = None,
        *,
        direct: bool = False,
    ) -> None:
        self.count = count
        self._tell = tell
        self._processes: list[Process] = []
        first = 1
        for n, home in enumerate(homes):
            share = count // len(homes) + (n < count % len(homes))
            if share:
                command = [sys.executable, "-m", "lab.bench.crowd", SEED_RPC, str(first), str(share)]
                command += [provider] if provider else []
                command += [str(_network(n))] if direct else []
                self._processes.append(Process(home, command, folder / f"crowd{n}.log"))
            first += share

    def came(self, what: str) -> float:
        """Wait until all are up for the first time; return how many came in a second."""
        at = self.wait(what)
        return self.count / (at - min(float(_last(process)["began"]) for process in self._processes))

    def wait(self, what: str, *, since: float = 0.0) -> float:
        """Wait until all links or sessions are up after `since`; return `time.monotonic()` of then."""
        began = told_at = time.monotonic()
        while True:
            found = [_last(process) for process in self._processes]
            up = sum(line[what] for line in found)
            if up == self.count and all(line["at"] >= since for line in found):
                return max((float(line["at"]) for line in found), default=since)
            for process in self._processes:
                if not process.running:
                    raise LabError(f"a crowd ended:\n{process.tail(10)}")
            now = time.monotonic()
            if now > began + UP_TIMEOUT_S:
                why = Counter[str]()
                for line in found:
                    why.update(line["why"])
                often = "; ".join(f"{count} times {text}" for text, count in why.most_common(2))
                raise LabError(f"{up} of {self.count} {what} after {UP_TIMEOUT_S} s: {often}")
            if now > told_at + TELL_S:
                told_at = now
                self._tell(f"{up} of {self.count} {what}")
            time.sleep(0.02)

    def stop(self) -> None:
        for process in self._processes:
            process.stop()


def _last(process: Process) -> dict[str, Any]:
    """The last whole line that a crowd's process has printed."""
    with process.log.open("rb") as log:
        log.seek(0, 2)
        log.seek(max(0, log.tell() - 2000))
        for line in reversed(log.read().split(b"\n")[:-1]):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                return found
    return {"at": 0.0, "began": 0.0, "links": 0, "sessions": 0, "direct": 0, "why": {}}


def _peers(
    machines: Bed,
    homes: Sequence[Namespace],
    peers: int,
    plan: Plan,
    results: Results,
    name: str,
    tell: Tell,
    *,
    direct: bool,
) -> None:
    """One active user, and the others with a session that is kept, or a direct path."""
    key = label(peers, direct=direct)
    with _tunnel(machines, peers, direct=direct) as (node, provider, user):
        tell(f"{name}: {peers - 1} others come")
        crowd = Crowd(homes, provider.folder, peers - 1, tell, provider.address(), direct=direct)
        try:
            if crowd.count:
                results.add(key, "handshakes", crowd.came("sessions"))
            started = time.monotonic()
            process = user.start()
            results.add(key, "start", first_reply(machines.user, "10.86.0.1", timeout_s=30) - started)
            if direct:
                NconnectDirect("udp").check_way(machines, user, provider)
                crowd.wait("direct")
            assert node.process is not None
            assert provider.daemon is not None
            running = Running(
                machines, "10.86.0.1", "fd86::1", (node.process, provider.daemon, process), None
            )
            for measure in (tcp_up, tcp_down) * TRANSFERS:
                tell(f"{name}: {measure.__name__}")
                for metric, value in measure(running, plan.settings).items():
                    results.add(key, metric, value)
            results.add(key, "rss", provider.daemon.rss_bytes() / 1e6)
            if direct:
                _all_direct(provider, peers)
            tell(f"{name}: the node restarts")
            node.stop()
            _start(node)
            started = time.monotonic()
            answered = first_reply(machines.user, "10.86.0.1", timeout_s=UP_TIMEOUT_S)
            back = crowd.wait("links", since=started) if crowd.count else answered
            results.add(key, "back", max(answered, back) - started)
        finally:
            crowd.stop()


def _all_direct(provider: Side, peers: int) -> None:
    """The provider's own view, after the transfers."""
    found = sum(
        peer["path"] == "direct" and peer["direct"]["kind"] == "udp" for peer in provider.status()["peers"]
    )
    if found < peers:
        raise LabError(f"only {found} of {peers} peers have a direct path")


@contextmanager
def _tunnel(machines: Bed, peers: int, *, direct: bool) -> Iterator[tuple[Node, Side, Side]]:
    """The node and a provider with so many peers run; the user is ready to be started."""
    folder = machines.folder / f"scale-{peers}-{time.monotonic_ns()}"
    node = _node(machines, folder)
    provider = Side("provider", machines.provider, folder / "provider")
    user = Side("user", machines.user, folder / "user")
    with ExitStack() as undo:
        for part in (node, provider, user):
            undo.callback(part.stop)
        configure(provider, user, "aes256gcm", direct="on" if direct else "off")
        with provider.config.open("a") as config:
            for number in range(1, peers):
                config.write(
                    f'\n[[peer]]\nname = "u{number}"\naddress = "{user_address(number)}"\n'
                    f'allowed_ips = ["{tunnel_address(number)}/32"]\n'
                )
        _start(node)
        provider.start()
        provider.wait(timeout_s=60)
        yield node, provider, user
        user.down()
        provider.down()


def _node(machines: Bed, folder: Path) -> Node:
    """A node that keeps its key when it restarts, as a real one does."""
    seed_file = ("--seed-file", str(folder / "node.seed"))
    return Node(machines.internet, folder / "node", options=(*NODE_OPTIONS, *seed_file))


def _start(node: Node) -> Process:
    process = node.start()
    os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(process.pid))})
    return process


def _clients(
    machines: Bed, homes: Sequence[Namespace], clients: int, results: Results, name: str, tell: Tell
) -> None:
    """Measure clients that are logged in and idle."""
    folder = machines.folder / "clients"
    node = _node(machines, folder)
    process = _start(node)
    crowd = None
    try:
        before = process.rss_bytes()
        tell(f"{name}: they come")
        crowd = Crowd(homes, folder, clients, tell)
        results.add(name, "logins", crowd.came("links"))
        results.add(name, "client_kb", (process.rss_bytes() - before) / 1e3 / clients)
        results.add(name, "node_rss", process.rss_bytes() / 1e6)
        worked, began = process.cpu_s(), time.monotonic()
        time.sleep(5)  # what idle clients cost
        results.add(name, "idle_cpu", 100 * (process.cpu_s() - worked) / (time.monotonic() - began))
        tell(f"{name}: the node restarts")
        node.stop()
        _start(node)
        started = time.monotonic()
        results.add(name, "back", crowd.wait("links", since=started) - started)
    finally:
        if crowd is not None:
            crowd.stop()
        node.stop()


def _per_peer(results: Results, sizes: Sequence[int], *, direct: bool) -> None:
    """The provider's memory for each further peer, compared with the fewest peers of the same round."""
    least = min(sizes, default=0)
    base = results.values.get(label(least, direct=direct), {}).get("rss", [])
    for peers in sizes:
        key = label(peers, direct=direct)
        found = results.values.get(key, {}).get("rss", [])
        if peers > least:
            for ours, theirs in zip(found, base, strict=False):
                results.add(key, "peer_kb", (ours - theirs) * 1e3 / (peers - least))
