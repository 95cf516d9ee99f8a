"""One seed, played: `python -m tests.sim.play SEED` shows it again.

A run has rounds. In each there is traffic, then one or two faults with traffic, then a silence or not; then
both sides must be heard again within a bound. After the last round follows a calm in which keys are renewed.
What must hold is checked as it happens and raises `Broken`.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_network

from nconnect.model import PeerConfig
from nconnect.tunnel.constants import PERSISTENT_KEEPALIVE_S, REKEY_AFTER_S
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES
from tests.sim.clock import Clock
from tests.sim.faults import Fault, Planned, begin, schedule
from tests.sim.internet import Internet
from tests.sim.machine import Machine
from tests.sim.network import ip, packet

ROUNDS = 5
ROUND_S = 95.0  # and as long as its faults last
PACKETS_IN_ROUND = 90
FLOWS = 4
CALM_S = REKEY_AFTER_S + 20.0
PROBE_EVERY_S = 0.5
# How long after the last fault's end both sides must be heard again. A silent node's connection is given up
# after 10 s, an attempt that was begun in a cut after 5 s for the seed and 5 s for the node, and the user
# notices that the provider has lost its keys at the next keepalive.
BUSY_BOUND_S = 15.0
IDLE_BOUND_S = PERSISTENT_KEEPALIVE_S + 10.0
_HEAD = VIRTIO_HEADER_BYTES + 28  # of a record: virtio-net header, IPv4, UDP


class Broken(AssertionError):
    """Something that must never happen did."""


@dataclass
class Outcome:
    """What a run did."""

    seed: int
    virtual_s: float = 0.0
    packets: int = 0
    delivered: int = 0
    rekeys: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    recovered_s: list[tuple[str, float]] = field(default_factory=list)


class Play:
    """Two machines, the node, and everything that was sent."""

    def __init__(self, seed: int, *, log: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.clock = Clock()
        self.internet = Internet(self.clock, random.Random(seed ^ 0x5EED))
        self.fired: Counter[Fault] = Counter()
        self.outcome = Outcome(seed)
        self._log = log
        self._sent: dict[tuple[str, int], tuple[bytes, float]] = {}  # (sender, number) -> record, when
        self.delivered: set[tuple[str, int]] = set()
        self._newest: dict[tuple[str, int], int] = {}  # (sender, flow) -> highest number delivered
        self._number = 0
        self._disorder: list[tuple[float, float]] = []
        self._heard: dict[str, float] = {}  # by sender: when a packet of its probes last arrived
        self.user = self._machine("user", b"u" * 32, persistent=True)
        self.provider = self._machine("provider", b"p" * 32, persistent=False)
        self._others = {"user": self.provider, "provider": self.user}
        self._addresses = {"user": "10.86.0.2", "provider": "10.86.0.1"}
        gpu = PeerConfig("gpu", self.provider.address, (ip_network("10.86.0.1/32"),))
        laptop = PeerConfig("laptop", self.user.address, (ip_network("10.86.0.2/32"),))
        self.provider.start([laptop])
        self.user.start([gpu])

    def _machine(self, name: str, key: bytes, *, persistent: bool) -> Machine:
        return Machine(self.clock, self.internet, name, key, persistent=persistent, on_packet=self._on_packet)

    def run(self) -> Outcome:
        self.say("start")
        self.clock.run_until(self.clock.now + 2.0)
        self._probe("start", BUSY_BOUND_S)
        for number, planned in enumerate(schedule(self.random, ROUNDS)):
            self._round(number, planned)
        self._calm()
        self._end()
        outcome = self.outcome
        outcome.virtual_s = self.clock.now - 1000.0
        outcome.packets, outcome.delivered = len(self._sent), len(self.delivered)
        outcome.fired = Counter({fault.value: count for fault, count in self.fired.items()})
        for fault, count in self.internet.fired.items():
            outcome.fired[f"messages: {fault}"] = count
        return outcome

    # The acts

    def _round(self, number: int, planned: list[Planned]) -> None:
        rng, clock = self.random, self.clock
        start = clock.now
        over = start + max(fault.ends for fault in planned)
        idle = rng.random() < 0.5
        bound_s = IDLE_BOUND_S if idle else BUSY_BOUND_S
        for _ in range(PACKETS_IN_ROUND):
            at = start + rng.random() * (over - start)
            sender = rng.choice((self.user, self.provider))
            flow = rng.randrange(FLOWS)
            clock.at(at, partial(self._send, sender, flow))
        running: dict[int, Callable[[], None]] = {}

        def begins(fault: Planned, index: int) -> None:
            self.say(f"{fault.fault.value} for {fault.ends - fault.begins:.1f} s")
            running[index] = begin(fault.fault, self, rng)

        def ends(fault: Planned, index: int) -> None:
            self.say(f"{fault.fault.value} ends")
            running.pop(index)()

        for index, fault in enumerate(planned):
            clock.at(start + fault.begins, partial(begins, fault, index))
            clock.at(start + fault.ends, partial(ends, fault, index))
        clock.run_until(over)
        names = " and ".join(sorted(fault.fault.value for fault in planned))
        if idle:
            clock.run_until(over + bound_s)
            for machine in (self.user, self.provider):
                if not machine.link.is_up:
                    raise Broken(f"round {number}, {names}: {machine.name}'s idle link is not up again")
            self._probe(names, 1.0)
        else:
            self.outcome.recovered_s.append((names, self._probe(names, bound_s)))
        clock.run_until(max(clock.now, start + ROUND_S))
        self._no_second_device()

    def _probe(self, why: str, bound_s: float) -> float:
        """Both sides send until each has been heard; how long that took."""
        start = self.clock.now
        missing = {"user", "provider"}
        self._heard.clear()
        while True:
            for machine in (self.user, self.provider):
                if machine.name in missing:
                    self.send(machine, FLOWS)
            self.clock.run_until(self.clock.now + PROBE_EVERY_S / 2)
            missing -= self._heard.keys()
            if not missing:
                return max(self._heard.values()) - start
            if self.clock.now - start > bound_s:
                raise Broken(f"{why}: not a word of {sorted(missing)} {bound_s:.1f} s later")

    def _no_second_device(self) -> None:
        """Whatever went wrong, neither side took the other, or itself, for two devices with one key."""
        for machine in (self.user, self.provider):
            for peer in machine.tunnel.peers.values():
                if peer.shared_key.seen_at > 0 or peer.shared_key.told_at > 0:
                    raise Broken(f"{machine.name} sees two devices with one key")

    def _calm(self) -> None:
        """Nothing goes wrong: every packet arrives, and the keys are renewed meanwhile."""
        before = self.user.handshakes + self.provider.handshakes
        end = self.clock.now + CALM_S
        while self.clock.now < end:
            numbers = [(m.name, self.send(m, 0)) for m in (self.user, self.provider)]
            self.clock.run_until(self.clock.now + 10.0)
            lost = [number for number in numbers if number not in self.delivered]
            if lost:
                raise Broken(f"lost in a calm: {lost}")
        self.outcome.rekeys = self.user.handshakes + self.provider.handshakes - before
        if not self.outcome.rekeys:
            raise Broken("the keys were not renewed")

    def _end(self) -> None:
        """Timers stop with their owners."""
        for machine in (self.user, self.provider):
            machine.stop()
        self.clock.run_until(self.clock.now + 120.0)
        if self.internet.node.stats().connections:
            raise Broken("the node still has connections")
        if self.internet.node.poll_timeout() is not None:
            raise Broken("a node without connections still wants a timer")

    # Packets

    def _send(self, machine: Machine, flow: int) -> None:
        self.send(machine, flow)

    def send(self, machine: Machine, flow: int) -> int:
        """A packet of this flow; its number is in it. From a machine that is not awake nothing leaves."""
        self._number += 1
        number = self._number
        if machine.awake:
            other = self._others[machine.name]
            here, there = self._addresses[machine.name], self._addresses[other.name]
            body = number.to_bytes(8) + self.random.randbytes(self.random.choice((1, 40, 1200)))
            record = bytearray(packet(here, there, body))
            record[VIRTIO_HEADER_BYTES + 20 : VIRTIO_HEADER_BYTES + 22] = (4000 + flow).to_bytes(2)
            self._sent[machine.name, number] = (bytes(record), self.clock.now)
            machine.send_packet(bytes(record), ip(there))
        return number

    def _on_packet(self, machine: Machine, record: bytes) -> None:
        sender = self._others[machine.name].name
        number = int.from_bytes(record[_HEAD : _HEAD + 8])
        flow = int.from_bytes(record[VIRTIO_HEADER_BYTES + 20 : VIRTIO_HEADER_BYTES + 22]) - 4000
        sent, sent_at = self._sent.get((sender, number), (b"", 0.0))
        if sent != record:
            raise Broken(f"{machine.name} was given a packet that was not sent so: number {number}")
        if (sender, number) in self.delivered:
            raise Broken(f"packet {number} of {sender} was delivered twice")
        self.delivered.add((sender, number))
        newest = self._newest.get((sender, flow), 0)
        if number < newest and not self._was_disordered(sent_at):
            raise Broken(f"packet {number} of {sender}, flow {flow}, came after {newest}")
        self._newest[sender, flow] = max(newest, number)
        if flow == FLOWS:
            self._heard.setdefault(sender, self.clock.now)

    def disordered(self, hold_s: float) -> None:
        """From now on, for as long as a message may be held back, the network keeps no order."""
        self._disorder.append((self.clock.now, self.clock.now + hold_s + 0.1))

    def _was_disordered(self, sent_at: float) -> bool:
        """Whether the relay disordered anything between then and now."""
        if self.internet.relay.reorder_s:
            return True
        return any(end >= sent_at for _, end in self._disorder)

    def say(self, text: str) -> None:
        if self._log is not None:
            link = [m.link.state.name if m.running else "-" for m in (self.user, self.provider)]
            self._log(f"{self.clock.now - 1000:9.3f}  {text}  [links: {', '.join(link)}]")


def play(seed: int) -> Outcome:
    """Play a seed; a failure's text says how to play it again."""
    current = Play(seed)
    try:
        return current.run()
    except Exception as error:
        at = current.clock.now - 1000.0
        raise Broken(
            f"seed {seed}, at {at:.1f} s: {type(error).__name__}: {error}"
            f" (replay: python -m tests.sim.play {seed})"
        ) from error


def main() -> None:
    seed = int(sys.argv[1])
    outcome = Play(seed, log=print).run()
    print(outcome)


if __name__ == "__main__":
    main()
