"""Two devices with a relay between them and an internet with NATs, in virtual time.

`End` is what the tunnel will be: it seals, opens, logs and reports, and does what the `DirectPath` says.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, ip_interface, ip_network
from itertools import pairwise
from math import inf

from nconnect.crypto.aead import CipherSuite
from nconnect.errors import DropReason
from nconnect.model import DirectMode, Endpoint
from nconnect.tunnel.paths.direct.candidates import LocalAddress, Network, Route
from nconnect.tunnel.paths.direct.keys import DirectKeys
from nconnect.tunnel.paths.direct.outputs import (
    AskReflexive,
    PathState,
    SendCandidates,
    StateChanged,
    Transmit,
)
from nconnect.tunnel.paths.direct.path import DirectPath
from nconnect.tunnel.paths.direct.surroundings import Surroundings
from nconnect.wire.direct import NatVerdict, decode_header
from nconnect.wire.tunnel import FEEDBACK_BODY, RecordKind, control_batch, read_records
from tests.sim.clock import Clock
from tests.tunnel.paths.direct.nats import Kind, Nat

STUN = (Endpoint(IPv4Address("192.0.2.1"), 30006), Endpoint(IPv4Address("192.0.2.2"), 30007))
PORT = 41641
REPORT_S, REPORT_BYTES = 0.015, 4096
IP_UDP_BYTES = 28
DEFAULT = Route(ip_network("0.0.0.0/0"))


@dataclass
class Internet:
    """Between the outermost routers. One-way delays in seconds."""

    clock: Clock
    rng: random.Random
    delay_s: float = 0.010
    hops: int = 6
    loss: float = 0.0
    mtu: int = 1500
    drops: Callable[[End, bytes], bool] = lambda sender, datagram: False
    ends: list[End] = field(default_factory=list)
    sent_to: list[tuple[float, Endpoint, int]] = field(default_factory=list)  # what strangers got
    stranger = IPv4Address("203.0.113.200")

    def send(self, sender: End, to: Endpoint, datagram: bytes, ttl: int | None) -> None:
        """From an end's socket to an address."""
        now, left = self.clock.now, 64 if ttl is None else ttl
        if self.drops(sender, datagram) or len(datagram) + IP_UDP_BYTES > self.mtu:
            return
        source = sender.local
        if not sender.is_public and to.address in sender.lan:
            for end in self.ends:
                if end.local == to and end.lan == sender.lan and end.nats[:1] == sender.nats[:1]:
                    self._arrive(end, source, datagram, 0.0003)
            return
        for nat in sender.nats:
            if left <= 1:
                return
            outside = nat.out(source, to, now)
            if outside is None:
                return
            source, left = outside, left - 1
        if any(nat.public == to.address for nat in sender.nats):
            return  # Linux does not hairpin
        if left <= self.hops or (self.rng.random() < self.loss):
            return
        self._deliver(source, to, datagram, left - self.hops)

    def _deliver(self, source: Endpoint, to: Endpoint, datagram: bytes, left: int) -> None:
        for end in self.ends:
            if end.is_public and end.local == to:
                self._arrive(end, source, datagram, self.delay_s)
                return
            if end.nats and end.nats[-1].public == to.address:
                # When it gets there, not now: the NAT's state may differ.
                nats = end.nats
                self.clock.after(
                    self.delay_s, lambda nats=nats: self._inward(nats, source, to, datagram, left)
                )
                return
        if to not in STUN:
            self.sent_to.append((self.clock.now, to, len(datagram) + IP_UDP_BYTES))

    def _inward(self, nats: list[Nat], source: Endpoint, to: Endpoint, datagram: bytes, left: int) -> None:
        for nat in reversed(nats):
            inside = None if nat.kind == "blocked" else nat.back(source, to.port, self.clock.now)
            if inside is None or left <= 1:
                return
            to, left = inside, left - 1
        for end in self.ends:
            if end.local == to and end.nats == nats:
                end.datagram(source, datagram)

    def _arrive(self, end: End, source: Endpoint, datagram: bytes, delay_s: float) -> None:
        self.clock.after(delay_s, lambda: end.datagram(source, datagram))

    def ask_stun(self, end: End, done: Callable[[list[Endpoint]], None]) -> None:
        """The addresses that two servers see; one round trip later, or 0.7 s when nothing comes back."""
        seen: list[Endpoint] = []
        for server in STUN:
            source: Endpoint | None = end.local
            for nat in end.nats:
                source = nat.out(source, server, self.clock.now) if source else None
            if source:
                seen.append(source)
        self.clock.after(2 * self.delay_s + end.stun_s if seen else 0.7, lambda: done(seen))


class End:
    """One device with one peer."""

    def __init__(
        self,
        name: str,
        net: Internet,
        *,
        address: str,
        nats: list[Nat],
        keys: DirectKeys,
        seed: int,
        mode: DirectMode = "on",
    ) -> None:
        self.name = name
        self.net = net
        self.clock = net.clock
        self.nats = nats
        self.keys = keys
        self.peer: End = self
        self.relay_delay_s = 0.02
        self.relay_up = True
        self.states: list[tuple[float, PathState, str]] = []
        self.got: dict[int, str] = {}  # packet number -> the way it came
        self.got_at: dict[int, float] = {}
        self.twins = 0
        self.heard: deque[bytes] = deque(maxlen=8)  # datagrams
        self.drops: dict[DropReason, int] = {}
        self.direct_bytes = 0  # all that was sent in datagrams
        self.datagrams = 0
        self.relayed = 0  # packets
        rng = random.Random(seed)
        self.around = Surroundings(PORT)
        self.around.has_stun = True
        self.stun_s = 0.0  # by which the STUN servers are farther away than the peer
        self.set_address(address)
        self.path = DirectPath(self.around, now=self.clock.now, rng=rng.randbytes, mode=mode)
        self._totals: dict[int, int] = {}  # counter -> data bytes sent up to it
        self._sent_at: dict[int, float] = {}
        self._arrived = self._reported = 0
        self._report_at = inf
        self._wake_at = inf
        net.ends.append(self)

    def set_address(self, address: str) -> None:
        interface = ip_interface(address)
        self.local = Endpoint(interface.ip, PORT)
        self.lan = interface.network
        assert isinstance(self.lan, IPv4Network)
        self.is_public = not self.nats
        self.around.set_network(Network((LocalAddress(interface),), (DEFAULT, Route(interface.network))))

    def start(self) -> None:
        self.path.relay_rtt_s = 2 * self.relay_delay_s
        self.path.session_started(self.clock.now)
        self.pump()

    # Packets

    def send(self, number: int, size: int = 100) -> None:
        """A packet for the peer, from this device's kernel."""
        now = self.clock.now
        self.path.traffic(now)
        if self.path.carries_direct:
            room = self.path.datagram_bytes - 24 - 4
            for at in range(0, size, room):  # TCP's super-packets are cut to the path's size
                part = min(room, size - at)
                self._data(number if at + part >= size else -1, part)
        if self.path.carries_relay:
            self.relayed += 1
            self._relay(lambda peer: peer.packet(number, "relay"))
        self.pump()

    def _data(self, number: int, size: int) -> None:
        body = number.to_bytes(8, "little", signed=True).ljust(size, b"\0")
        self.path.sent(size, self.clock.now)
        records = [(RecordKind.PACKET, body)]
        if self._arrived > self._reported and size < 1000:  # a report rides along
            records.append((RecordKind.FEEDBACK, self._report()))
        self._datagram(self.path.remote, tuple(records), None)

    def packet(self, number: int, way: str) -> None:
        """A packet came."""
        self.path.traffic(self.clock.now)
        if number in self.got:
            self.twins += 1
        elif number >= 0:
            self.got[number] = way
            self.got_at[number] = self.clock.now
        self.pump()

    def _relay(self, event: Callable[[End], None]) -> None:
        if self.relay_up and self.peer.relay_up:
            self.clock.after(self.relay_delay_s, lambda: event(self.peer))

    # Datagrams

    def _datagram(
        self, to: Endpoint | None, records: tuple[tuple[RecordKind, bytes], ...], ttl: int | None
    ) -> None:
        assert to is not None
        counter = self.keys.counter
        self._totals[counter] = self.path.delivery.total_bytes
        self._sent_at[counter] = self.clock.now
        datagram = self.keys.seal(control_batch(*records))
        self.direct_bytes += len(datagram)
        self.datagrams += 1
        self.net.send(self, to, datagram, ttl)

    def datagram(self, source: Endpoint, datagram: bytes) -> None:
        """A datagram came to the socket."""
        now = self.clock.now
        self.heard.append(datagram)
        _, counter = decode_header(datagram)
        newest = counter > self.keys.newest
        batch = self.keys.open(counter, datagram)
        if isinstance(batch, DropReason):
            self.drops[batch] = self.drops.get(batch, 0) + 1
            return
        if not self.path.received(source, len(datagram), newest, now):
            return
        packets, others = read_records(memoryview(batch))
        for packet in packets:
            self._arrived += len(packet)
            self.packet(int.from_bytes(packet[:8], "little", signed=True), "direct")
        if self._arrived - self._reported >= REPORT_BYTES and self._report_at == inf:
            self._report_at = now + REPORT_S
            self.clock.at(self._report_at, self._send_report)
        for kind, body in others:
            if kind == RecordKind.PROBE:
                self.path.on_probe(body, source, len(datagram), now)
            elif kind == RecordKind.PROBE_ACK:
                self.path.on_ack(body, source, now)
            elif kind == RecordKind.FEEDBACK:
                self.feedback(bytes(body))
        self.pump()

    def _report(self) -> bytes:
        self._reported = self._arrived
        return FEEDBACK_BODY.pack(self.keys.local_index, 0, max(self.keys.newest, 0), self._arrived, 0)

    def _send_report(self) -> None:
        self._report_at = inf
        report = self._report()
        if self.path.carries_direct:
            self._datagram(self.path.remote, ((RecordKind.FEEDBACK, report),), None)
        if self.path.carries_relay:
            self._relay(lambda peer: peer.feedback(report))

    def feedback(self, body: bytes) -> None:
        _, _, counter, arrived, _ = FEEDBACK_BODY.unpack(body)
        now = self.clock.now
        rtt_s = now - self._sent_at[counter] if counter in self._sent_at else None
        self.path.reported(self._totals.get(counter, 0), arrived, rtt_s, now)
        self.pump()

    # The machine

    def candidates(self, body: bytes) -> None:
        self.path.on_candidates(body, self.clock.now)
        self.pump()

    def pump(self) -> None:
        """Do what the path says, and wake up when it wants to."""
        while (output := self.path.poll_output()) is not None:
            if isinstance(output, Transmit):
                records = output.records
                if output.wants_report and self._arrived:
                    records += ((RecordKind.FEEDBACK, self._report()),)
                self._datagram(output.to, records, output.ttl)
            elif isinstance(output, SendCandidates):
                body = output.body
                self._relay(lambda peer, body=body: peer.candidates(body))
            elif isinstance(output, AskReflexive):
                self.net.ask_stun(self, self._stun_answer)
            elif isinstance(output, StateChanged):
                self.states.append((self.clock.now, output.state, output.why))
        deadline = self.path.poll_timeout()
        if deadline is not None and deadline.at < self._wake_at:
            self._wake_at = deadline.at
            self.clock.at(deadline.at, self._wake)

    def _wake(self) -> None:
        self._wake_at = inf
        self.path.handle_timeout(self.clock.now)
        self.pump()

    def _stun_answer(self, seen: list[Endpoint]) -> None:
        verdict = NatVerdict.BLOCKED
        if seen:
            verdict = NatVerdict.EASY if len(set(seen)) == 1 else NatVerdict.HARD
        if self.around.set_reflexive(seen[:1], verdict):
            self.path.candidates_changed(self.clock.now)
        self.pump()

    def direct_at(self) -> float | None:
        """When the path was direct first."""
        return next((at for at, state, _ in self.states if state is PathState.DIRECT), None)


class World:
    """Alice and Bob. Kinds of NAT from the inside out; none is a public address."""

    def __init__(
        self,
        alice: tuple[Kind, ...] = ("port",),
        bob: tuple[Kind, ...] = ("port",),
        *,
        seed: int = 1,
        same_lan: bool = False,
        relay_delay_s: float = 0.02,
        expires_s: float = 60.0,
        modes: tuple[DirectMode, DirectMode] = ("on", "on"),
    ) -> None:
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.net = Internet(self.clock, self.rng)
        there, back = b"\x01" * 32, b"\x02" * 32
        suite = CipherSuite.AES256GCM
        keys = (
            DirectKeys.of_session(suite, local_index=1, remote_index=2, send=there, receive=back),
            DirectKeys.of_session(suite, local_index=2, remote_index=1, send=back, receive=there),
        )
        chains = [self._nats(number, kinds, expires_s) for number, kinds in enumerate((alice, bob))]
        if same_lan:
            chains[1] = chains[0]
        addresses = [
            f"192.168.{0 if same_lan else number}.{10 + number}/24"
            if chains[number]
            else f"198.51.100.{1 + number}/24"
            for number in range(2)
        ]
        self.alice, self.bob = (
            End(
                name,
                self.net,
                address=addresses[n],
                nats=chains[n],
                keys=keys[n],
                seed=seed + n,
                mode=modes[n],
            )
            for n, name in enumerate(("alice", "bob"))
        )
        self.alice.peer, self.bob.peer = self.bob, self.alice
        self._number = 0
        for end in (self.alice, self.bob):
            end.relay_delay_s = relay_delay_s
            end.start()

    def _nats(self, side: int, kinds: tuple[Kind, ...], expires_s: float) -> list[Nat]:
        """A chain; between its routers lie private networks (double NAT), outside a public address."""
        last = len(kinds) - 1
        return [
            Nat(
                kind,
                IPv4Address(f"203.0.113.{10 * side + 5}" if n == last else f"100.64.{side}.{n + 2}"),
                self.rng,
                expires_s=expires_s,
            )
            for n, kind in enumerate(kinds)
        ]

    def run(self, seconds: float) -> None:
        self.clock.run_until(self.clock.now + seconds)

    def chat(self, seconds: float, *, every_s: float = 0.1, size: int = 100, both: bool = True) -> None:
        """Packets from Alice, and an answer to each, or from Alice alone."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self._number += 1
            self.alice.send(self._number, size)
            if both:
                self.bob.send(self._number, size)
            self.run(every_s)

    def longest_pause(self, since: float) -> float:
        """Of what arrived on either side, from half a second before `since`."""
        longest = 0.0
        for end in (self.alice, self.bob):
            times = sorted(at for at in end.got_at.values() if at >= since - 0.5)
            longest = max([longest, *(b - a for a, b in pairwise([*times, self.clock.now]))])
        return longest

    @property
    def both_direct(self) -> bool:
        return all(end.path.state is PathState.DIRECT for end in (self.alice, self.bob))

    def time_to_direct(self, limit_s: float = 8.0) -> float | None:
        """Seconds from Alice's first packet until both sides are direct; None when they are not in time."""
        started = self.clock.now
        while self.clock.now < started + limit_s:
            self.chat(0.02, every_s=0.02, both=False)
            if self.both_direct:
                return max(end.direct_at() or inf for end in (self.alice, self.bob)) - started
        return None
