"""Ourselves over one link, or over several, at four nodes that are one cluster, each on a slow cable.

user ─────── internet (NATS) ─────── provider
             │    │    │    │
          20 Mbit/s each, both ways
             │    │    │    │
           node0 node1 node2 node3
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab import cluster
from lab.bench.bed import PREFIX, Bed
from lab.bench.contenders.base import OVER_LINKS, START_TIMEOUT_S, Running
from lab.bench.contenders.nconnect import configure
from lab.bench.metrics import links_name
from lab.netns import LabError, Namespace, cable, namespaces
from lab.ping import first_reply
from lab.process import Process, until
from lab.sides import Node, Side
from lab.world import NODE_HOST, WAN_INTERFACE

NODES = 4
NODE_MBIT = 20
BUFFER_MS = 1000
CONGESTION = "net.ipv4.tcp_congestion_control"
_number = itertools.count()


class Links:
    """Several links on each side, each at another node."""

    def __init__(self, links: int) -> None:
        self.links = links
        self.name = links_name(links)
        self.about = (
            f"nconnect over {links} link{'s' if links > 1 else ''}, {NODES} nodes as one,"
            f" each on a cable of {NODE_MBIT} Mbit/s"
        )

    def measures(self, case: str) -> bool:
        return case in OVER_LINKS

    def missing(self) -> str | None:
        return None if cluster.nats_server() else "no nats-server (scripts/setup --dev)"

    @contextmanager
    def running(self, bed: Bed) -> Iterator[Running]:
        folder = bed.folder / f"links-{next(_number)}"
        provider = Side("provider", bed.provider, folder / "provider")
        user = Side("user", bed.user, folder / "user")
        with ExitStack() as undo:
            hosts, nodes = _cluster(bed, undo, folder)
            for side in (provider, user):
                undo.callback(side.stop)
            configure(provider, user, "aes256gcm")
            for side, other in ((provider, user), (user, provider)):
                cluster.place(
                    *(bed.internet, hosts[0], side, other, self.links),
                    lambda named: len(set(named)) == self.links,
                )
                cluster.use_links(side, self.links, hosts)
            processes = [node.process for node in nodes if node.process] + [provider.start()]
            provider.wait()
            started = time.monotonic()
            processes.append(user.start())
            try:
                answered = first_reply(bed.user, "10.86.0.1", timeout_s=START_TIMEOUT_S)
                for side in (user, provider):
                    until(
                        lambda side=side: len(set(cluster.links_up(side))) == self.links,  # type: ignore[misc]
                        f"{self.links} links",
                        process=side.daemon,
                    )
            except LabError as error:
                logs = [node.logs() for node in nodes]
                raise LabError("\n".join([str(error), *logs, provider.logs(), user.logs()])) from None
            yield Running(bed, "10.86.0.1", "fd86::1", tuple(processes), answered - started)
            user.down()
            provider.down()


def _cluster(bed: Bed, undo: ExitStack, folder: Path) -> tuple[list[str], list[Node]]:
    """The hosts of the nodes, which run and know one another."""
    internet = bed.internet
    before = internet.sysctl("net.ipv4.ip_forward")
    undo.callback(internet.sysctl, "net.ipv4.ip_forward", before)
    internet.sysctl("net.ipv4.ip_forward", "1")
    server = cluster.nats_server()
    assert server is not None
    nats = Process(internet, [server, "-a", NODE_HOST, "-p", str(cluster.NATS_PORT)], folder / "nats.log")
    undo.callback(nats.stop)
    key = folder / "cluster.key"
    key.touch(0o600)
    key.write_text(os.urandom(32).hex())
    hosts, nodes = [], []
    for number, machine in enumerate(namespaces(undo, PREFIX, *(f"node{n}" for n in range(NODES)))):
        far, near = f"198.18.{number}.2", f"198.18.{number}.1"
        cable(machine, WAN_INTERFACE, [f"{far}/24"], internet, f"node{number}", [f"{near}/24"])
        # Its namespace would delete it too late for the next round, which uses the same name.
        undo.callback(internet.ip, f"link delete node{number}")
        machine.ip(f"route add default via {near}")
        machine.sysctl(CONGESTION, internet.sysctl(CONGESTION))
        for end, interface in ((machine, WAN_INTERFACE), (internet, f"node{number}")):
            _shape(end, interface)
        options = ["--cluster", f"nats://{NODE_HOST}:{cluster.NATS_PORT}", "--cluster-key", str(key)]
        options += ["--advertise", far, "--rate-limit", "0"]
        node = Node(machine, folder / f"node{number}", options=options)
        undo.callback(node.stop)
        node.start()
        hosts.append(far)
        nodes.append(node)
    until(lambda: cluster.know_one_another(internet, hosts), "the nodes", process=nodes[0].process)
    return hosts, nodes


def _shape(machine: Namespace, interface: str) -> None:
    # The burst has room for ten packets: more would go out at once after a pause.
    bucket = f"tbf rate {NODE_MBIT}mbit burst 15140 latency {BUFFER_MS}ms"
    machine.must(*f"tc qdisc replace dev {interface} root {bucket}".split())
