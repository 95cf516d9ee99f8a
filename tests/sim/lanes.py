"""A network of lanes for two tunnel cores, in virtual time: each has its own rate, delay and health.

A lane is (sender, its link, the receiver's link). What is sent on one is served in order at the lane's rate,
then delayed: a relay with a queue. A lane that is cut swallows everything and tells nobody.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass
from ipaddress import ip_network

from nconnect.crypto.aead import CipherSuite
from nconnect.model import PeerConfig
from nconnect.tunnel.outputs import CountersMoved, Deliver, Send, SessionUp, Settings
from tests.sim.network import Host, Simulation

STEP_S = 0.002


@dataclass
class Path:
    """Both directions between one link of a side and one of the other's."""

    rate: float = 12.5e6  # bytes a second
    delay_s: float = 0.01
    cut: bool = False


class LaneHost(Host):
    """A tunnel core; its links take what the network has room for."""

    net: LaneNet
    links: int = 1

    def flush(self) -> None:
        sealed = memoryview(self.sealed)
        now = self.sim.now
        ready = list(range(self.links))
        while ready:
            for link in tuple(ready):
                room = self.net.room(self, link)
                batch = self.tunnel.next_batch(self.arena, now, room, link) if room else None
                if batch is None:
                    ready.remove(link)
                    continue
                peer, size, _, lane = batch
                prefix, n = self.tunnel.seal(peer, memoryview(self.arena)[:size], sealed, lane)
                self.net.send(self, link, lane.dest, prefix + bytes(sealed[:n]))
                self.tunnel.sent(peer, lane, size, now)
        self.drain()

    def drain(self) -> None:
        while (output := self.tunnel.poll_output()) is not None:
            if isinstance(output, Send):
                self.net.send(self, output.link, output.dest, output.payload)
            elif isinstance(output, Deliver):
                self.delivered += [bytes(packet) for packet in output.packets]
            elif not isinstance(output, CountersMoved):
                self.events.append(output)
                if isinstance(output, SessionUp):
                    self.flush()


class LaneNet(Simulation):
    """The lanes, and how much each carried."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: defaultdict[tuple[int, int], Path] = defaultdict(Path)  # (user's link, provider's)
        self.free_at: dict[tuple[str, int, int], float] = {}
        self.carried: dict[tuple[str, int, int], int] = defaultdict(int)

    def room(self, source: Host, link: int) -> int:
        """How many bytes a host's link takes now."""
        return 1 << 30

    def send(self, source: Host, link: int, dest: str, payload: bytes) -> None:
        sub, to = split(dest)
        lane = (source.name, link, sub)
        self.carried[lane] += len(payload)
        path = self.paths[(link, sub) if source.name == "user" else (sub, link)]
        if path.cut:
            return
        start = max(self.now, self.free_at.get(lane, 0.0))
        self.free_at[lane] = start + len(payload) / path.rate
        prefix = f"__{link}__." if link else ""
        self._number += 1
        arrives = self.free_at[lane] + path.delay_s
        heapq.heappush(self.in_flight, (arrives, self._number, prefix + str(source.address), to, payload))

    def carried_by(self, name: str) -> dict[tuple[int, int], int]:
        return {(link, sub): n for (who, link, sub), n in self.carried.items() if who == name}


def split(dest: str) -> tuple[int, str]:
    head, _, rest = dest.partition(".")
    return (int(head.strip("_")), rest) if head.startswith("__") else (0, dest)


def joined(
    net: LaneNet,
    user_links: int,
    provider_links: int,
    nodes: bool = True,
    *,
    only: bool = False,
    host: type[LaneHost] = LaneHost,
) -> tuple[LaneHost, LaneHost]:
    """Both sides connected, with that many links, link `k` of either at node `k`, unless `nodes` is false.

    `only`: each has one link, and the numbers say which. `host`: what a side is.
    """
    hosts = []
    for name, seed, links in (("user", 1, user_links), ("provider", 2, provider_links)):
        made = host(net, name, seed)
        made.net, made.links = net, links + only
        net.hosts[str(made.address)] = made
        hosts.append(made)
    user, provider = hosts
    to_provider = PeerConfig("gpu", provider.address, (ip_network("192.168.50.0/24"),))
    to_user = PeerConfig("laptop", user.address, (ip_network("10.86.0.2/32"),))
    suite = CipherSuite.AES256GCM
    provider.start([to_user], Settings(suite, persistent=False))
    user.start([to_provider], Settings(suite, persistent=True))
    for made in hosts:
        if only:
            made.tunnel.set_links({made.links - 1: made.links}, net.now)
        elif made.links > 1:
            made.tunnel.set_links({k: k + 1 if nodes else 0 for k in range(made.links)}, net.now)
    user.drain()
    assert net.run(5, lambda: user.peer(provider).session.current is not None)
    net.run(0.5)
    return user, provider
