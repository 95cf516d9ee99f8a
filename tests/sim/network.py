"""Two or more tunnel cores, one clock, and a network between them that loses, delays, doubles and reorders.

Time is virtual: the simulation jumps from one deadline to the next. Everything random comes from one seed.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_network

from nconnect.crypto.aead import CipherSuite
from nconnect.crypto.keys import Identity
from nconnect.model import NknAddress, PeerConfig
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import (
    CountersMoved,
    Deliver,
    Output,
    Send,
    SessionLost,
    SessionUp,
    Settings,
    Visitor,
)
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.receiver import no_leg
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES

WALL_EPOCH_NS = 1_800_000_000_000_000_000


@dataclass
class Faults:
    """What the network does to messages; probabilities from 0 to 1, delays in seconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    delay: tuple[float, float] = (0.01, 0.01)  # from, to: a wide range reorders
    cut: bool = False


class Host:
    """One tunnel core, with what it delivered to its TUN and what it said."""

    def __init__(self, sim: Simulation, name: str, seed: int) -> None:
        self.sim = sim
        self.name = name
        self.identity = Identity(bytes([seed]) * 32)
        self.address = NknAddress(name, self.identity.public_key)
        self.delivered: list[bytes] = []
        self.events: list[Output] = []
        self.wall_offset_ns = 0
        self.arena = bytearray(300_000)
        self.sealed = bytearray(300_100)
        self.opened = memoryview(bytearray(4 << 20))
        self.tunnel: Tunnel
        self.stopped = False
        self.wakeups = 0  # how often a timer called
        self.leg_s: Callable[[int], float | None] = no_leg

    def start(
        self, peers: list[PeerConfig], settings: Settings, counters: dict[str, int] | None = None
    ) -> None:
        self.tunnel = Tunnel(
            self.identity,
            self.address,
            peers,
            settings,
            now=self.sim.now,
            rng=self.sim.random_bytes,
            wall_clock_ns=lambda: WALL_EPOCH_NS + int(self.sim.now * 1e9) + self.wall_offset_ns,
            counters=counters,
        )
        self.stopped = False

    def restart(self, *, counters: dict[str, int] | None = None) -> None:
        """The daemon was killed and comes back: with what it had stored, or with `counters`."""
        peers = [peer.config for peer in self.tunnel.peers.values()]
        self.start(peers, self.tunnel.settings, self.tunnel.counters() if counters is None else counters)
        self.drain()

    def dropped(self) -> dict[str, int]:
        """All that was counted, by name: of no peer, and of every peer."""
        total = Counter({reason.value: n for reason, n in self.tunnel.drops.items() if n})
        for peer in self.tunnel.peers.values():
            total.update(peer.all_drops())
        return dict(total)

    def peer(self, other: Host) -> Peer:
        return self.tunnel.peers[str(other.address)]

    def send_packet(self, record: bytes, destination: bytes) -> None:
        """What the daemon does with a packet from its TUN."""
        peer = self.tunnel.routes.owner(destination)
        assert peer is not None, "no route"
        self.tunnel.enqueue(peer, bytearray(record), self.sim.now)
        self.flush()

    def flush(self) -> None:
        sealed = memoryview(self.sealed)
        while (batch := self.tunnel.next_batch(self.arena, self.sim.now)) is not None:
            peer, size, _, lane = batch
            prefix, n = self.tunnel.seal(peer, memoryview(self.arena)[:size], sealed, lane)
            self.sim.transmit(self, lane.dest, prefix + bytes(sealed[:n]))
            self.tunnel.sent(peer, lane, size, self.sim.now)
        self.drain()

    def receive(self, source: str, payload: bytes) -> None:
        if self.stopped:
            return
        for record in self.tunnel.receive(source, memoryview(payload), self.opened, self.sim.now):
            self.delivered.append(bytes(record))
        self.tunnel.received(leg_s=self.leg_s)
        self.drain()

    def drain(self) -> None:
        while (output := self.tunnel.poll_output()) is not None:
            if isinstance(output, Send):
                self.sim.transmit(self, output.dest, output.payload)
            elif isinstance(output, SessionUp):
                self.events.append(output)
                self.flush()
            elif isinstance(output, Deliver):
                self.delivered += map(bytes, output.packets)
            elif isinstance(output, Visitor):
                self.tunnel.turn_away(output.source, output.now)
            elif not isinstance(output, CountersMoved):
                self.events.append(output)

    def lost(self) -> list[str]:
        return [event.why for event in self.events if isinstance(event, SessionLost)]


class Simulation:
    """The clock, the network and the hosts."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 1000.0
        self.random = random.Random(seed)
        self.faults = Faults()
        self.hosts: dict[str, Host] = {}
        self.copies: dict[str, Host] = {}  # of a host with the same address: the node gives both all messages
        self.in_flight: list[tuple[float, int, str, str, bytes]] = []
        self.sent: list[tuple[str, str, bytes]] = []  # a wiretap
        self._number = 0

    def random_bytes(self, count: int) -> bytes:
        return self.random.randbytes(count)

    def host(self, name: str, seed: int) -> Host:
        host = Host(self, name, seed)
        self.hosts[str(host.address)] = host
        return host

    def start_copy(self, original: Host, seed: int) -> Host:
        """A second device with the key (by `seed`), the peers and the settings of a host."""
        host = Host(self, original.name, seed)
        assert host.address == original.address
        host.start([peer.config for peer in original.tunnel.peers.values()], original.tunnel.settings)
        self.copies[str(original.address)] = host
        host.drain()
        return host

    def transmit(self, source: Host, dest: str, payload: bytes) -> None:
        self.sent.append((str(source.address), dest, payload))
        faults = self.faults
        if faults.cut:
            return
        for _ in range(2 if self.random.random() < faults.duplicate else 1):
            if self.random.random() >= faults.loss:
                self.inject(str(source.address), dest, payload, self.random.uniform(*faults.delay))

    def inject(self, source: str, dest: str, payload: bytes, delay_s: float = 0.0) -> None:
        self._number += 1
        heapq.heappush(self.in_flight, (self.now + delay_s, self._number, source, dest, payload))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Go on for this long or until the condition holds; whether it does."""
        end = self.now + seconds
        while not until():
            deadlines = [
                (deadline.at, host)
                for host in (*self.hosts.values(), *self.copies.values())
                if not host.stopped and (deadline := host.tunnel.poll_timeout()) is not None
            ]
            due = min((at for at, _ in deadlines), default=float("inf"))
            arrives = self.in_flight[0][0] if self.in_flight else float("inf")
            if min(due, arrives) > end:
                self.now = end
                return until()
            if arrives <= due:
                self.now, _, source, dest, payload = heapq.heappop(self.in_flight)
                if dest in self.hosts:
                    self.hosts[dest].receive(source, payload)
                if dest in self.copies:
                    self.copies[dest].receive(source, payload)
            else:
                self.now = max(due, self.now)
                for at, host in deadlines:
                    if at <= self.now:
                        host.wakeups += 1
                        host.tunnel.handle_timeout(self.now)
                        host.flush()
        return True


def packet(source: str, destination: str, payload: bytes = b"x") -> bytes:
    """A record: an empty virtio-net header and a UDP-like IPv4 packet."""
    total = 28 + len(payload)
    header = bytes([0x45, 0, total >> 8, total & 255, 0, 0, 0, 0, 64, 17, 0, 0])
    udp = b"\x10\x00\x20\x00" + (8 + len(payload)).to_bytes(2) + b"\0\0"
    return bytes(VIRTIO_HEADER_BYTES) + header + ip(source) + ip(destination) + udp + payload


@cache
def ip(text: str) -> bytes:
    return bytes(int(part) for part in text.split("."))


def pair(
    sim: Simulation,
    suite: CipherSuite = CipherSuite.AES256GCM,
    *,
    psk: bytes | None = None,
    user: Settings | None = None,
    provider: Settings | None = None,
) -> tuple[Host, Host]:
    """A user (10.86.0.2) and a provider (10.86.0.1 and 192.168.50.0/24), started."""
    left, right = sim.host("user", 1), sim.host("provider", 2)
    to_right = PeerConfig(
        "gpu", right.address, (ip_network("10.86.0.1/32"), ip_network("192.168.50.0/24")), preshared_key=psk
    )
    to_left = PeerConfig("laptop", left.address, (ip_network("10.86.0.2/32"),), preshared_key=psk)
    right.start([to_left], provider or Settings(suite, persistent=False))
    left.start([to_right], user or Settings(suite, persistent=True))
    left.drain()
    return left, right
