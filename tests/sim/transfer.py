"""Bulk transfers over several slow links in virtual time: TCP flows, two cores, and a node a link.

    flow ─ the user's core ─ link k, paced ─ cable ─ node k ─ link, paced ─ cable ─ the provider's core

Each cable is a bottleneck with a long buffer, below a kernel's TCP that never gives up a byte; what a pacer
sees of it is what TCP_INFO would say. Flows are CUBIC's shape with RACK's idea of a loss (RFC 9438, RFC
8985): what the tunnel drops or delivers out of order makes them slow, as it does in reality. Answers take a
short way of their own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any

from nconnect.queueing.pacer import Pacer
from tests.sim.lanes import LaneHost, LaneNet, split
from tests.sim.network import Host, packet

STEP_S = 0.001
SAMPLE_S = 0.015
UNSENT_LOW_BYTES = 16 << 10
MSS = 1448
USER, SERVER = "10.86.0.2", "192.168.50.10"
_HEADER = 38  # of a record, before the payload
_BETA, _C = 0.7, 0.4  # CUBIC's
ANSWER_S = 0.002
TIME_OUT_S = 0.3


class Link:
    """A websocket's way over a cable: what is unsent, what is under way, and the pacer above."""

    def __init__(self, now: float, rate: float, rtt_s: float, writable: Callable[[], None]) -> None:
        self.rate, self.rtt_s = rate, rtt_s
        self.pacer = Pacer(now)
        self.carried = 0
        self.unsent_bytes = 0
        self._writable = writable
        self._held = False
        self._unsent: deque[list[Any]] = deque()  # [bytes left, what to do on arrival]
        self._cwnd = 14_480.0
        self._in_flight = 0
        self._acked = 0
        self._free_at = now
        self._acks: deque[tuple[float, float, int]] = deque()  # when, sent when, bytes
        self._arrivals: deque[tuple[float, Callable[[], None]]] = deque()
        self._srtt = self._min_rtt = rtt_s
        self._sampled_at = -inf
        self._busy_s = 0.0
        self._stepped_at = now

    def writable(self, now: float) -> bool:
        return self.unsent_bytes < UNSENT_LOW_BYTES and self.pacer.budget(now) > 0

    def send(self, size: int, arrive: Callable[[], None], now: float) -> None:
        self.pacer.sent(now, size)
        self.unsent_bytes += size
        self._unsent.append([size, arrive])
        self._transmit(now)

    def step(self, now: float) -> None:
        """Let pass what has happened by now."""
        if self._in_flight or self.unsent_bytes:
            self._busy_s += now - self._stepped_at
        self._stepped_at = now
        while self._acks and self._acks[0][0] <= now:
            at, sent_at, size = self._acks.popleft()
            self._srtt += (at - sent_at - self._srtt) / 8
            self._min_rtt = min(self._min_rtt, at - sent_at)
            self._in_flight -= size
            self._acked += size
            self._cwnd += size  # as a kernel that has never seen a loss
        self._transmit(now)
        while self._arrivals and self._arrivals[0][0] <= now:
            self._arrivals.popleft()[1]()
        if now >= self._sampled_at + SAMPLE_S and (self._in_flight or self.unsent_bytes):
            self._sampled_at = now
            self.pacer.sample(
                now,
                acked_bytes=self._acked,
                in_flight_bytes=self._in_flight,
                unsent_bytes=self.unsent_bytes,
                rtt_s=self._srtt,
                min_rtt_s=self._min_rtt,
                busy_s=self._busy_s,
            )
        if self.writable(now):
            self._writable()

    def _transmit(self, now: float) -> None:
        while self._unsent and self._in_flight < self._cwnd:
            first = self._unsent[0]
            size = min(MSS, first[0])
            first[0] -= size
            self.unsent_bytes -= size
            self._in_flight += size
            self.carried += size
            self._free_at = max(now, self._free_at) + (size + 66) / self.rate
            self._acks.append((self._free_at + self.rtt_s, now, size))
            if not first[0]:
                self._unsent.popleft()
                self._arrivals.append((self._free_at + self.rtt_s / 2, first[1]))


@dataclass
class Flow:
    """A sender with an unlimited amount to send. Numbers and windows are packets."""

    number: int
    cwnd: float = 10.0
    limit: float = inf  # of the window
    next: int = 0
    done: int = 0  # all before it have arrived
    arrived: set[int] = field(default_factory=set)
    sent_at: dict[int, float] = field(default_factory=dict)  # under way
    lost: deque[int] = field(default_factory=deque)
    srtt_s: float = 0.0
    min_rtt_s: float = inf
    threshold: float = inf
    w_max: float = 0.0
    w_reno: float = 0.0
    since: float = 0.0
    reduced_at: float = -inf
    heard_at: float = 0.0
    losses: int = 0
    spurious: int = 0

    def to_send(self, now: float) -> int | None:
        if len(self.sent_at) >= int(min(self.cwnd, self.limit)):
            return None
        while self.lost:
            number = self.lost.popleft()
            if number >= self.done and number not in self.arrived:
                self.sent_at[number] = now
                return number
        self.next += 1
        self.sent_at[self.next - 1] = now
        return self.next - 1

    def acknowledge(self, number: int, now: float) -> None:
        self.heard_at = now
        sent_at = self.sent_at.pop(number, None)
        if number < self.done or number in self.arrived:
            self.spurious += 1
        else:
            self.arrived.add(number)
            while self.done in self.arrived:
                self.arrived.discard(self.done)
                self.done += 1
        if sent_at is None:
            return
        rtt_s = now - sent_at
        self.srtt_s = rtt_s if not self.srtt_s else self.srtt_s + (rtt_s - self.srtt_s) / 8
        self.min_rtt_s = min(self.min_rtt_s, rtt_s)
        self._grow(now)
        for other, at in list(self.sent_at.items()):
            if at >= sent_at or now < at + rtt_s + self.min_rtt_s / 4:
                break
            del self.sent_at[other]
            self.lost.append(other)
            self.losses += 1
            if now - self.reduced_at > self.srtt_s:
                self._reduce(now)

    def time_out(self, now: float) -> None:
        if self.sent_at and now - self.heard_at > max(TIME_OUT_S, 2 * self.srtt_s):
            self.lost.extend(sorted(self.sent_at))
            self.sent_at.clear()
            self.threshold = self.w_max = self.w_reno = max(2.0, self.cwnd * _BETA)
            self.cwnd, self.heard_at, self.since = 1.0, now, now

    def _grow(self, now: float) -> None:
        if self.cwnd < self.threshold:
            self.cwnd += 1
            if self.threshold == inf and self.srtt_s > self.min_rtt_s + max(0.004, self.min_rtt_s / 8):
                self.threshold = self.w_max = self.w_reno = self.cwnd  # HyStart
                self.since = now
            return
        k = ((self.w_max - self.threshold) / _C) ** (1 / 3)
        self.w_reno += 3 * (1 - _BETA) / (1 + _BETA) / self.cwnd
        target = max(_C * (now + self.srtt_s - self.since - k) ** 3 + self.w_max, self.w_reno)
        self.cwnd += max(0.01, min((target - self.cwnd) / self.cwnd, 0.5))

    def _reduce(self, now: float) -> None:
        self.reduced_at = self.since = now
        self.w_max = self.cwnd
        self.cwnd = self.threshold = self.w_reno = max(2.0, self.cwnd * _BETA)


class SlowNet(LaneNet):
    """Lanes over slow links. `rate` bytes a second of each cable; a round trip for each link."""

    def __init__(self, rate: float, trips: tuple[float, ...]) -> None:
        super().__init__()
        self.rate, self.trips = rate, trips
        self.up: dict[int, Link] = {}
        self.down: dict[int, Link] = {}
        self.waiting: dict[int, deque[tuple[str, bytes]]] = {}
        self.flows: list[Flow] = []
        self.user: LaneHost
        self.provider: LaneHost
        self.slow = False
        self._seen = 0
        self._answers: deque[tuple[float, int, int]] = deque()
        self._put: dict[int, deque[int]] = {}

    def begin(self, user: LaneHost, provider: LaneHost, flows: int) -> None:
        """From now on the user's messages take the slow way."""
        self.user, self.provider = user, provider
        self.slow = True
        for k, rtt_s in enumerate(self.trips):
            self.up[k] = Link(self.now, self.rate, rtt_s / 2, user.flush)
            self.down[k] = Link(self.now, self.rate, rtt_s / 2, partial(self._relay, k))
            self.waiting[k] = deque()
        self.flows = [Flow(n, heard_at=self.now) for n in range(flows)]
        self._seen = len(provider.delivered)

    def room(self, source: Host, link: int) -> int:
        if not self.slow or source is self.provider:
            return super().room(source, link)
        up = self.up[link]
        self.user.tunnel.link_rates[link] = up.pacer.rate
        return up.pacer.budget(self.now) if up.writable(self.now) else 0

    def send(self, source: Host, link: int, dest: str, payload: bytes) -> None:
        if not self.slow or source is self.provider:
            super().send(source, link, dest, payload)
            return
        sub, _ = split(dest)
        prefix = f"__{link}__." if link else ""
        sender = prefix + str(source.address)

        def at_node() -> None:
            self.waiting[sub].append((sender, payload))
            self._relay(sub)

        self.up[link].send(len(payload) + 100, at_node, self.now)

    def _relay(self, k: int) -> None:
        link, waiting = self.down[k], self.waiting[k]
        while waiting and link.writable(self.now):
            sender, payload = waiting.popleft()
            link.send(len(payload) + 100, partial(self._deliver, sender, payload), self.now)

    def _deliver(self, sender: str, payload: bytes) -> None:
        self.provider.receive(sender, payload)
        self.provider.flush()

    def transfer(self, seconds: float) -> float:
        """Go on; bytes a second of payload that arrive in order meanwhile."""
        before, begin = sum(flow.done for flow in self.flows), self.now
        end = begin + seconds
        while self.now < end:
            for link in (*self.up.values(), *self.down.values()):
                link.step(self.now)
            delivered = self.provider.delivered
            for record in delivered[self._seen :]:
                data = record[_HEADER:]
                flow, number = int.from_bytes(data[:2]), int.from_bytes(data[2:6])
                self._answers.append((self.now + ANSWER_S, flow, number))
            delivered.clear()
            self._seen = 0
            while self._answers and self._answers[0][0] <= self.now:
                _, flow, number = self._answers.popleft()
                self.flows[flow].acknowledge(number, self.now)
            for sender in self.flows:
                sender.time_out(self.now)
                while (due := sender.to_send(self.now)) is not None:
                    self._enqueue(sender.number, due)
            self.user.flush()
            self.run(STEP_S)
        return (sum(flow.done for flow in self.flows) - before) * MSS / (self.now - begin)

    def _enqueue(self, flow: int, number: int) -> None:
        record = bytearray(packet(USER, SERVER, flow.to_bytes(2) + number.to_bytes(4) + bytes(MSS - 14)))
        record[30:32] = (1000 + flow).to_bytes(2)
        self.user.tunnel.enqueue(self.user.peer(self.provider), record, self.now)
