"""Two whole tunnel cores with a relay and an internet with NATs between them, in virtual time.

The network is that of tests/tunnel/paths/direct; here packets pass the cores, their queues and their seals.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_interface, ip_network
from itertools import pairwise
from typing import cast

from nconnect.crypto.aead import CipherSuite
from nconnect.crypto.keys import Identity
from nconnect.model import Buffer, Endpoint, NknAddress, PeerConfig
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import (
    Deliver,
    DirectChanged,
    Pong,
    Send,
    SendDatagram,
    SessionUp,
    Settings,
    Stated,
)
from nconnect.tunnel.paths.datagrams import UDP_LINK
from nconnect.tunnel.paths.direct.candidates import LocalAddress, Network, Route
from nconnect.tunnel.paths.direct.outputs import AskReflexive, PathState
from nconnect.tunnel.paths.direct.surroundings import Surroundings
from nconnect.tunnel.peer import Peer
from nconnect.wire.direct import NatVerdict
from tests.sim.clock import Clock
from tests.sim.network import WALL_EPOCH_NS, ip, packet
from tests.tunnel.paths.direct.nats import Kind, Nat
from tests.tunnel.paths.direct.world import PORT, End, Internet

DEFAULT = Route(ip_network("0.0.0.0/0"))


class Device:
    """What the daemon is for one core. `local`, `lan`, `nats` and `is_public` are for `Internet`."""

    def __init__(self, world: DirectWorld, name: str, seed: int, address: str, nats: list[Nat]) -> None:
        self.world, self.name, self.nats = world, name, nats
        self.identity = Identity(bytes([seed]) * 32)
        self.address = NknAddress(name, self.identity.public_key)
        interface = ip_interface(address)
        self.local = Endpoint(interface.ip, PORT)
        self.lan = interface.network
        self.is_public = not nats
        self.stun_s = 0.0
        self.around = Surroundings(PORT)
        self.around.has_stun = True
        self.around.set_network(Network((LocalAddress(interface),), (DEFAULT, Route(interface.network))))
        self.got: Counter[bytes] = Counter()
        self.got_at: list[float] = []
        self.order: list[bytes] = []
        self.changes: list[tuple[float, PathState]] = []
        self.datagrams = 0
        self.pongs: list[Pong] = []
        self.stated: list[bytes] = []
        self._arena = bytearray(400_000)
        self._sealed = memoryview(bytearray(400_100))
        self._opened = memoryview(bytearray(400_000))
        self._wake_at = float("inf")
        world.net.ends.append(cast(End, self))

    def start(self, peer: PeerConfig, *, persistent: bool) -> None:
        clock, rng = self.world.clock, self.world.rng
        self.tunnel = Tunnel(
            self.identity,
            self.address,
            [peer],
            Settings(CipherSuite.AES256GCM, persistent=persistent),
            now=clock.now,
            rng=rng.randbytes,
            wall_clock_ns=lambda: WALL_EPOCH_NS + int(clock.now * 1e9),
            surroundings=self.around,
        )
        self.drain()

    @property
    def peer(self) -> Peer:
        return next(iter(self.tunnel.peers.values()))

    @property
    def state(self) -> PathState:
        assert self.peer.direct is not None
        return self.peer.direct.state

    def send(self, record: bytes, destination: str) -> None:
        """A packet from the TUN, by the queue."""
        peer = self.tunnel.routes.owner(ip(destination))
        assert peer is not None
        self.tunnel.enqueue(peer, bytearray(record), self.world.clock.now)
        self.flush()

    def flush(self) -> None:
        now, tunnel = self.world.clock.now, self.tunnel
        for link in (0, UDP_LINK):
            while (batch := tunnel.next_batch(self._arena, now, link=link)) is not None:
                peer, size, _, lane = batch
                view = memoryview(self._arena)[:size]
                if link == UDP_LINK:
                    self._datagrams(tunnel.seal_datagrams(peer, view, now))
                else:
                    prefix, n = tunnel.seal(peer, view, self._sealed, lane)
                    self.world.relay(self, prefix + bytes(self._sealed[:n]))
                    assert peer.datagrams is not None
                    if peer.datagrams.doubles:
                        self._datagrams(tunnel.seal_copies(peer, view, now))
                tunnel.sent(peer, lane, size, now)
        self.drain()

    def _datagrams(self, runs: Iterator[tuple[tuple[Buffer, ...], int]]) -> None:
        assert self.peer.direct is not None
        to = self.peer.direct.remote
        assert to is not None
        for parts, segment in runs:
            self._udp(to, b"".join(parts), segment, None)

    def _udp(self, to: Endpoint, run: bytes, segment: int, ttl: int | None) -> None:
        for at in range(0, len(run), segment or len(run)):
            self.datagrams += 1
            self.world.net.send(cast(End, self), to, run[at : at + (segment or len(run))], ttl)

    def relayed(self, source: str, payload: bytes) -> None:
        self._take(self.tunnel.receive(source, memoryview(payload), self._opened, self.world.clock.now))
        self.tunnel.received()
        self.drain()

    def datagram(self, source: Endpoint, datagram: bytes) -> None:
        now, run = self.world.clock.now, memoryview(datagram)
        self._take(self.tunnel.receive_datagrams(source, run, len(run), now))
        self._take(self.tunnel.datagrams.flush(now))
        self.drain()

    def _take(self, packets: list[memoryview]) -> None:
        for each in packets:
            self.got[bytes(each)] += 1
            self.got_at.append(self.world.clock.now)
            self.order.append(bytes(each))

    def drain(self) -> None:
        again = False
        while (output := self.tunnel.poll_output()) is not None:
            if isinstance(output, Send):
                self.world.relay(self, output.payload)
            elif isinstance(output, SendDatagram):
                self._udp(output.to, b"".join(output.parts), output.segment, output.ttl)
            elif isinstance(output, Pong):
                self.pongs.append(output)
            elif isinstance(output, Stated):
                self.stated.append(output.document)
            elif isinstance(output, Deliver):
                self._take(list(output.packets))
            elif isinstance(output, AskReflexive):
                self.world.net.ask_stun(cast(End, self), self._stun_answer)
            elif isinstance(output, DirectChanged) and output.peer.direct is not None:
                self.changes.append((self.world.clock.now, output.peer.direct.state))
            again = again or isinstance(output, SessionUp | DirectChanged)
        if again:
            self.flush()
            return
        at = self.tunnel.next_at()
        if self.tunnel.backlog:
            at = min(at, max(self.tunnel.next_send_at(self.world.clock.now), self.world.clock.now + 1e-4))
        if at < self._wake_at:
            self._wake_at = at
            self.world.clock.at(at, self._wake)

    def _wake(self) -> None:
        self._wake_at = float("inf")
        self.tunnel.handle_timeout(self.world.clock.now)
        self.flush()

    def _stun_answer(self, seen: list[Endpoint]) -> None:
        verdict = NatVerdict.BLOCKED
        if seen:
            verdict = NatVerdict.EASY if len(set(seen)) == 1 else NatVerdict.HARD
        if self.around.set_reflexive(seen[:1], verdict):
            self.tunnel.candidates_changed(self.world.clock.now)
        self.drain()


class DirectWorld:
    """A user (10.86.0.2) and a provider (192.168.50.0/24), each behind a NAT or without one."""

    def __init__(
        self, user: tuple[Kind, ...] = ("port",), provider: tuple[Kind, ...] = ("port",), *, seed: int = 1
    ) -> None:
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.net = Internet(self.clock, self.rng)
        self.relay_delay_s = 0.02
        self.relay_is_up = True
        self.relayed = 0  # messages
        sides = [
            Device(
                self,
                name,
                number + 1,
                f"172.16.{number}.10/24" if kinds else f"198.51.100.{1 + number}/24",
                [Nat(kind, IPv4Address(f"203.0.113.{10 * number + 5}"), self.rng) for kind in kinds],
            )
            for number, (name, kinds) in enumerate((("user", user), ("provider", provider)))
        ]
        self.user, self.provider = sides
        to_provider = PeerConfig("gpu", self.provider.address, (ip_network("192.168.50.0/24"),))
        to_user = PeerConfig("laptop", self.user.address, (ip_network("10.86.0.2/32"),))
        self.provider.start(to_user, persistent=False)
        self.user.start(to_provider, persistent=True)
        self.sent: list[bytes] = []
        self.answers: list[bytes] = []

    def relay(self, sender: Device, payload: bytes) -> None:
        other = self.provider if sender is self.user else self.user
        if self.relay_is_up:
            self.relayed += 1
            self.clock.after(self.relay_delay_s, lambda: other.relayed(str(sender.address), payload))

    def run(self, seconds: float) -> None:
        self.clock.run_until(self.clock.now + seconds)

    def chat(self, seconds: float, *, every_s: float = 0.02, size: int = 100) -> None:
        """Packets from the user, and one back for each."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            number = len(self.sent).to_bytes(4).ljust(size, b".")
            self.sent.append(packet("10.86.0.2", "192.168.50.10", number))
            self.answers.append(packet("192.168.50.10", "10.86.0.2", number))
            self.user.send(self.sent[-1], "192.168.50.10")
            self.provider.send(self.answers[-1], "10.86.0.2")
            self.run(every_s)

    @property
    def both_direct(self) -> bool:
        return self.user.state is self.provider.state is PathState.DIRECT

    def longest_pause(self, since: float) -> float:
        """Of what arrived on either side."""
        longest = 0.0
        for side in (self.user, self.provider):
            times = [since, *(at for at in side.got_at if at >= since), self.clock.now]
            longest = max(longest, *(b - a for a, b in pairwise(times)))
        return longest
