"""Two NCP endpoints in virtual time, and a network between them that loses, delays, doubles and reorders."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from nconnect.ncp.session import NcpSession, NcpState
from nconnect.ncp.sessions import NcpSessions
from nconnect.ncp.settings import SessionSettings
from nconnect.wire.ncp import NcpPacket
from tests.sim.clock import Clock

IDS = ("__0__", "__1__", "__2__", "__3__")


@dataclass
class Faults:
    """What the network does to each packet."""

    loss: float = 0.0
    twice: float = 0.0
    delay_s: float = 0.01
    jitter_s: float = 0.0  # more than the time between two packets reorders them
    dead_pairs: set[str] = field(default_factory=set)  # sub-clients over which nothing arrives
    bytes_per_s: float = 0.0  # of each direction, behind a queue without an end; 0: it is not bounded
    down: set[str] = field(default_factory=set)  # sub-clients whose links take nothing
    refuses: Callable[[NcpPacket], bool] = lambda packet: False


class Side:
    """One client: it reads into `got` as much as it is let, and writes what it is given."""

    def __init__(self, world: World, name: str, ids: tuple[str, ...], chosen: SessionSettings) -> None:
        self.world = world
        self.name = name
        self.ids = ids
        self.sessions = NcpSessions(rng=world.rng.randbytes, chosen=chosen)
        self.sessions.accepts = lambda remote: True
        self.accepted: list[NcpSession] = []
        self.got: dict[bytes, bytearray] = {}
        self.reads = True
        self.sent = 0
        self.sent_packets: list[NcpPacket] = []
        self._timers: dict[bytes, float] = {}

    def dial(self, other: Side) -> NcpSession:
        session = self.sessions.dial(other.name, self.ids, self.world.clock.now)
        self.pump(session)
        return session

    def receive(self, src: str, id: bytes, local: str, remote: str, packet: bytes) -> None:
        now = self.world.clock.now
        found = self.sessions.receive(src, id, local, remote, packet, now, local_ids=self.ids)
        for id, dest, mine, theirs, reply in self.sessions.replies:
            self.world.carry(self, dest, id, mine, theirs, reply)
        self.sessions.replies.clear()
        if found is None:
            return
        session, new = found
        if new:
            self.accepted.append(session)
        if self.reads:
            self.read(session)
        self.pump(session)

    def read(self, session: NcpSession) -> None:
        got = self.got.setdefault(session.id, bytearray())
        while data := session.read(1 << 16, self.world.clock.now):
            got += data

    def write(self, session: NcpSession, data: bytes) -> None:
        session.write(data)
        self.pump(session)

    def close(self, session: NcpSession) -> None:
        session.close(self.world.clock.now)
        self.pump(session)

    def pump(self, session: NcpSession) -> None:
        world = self.world
        while (
            due := session.next_packet(world.clock.now, lambda local: local not in world.faults.down)
        ) is not None:
            local, remote, packet = due
            self.sent += 1
            world.carry(self, session.remote, session.id, local, remote, packet)
        if session.is_over:
            self.sessions.forget(session, world.clock.now)
        deadline = session.poll_timeout()
        if deadline is not None and self._timers.get(session.id) != deadline.at:
            self._timers[session.id] = deadline.at
            world.clock.at(deadline.at, lambda: self._fire(session, deadline.at))

    def _fire(self, session: NcpSession, at: float) -> None:
        if self._timers.get(session.id) == at:
            del self._timers[session.id]
            session.handle_timeout(self.world.clock.now)
            self.pump(session)


class World:
    """`a` and `b`, and the network."""

    def __init__(
        self,
        faults: Faults | None = None,
        *,
        seed: int = 0,
        a: SessionSettings | None = None,
        b: SessionSettings | None = None,
        ids: tuple[tuple[str, ...], tuple[str, ...]] = (IDS, IDS),
    ) -> None:
        self.clock = Clock()
        self.rng = random.Random(seed)
        self.faults = faults or Faults()
        self.a = Side(self, "alice." + "a" * 64, ids[0], a or SessionSettings())
        self.b = Side(self, "bob." + "b" * 64, ids[1], b or SessionSettings())
        self.longest_queue_s = 0.0
        self._free_at: dict[str, float] = {}  # when the slow link has carried what was sent, by sender
        self._sides = {side.name: side for side in (self.a, self.b)}

    def carry(self, src: Side, dest: str, id: bytes, local: str, remote: str, packet: bytes) -> None:
        faults = self.faults
        read = NcpPacket.decode(packet)
        src.sent_packets.append(read)
        if faults.refuses(read) or {local, remote} & faults.dead_pairs:
            return
        for _ in range(2 if self.rng.random() < faults.twice else 1):
            if self.rng.random() < faults.loss:
                continue
            delay_s = faults.delay_s + self.rng.random() * faults.jitter_s + self._queued(src, len(packet))
            self.clock.after(delay_s, lambda: self._sides[dest].receive(src.name, id, remote, local, packet))

    def _queued(self, src: Side, size: int) -> float:
        """How long a packet is in the queue of the slow link."""
        if not self.faults.bytes_per_s:
            return 0.0
        now = self.clock.now
        free_at = max(now, self._free_at.get(src.name, 0.0))
        self.longest_queue_s = max(self.longest_queue_s, free_at - now)
        self._free_at[src.name] = free_at + size / self.faults.bytes_per_s
        return self._free_at[src.name] - now

    def run(self, seconds: float) -> None:
        self.clock.run_until(self.clock.now + seconds)

    def until(self, condition: Callable[[], object], within_s: float = 120.0) -> float:
        """Let time pass until `condition`; how long it took."""
        began = self.clock.now
        while not condition():
            assert self.clock.now - began < within_s, "it did not happen"
            self.run(0.005)
        return self.clock.now - began

    def established(self) -> tuple[NcpSession, NcpSession]:
        """A session from `a` to `b`, as both have it."""
        session = self.a.dial(self.b)
        self.until(lambda: session.state is NcpState.OPEN and self.b.accepted)
        return session, self.b.accepted[-1]
