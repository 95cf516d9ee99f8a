"""One seed's game: two random networks, random traffic and faults; what must hold is checked all the time."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from math import inf

from nconnect.model import Endpoint
from nconnect.tunnel.paths.direct.constants import HOUR_BYTES, SUSPECT_AFTER_S
from nconnect.tunnel.paths.direct.outputs import PathState
from tests.tunnel.paths.direct.nats import Kind
from tests.tunnel.paths.direct.world import End, World

KINDS: tuple[tuple[Kind, ...], ...] = (
    (), ("cone",), ("address",), ("port",), ("port",), ("trap",), ("symmetric",), ("blocked",),
    ("port", "port"), ("port", "trap"),
)  # fmt: skip
STRICT = {("port",), ("trap",), ("port", "port"), ("port", "trap")}
PAUSE_S = 1.5  # the longest that packets of a steady flow may stay away, while the relay works


class Broken(AssertionError):
    """What must hold did not; the text says how to play it again."""


@dataclass
class Outcome:
    seed: int
    time_to_direct_s: float | None
    longest_pause_s: float
    states: int


def is_possible(alice: tuple[Kind, ...], bob: tuple[Kind, ...]) -> bool:
    """Whether the two networks can have a direct path at all."""
    if ("blocked",) in (alice, bob):
        return False
    hard = ("symmetric",)
    return not (hard in (alice, bob) and (alice == bob or alice in STRICT or bob in STRICT))


class Game:
    """What is wrong with a seed is raised as `Broken`."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self.kinds = rng.choice(KINDS), rng.choice(KINDS)
        delay_s = rng.choice((0.001, 0.005, 0.02, 0.05))
        self.world = World(*self.kinds, seed=seed, relay_delay_s=delay_s + rng.choice((0.005, 0.02, 0.06)))
        self.net = self.world.net
        self.net.delay_s = delay_s
        self.net.hops = rng.randrange(4, 12)  # with fewer a probe of TTL 4 reaches the other side's router
        self.net.loss = rng.choice((0, 0, 0, 0.01))
        self.ends = (self.world.alice, self.world.bob)

    def play(self) -> Outcome:
        easy = is_possible(*self.kinds)
        taken_s = self.world.time_to_direct(3.0)
        if easy and (taken_s is None or taken_s > 1.0):
            raise self.broken(f"{self.kinds}: direct after {taken_s} s")
        if not is_possible(*self.kinds) and taken_s is not None:
            raise self.broken(f"{self.kinds}: direct, which cannot be")
        self.net.loss = min(self.net.loss, 0.01)
        longest = 0.0
        for _ in range(self.rng.randrange(3, 8)):
            longest = max(longest, self.act())
        self.mend()
        if easy:
            self.settle()
        for end in self.ends:
            self.check(end)
        return Outcome(self.seed, taken_s, longest, sum(len(end.states) for end in self.ends))

    def act(self) -> float:
        """A fault or a change, with steady traffic; the longest pause of it."""
        rng, world = self.rng, self.world
        world.chat(1, every_s=0.05)
        since = world.clock.now
        fault = rng.choice(
            ("dead", "one way", "large", "loss", "flush", "move", "idle", "mtu", "forged", "relay", "nothing")
        )
        if fault == "dead":
            self.net.drops = lambda sender, datagram: True
        elif fault == "one way":
            victim = rng.choice(self.ends)
            self.net.drops = lambda sender, datagram: sender is victim
        elif fault == "large":
            self.net.drops = lambda sender, datagram: len(datagram) > 300
        elif fault == "loss":
            self.net.loss = rng.choice((0.05, 0.2, 0.5))
        elif fault == "flush":
            for nat in rng.choice(self.ends).nats:
                nat.flush(new_ports=rng.random() < 0.5)
        elif fault == "move":
            end = rng.choice(self.ends)
            if end.nats:
                for nat in end.nats:  # those of the other network have the same kinds
                    nat.flush(new_ports=rng.random() < 0.5)
                end.set_address(f"192.168.{rng.randrange(20, 200)}.7/24")
                end.path.network_changed(world.clock.now)
                end.pump()
        elif fault == "mtu":
            self.net.mtu = rng.choice((1228, 1280, 1400, 1492))
        elif fault == "forged":
            self.forge()
        elif fault == "relay":
            for end in self.ends:
                end.relay_up = end.path.relay_is_up = False
        if fault == "idle":
            world.run(rng.choice((5.0, 60.0, 300.0)))
            since = world.clock.now
        for _ in range(rng.randrange(10, 60)):
            world.chat(0.2, every_s=0.05, size=rng.choice((60, 200, 1000)))
            for end in self.ends:
                self.check(end)
        pause_s = world.longest_pause(since)
        carried = all(end.path.relay_is_up for end in self.ends)
        if carried and fault not in ("loss", "idle") and pause_s > PAUSE_S:
            raise self.broken(f"{fault}: nothing arrived for {pause_s:.2f} s")
        self.mend()
        return pause_s if carried and fault != "idle" else 0.0

    def mend(self) -> None:
        """The network works again."""
        self.net.drops = lambda sender, datagram: False
        self.net.loss, self.net.mtu = 0.0, 1500
        for end in self.ends:
            end.relay_up = end.path.relay_is_up = True

    def settle(self) -> None:
        """With traffic both sides are direct again in the end: penalties and back-offs have an end."""
        for _ in range(400):
            self.world.chat(1, every_s=0.5)
            if self.world.both_direct:
                return
        raise self.broken(f"{self.kinds}: not direct 400 s after the last fault")

    def forge(self) -> None:
        """Datagrams from strangers, and genuine ones replayed from another address."""
        stranger = Endpoint(self.net.stranger, 4000)
        for end in self.ends:
            end.datagram(stranger, self.rng.randbytes(self.rng.randrange(24, 100)))
            for datagram in list(end.heard):
                end.datagram(stranger, datagram)

    def check(self, end: End) -> None:
        """What holds at any time."""
        path = end.path
        searching = path._finder.search is not None
        if path.state is PathState.SEARCH and not searching:
            raise self.broken(f"{end.name} searches without a search")
        if path.carries_direct is not (path.state in (PathState.DIRECT, PathState.SUSPECT)):
            raise self.broken(f"{end.name}: {path.state} and carries_direct {path.carries_direct}")
        deadline = path.poll_timeout()
        if deadline is not None and deadline.at < self.world.clock.now - 0.001:
            raise self.broken(f"{end.name}: {deadline.why} is overdue")
        if path.state is PathState.DIRECT and path.why:
            raise self.broken(f"{end.name} is direct and says why not: {path.why}")
        if path.state is PathState.RELAY and not path.why:
            raise self.broken(f"{end.name} does not say why not")
        since = path.delivery.unreported_since
        if path.state is PathState.DIRECT and since is not None:
            limit_s = max(SUSPECT_AFTER_S, 3 * (path.rtt_s or 0.0))
            silent_s = self.world.clock.now - since
            if silent_s > limit_s + 0.2:  # the round trip may have become shorter since
                raise self.broken(f"{end.name} is direct, and silent for {silent_s:.2f} s")
        strangers = Counter[Endpoint]()
        for at, to, size in self.net.sent_to:
            if at > self.world.clock.now - 3600:
                strangers[to] += size
        if max(strangers.values(), default=0) > HOUR_BYTES:
            raise self.broken(f"a stranger got too much: {strangers.most_common(1)}")
        falls = [
            at for at, state, why in end.states if state is PathState.RELAY and at > self.world.clock.now - 60
        ]
        if len(falls) > 14:
            raise self.broken(f"{end.name} flaps: {len(falls)} times in the last minute")

    def broken(self, what: str) -> Broken:
        return Broken(f"{what} (python -m tests.tunnel.paths.direct.play {self.seed} 1)")


def play(seed: int) -> Outcome:
    return Game(seed).play()


def play_all(first: int, count: int) -> list[Outcome]:
    return [play(seed) for seed in range(first, first + count)]


def report(outcomes: list[Outcome]) -> str:
    taken = sorted(outcome.time_to_direct_s or inf for outcome in outcomes)
    found = [each for each in taken if each < inf]
    pauses = max(outcome.longest_pause_s for outcome in outcomes)
    return (
        f"{len(outcomes)} seeds: {len(found)} direct, after {found[len(found) // 2]:.3f} s (median),"
        f" {found[-1]:.3f} s at most; longest pause {pauses:.2f} s"
    )


if __name__ == "__main__":
    import sys

    print(report(play_all(int(sys.argv[1]), int(sys.argv[2]))))
