"""A slow link in virtual time: a process that paces, its kernel's TCP, and a bottleneck with a long buffer.

    process --budget--> [socket: unsent] --cwnd--> [buffer of the link] --rate--> ... --ack after base_rtt_s

One step is a millisecond. The TCP has slow start, a window that grows only while it is the limit, one
reduction a round trip after a loss (to 0.7, as CUBIC), retransmission, a smoothed round trip, and
TCP_NOTSENT_LOWAT. Packets are equal; `packet_bytes` may be large for fast links.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from nconnect.queueing.pacer import Pacer

STEP_S = 0.001
SAMPLE_STEPS = 10


@dataclass
class Bottleneck:
    """The world of one link. `rate` (bytes a second) and `base_rtt_s` may be changed as time goes on."""

    rate: float
    base_rtt_s: float
    buffer_s: float = 1.0
    packet_bytes: int = 1500
    unsent_low_bytes: int = 16 << 10
    offered_rate: float | None = None  # what the process has to send; None: always more
    paced: bool = True
    supply_rate: float = 1.25e9  # what the process can produce at most

    now: float = 0.0
    delivered_bytes: int = 0
    delays: list[float] = field(default_factory=list)  # of a byte that is handed over in each step
    rates: list[float | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pacer = Pacer(self.now)
        self._unsent = 0
        self._cwnd = 10.0 * self.packet_bytes
        self._threshold = float("inf")
        self._in_flight = 0
        self._buffer: deque[float] = deque()  # when each packet was sent
        self._credit = 0.0
        self._acks: deque[tuple[float, float]] = deque()  # when the ack arrives, when its packet was sent
        self._losses: deque[float] = deque()  # when the sender learns of it
        self._reduced_at = -1.0
        self._srtt = self._min_rtt = 0.0
        self._acked = 0
        self._owed = 0.0
        self._steps = 0
        self._busy_s = 0.0

    def run(self, seconds: float) -> Bottleneck:
        until = self.now + seconds
        while self.now < until - STEP_S / 2:
            self._step()
        return self

    def forget(self) -> Bottleneck:
        """Begin to measure here."""
        self.delivered_bytes = 0
        self.delays.clear()
        self.rates.clear()
        return self

    def used(self, seconds: float) -> float:
        return self.delivered_bytes / (self.rate * seconds)

    def percentile(self, part: float) -> float:
        return sorted(self.delays)[int(part * (len(self.delays) - 1))]

    def _step(self) -> None:
        self._steps += 1
        self.now = self._steps * STEP_S
        self._busy_s += STEP_S if self._in_flight or self._unsent else 0
        self._learn()
        self._produce()
        self._transmit()
        self._serve()
        if self.paced and self._srtt and self._steps % SAMPLE_STEPS == 0:
            self.pacer.sample(
                self.now,
                acked_bytes=self._acked,
                in_flight_bytes=self._in_flight,
                rtt_s=self._srtt,
                min_rtt_s=self._min_rtt,
                unsent_bytes=self._unsent,
                busy_s=self._busy_s,
            )
        queued = len(self._buffer) * self.packet_bytes + self._unsent
        self.delays.append(queued / self.rate)
        self.rates.append(self.pacer.rate)

    def _learn(self) -> None:
        """Take the acknowledgements and losses that have arrived."""
        while self._acks and self._acks[0][0] <= self.now:
            at, sent_at = self._acks.popleft()
            rtt = at - sent_at
            self._srtt = rtt if not self._srtt else self._srtt + (rtt - self._srtt) / 8
            self._min_rtt = min(self._min_rtt or rtt, rtt)
            limited = self._in_flight >= self._cwnd - 3 * self.packet_bytes
            self._in_flight -= self.packet_bytes
            self._acked += self.packet_bytes
            if self._cwnd < self._threshold:
                if limited or self._in_flight * 2 > self._cwnd:
                    self._cwnd += self.packet_bytes
            elif limited:
                self._cwnd += 8 * self.packet_bytes**2 / self._cwnd  # faster than Reno, as CUBIC is
        while self._losses and self._losses[0] <= self.now:
            self._losses.popleft()
            self._in_flight -= self.packet_bytes
            self._unsent += self.packet_bytes
            if self.now - self._reduced_at > max(self._srtt, self.base_rtt_s):
                self._reduced_at = self.now
                self._cwnd = self._threshold = max(2.0 * self.packet_bytes, self._cwnd * 0.7)

    def _produce(self) -> None:
        """The process hands over what the pacer and the socket allow."""
        self._owed += min(self.offered_rate or self.supply_rate, self.supply_rate) * STEP_S
        self._owed = min(self._owed, self.supply_rate * STEP_S * 4)
        while self._owed >= self.packet_bytes and self._unsent < self.unsent_low_bytes:
            if self.pacer.budget(self.now) <= 0:
                break
            self.pacer.sent(self.now, self.packet_bytes)
            self._unsent += self.packet_bytes
            self._owed -= self.packet_bytes

    def _transmit(self) -> None:
        room = self.rate * self.buffer_s
        while self._unsent >= self.packet_bytes and self._in_flight + self.packet_bytes <= self._cwnd:
            self._unsent -= self.packet_bytes
            self._in_flight += self.packet_bytes
            if len(self._buffer) * self.packet_bytes > room:
                self._losses.append(
                    self.now + len(self._buffer) * self.packet_bytes / self.rate + self.base_rtt_s
                )
            else:
                self._buffer.append(self.now)

    def _serve(self) -> None:
        self._credit += self.rate * STEP_S
        while self._buffer and self._credit >= self.packet_bytes:
            self._credit -= self.packet_bytes
            self.delivered_bytes += self.packet_bytes
            self._acks.append((self.now + self.base_rtt_s, self._buffer.popleft()))
        if not self._buffer:
            self._credit = 0.0  # time without a packet is lost
