"""Delivery feedback: how fast a lane may send, by what the peer reports to have arrived.

The slow part may be between the relay and the peer, and what was handed to the relay cannot be taken back. So
the receiver reports (record FEEDBACK) the newest batch, how long ago it came, and how many bytes came in all:
every `REPORT_INTERVAL_S` while data arrives, and sooner while much does. The sender's pacer learns rate and
queue from the reports, as a link's pacer does from TCP_INFO.

If a processor is the bottleneck, on either side, delays say nothing about the path. Each side knows when it
is late; the receiver says so in its report, and nothing is learnt from it.

Reports need not be trusted: a peer that lies only slows down or spoils its own traffic.
"""

from __future__ import annotations

from collections import deque
from math import inf

from nconnect.queueing.pacer import Pacer
from nconnect.wire.tunnel import FEEDBACK_BODY

REPORT_INTERVAL_S = 0.015  # guessed: what the pacer wants is 10 to 20 ms
REPORT_BYTES = 4096  # no report for less
RIDE_INTERVAL_S = 0.05  # guessed: a direct path whose data is unreported for 0.1 s is asked about
# Measured: what the sender does not know to have arrived is a part of its window.
SOON_S = 0.004
SOON_BYTES = 256 << 10  # more has arrived since: report as soon as that
MUCH_BYTES = 1 << 20  # more has arrived since: the sender may have to wait until it knows
MAX_LOGGED = 4096  # batches that were not reported on; above a second of the fastest
MAX_HOLD_S = 1.0
# Measured: waiting for a processor makes round trips of 20 ms and more, with a few kilobytes under way.
_QUEUE_BYTES = 48 << 10
TRIGGER_S = 0.006
_PATIENCE_S = 0.1
BEST_OF_S = 0.25
# Where a peer's processor is the limit, what is under way waits in relays and sockets: in one line, whatever
# flow it is of, and above what a relay holds it is dropped. No more may be under way than UNDER_WAY_BYTES, or
# what arrives in two round trips and _WINDOW_S, as long as reports come; the rest waits in the fair queue.
# Measured: 6 MiB and 30 ms let a ping beside a flood of UDP wait 34 ms, these 14; less costs rate.
UNDER_WAY_BYTES = 2 << 20
_WINDOW_S = 0.012
LATELY_S = 0.25
_LOOK_AGAIN_S = 0.003


class Sending:
    """Our side of one direction: a log of batches under way, and the pacer."""

    __slots__ = (
        "_idle_s", "_idle_since", "_log", "_reported_at", "arrived_bytes", "pacer", "reported_bytes",
        "total_bytes",
    )  # fmt: skip

    def __init__(self, now: float) -> None:
        self.pacer = _pacer(now)
        # Of each batch under way: key index, counter, when it was sent, all bytes sent up to it.
        self._log: deque[tuple[int, int, float, int]] = deque(maxlen=MAX_LOGGED)
        self.total_bytes = 0  # that were ever sent here
        self.arrived_bytes = 0  # as the peer reported last
        self._idle_s = 0.0  # in all, how long nothing was under way, as far as we know
        self._idle_since = now
        self._reported_at = -inf
        self.reported_bytes = 0  # of `total_bytes`: those up to the newest batch that the peer reported

    @property
    def under_way_bytes(self) -> int:
        """Bytes that were sent and are not known to have arrived."""
        return self.total_bytes - self.reported_bytes

    def is_clear(self, now: float) -> bool:
        """Whether any amount may be sent now."""
        return self.pacer.rate is None and (
            self.total_bytes - self.reported_bytes <= UNDER_WAY_BYTES or not self._is_full(now)
        )

    def budget(self, now: float) -> int:
        """How many bytes may be sent now. A packet may exceed it."""
        return 0 if self._is_full(now) else self.pacer.budget(now)

    def next_at(self, now: float) -> float:
        """When there may be a budget again; `now` if there is one."""
        return now + _LOOK_AGAIN_S if self._is_full(now) else self.pacer.next_at(now)

    def _is_full(self, now: float) -> bool:
        """Whether the peer has to catch up first (see UNDER_WAY_BYTES)."""
        under_way = self.total_bytes - self.reported_bytes
        return (
            under_way > UNDER_WAY_BYTES
            and now - self._reported_at < LATELY_S
            and under_way > self.pacer.acknowledged_rate * (2 * self.pacer.base_s + _WINDOW_S)
        )

    def arrives_in_s(self, now: float) -> float:
        """How long what is sent now takes to arrive at most, judged by what is under way and since when."""
        if not self._log:
            return 0.0
        rate = self.pacer.acknowledged_rate
        return max(now - self._log[0][2], self.under_way_bytes / rate if rate else 0.0)

    def sent(self, index: int, counter: int, size: int, now: float) -> None:
        """A batch of `size` bytes has left under the peer's key index and counter."""
        self.total_bytes += size
        if not self._log:
            self._idle_s += now - self._idle_since
        self._log.append((index, counter, now, self.total_bytes))
        self.pacer.sent(now, size)

    def on_report(self, body: bytes | memoryview, now: float, *, busy: bool) -> float | None:
        """The peer's FEEDBACK record; `busy` if we are late in reading it ourselves.

        Returns the round trip in seconds, infinite if the report does not tell it, or None if it is about a
        batch that was not sent on this lane.
        """
        index, hold_us, counter, arrived, peer_busy = FEEDBACK_BODY.unpack(body)
        log = self._log
        place = self._place_of(index, counter)
        if place is None:
            return None
        sent_at = self._sent_at(place, counter)
        for _ in range(place):
            log.popleft()  # earlier ones are not reported any more
        *_, total = log.popleft()
        self._idle_since = self._reported_at = now  # idle if that was all
        self.reported_bytes = total
        if arrived < self.arrived_bytes:  # the peer has started again
            self.pacer = _pacer(now)
        self.arrived_bytes = arrived
        if sent_at is None:
            return inf
        rtt_s: float = max(now - sent_at - min(hold_us / 1e6, MAX_HOLD_S), 1e-6)
        self.pacer.sample(
            now,
            acked_bytes=arrived,
            in_flight_bytes=self.total_bytes - total,
            unsent_bytes=0,
            rtt_s=rtt_s,
            min_rtt_s=rtt_s,
            busy_s=now - self._idle_s,
            limited_elsewhere=busy or bool(peer_busy),
        )
        return rtt_s

    def _sent_at(self, place: int, counter: int) -> float | None:
        """When this counter was sent; None if that was after the batch at `place`, and is not in the log."""
        return self._log[place][2]

    def _place_of(self, index: int, counter: int) -> int | None:
        """Where the newest batch that a report is about stands in the log; None if it is not there."""
        log = self._log
        return next((n for n, entry in enumerate(log) if entry[1] == counter and entry[0] == index), None)


def _pacer(now: float) -> Pacer:
    return Pacer(
        now, queue_bytes=_QUEUE_BYTES, trigger_s=TRIGGER_S, patience_s=_PATIENCE_S, best_of_s=BEST_OF_S
    )


class Arrivals:
    """The receiving side of one direction: what to report."""

    __slots__ = ("_newest", "_newest_at", "_reported", "_reported_at", "total_bytes")

    def __init__(self) -> None:
        self._newest = (0, -1)
        self._newest_at = 0.0
        self.total_bytes = 0  # that ever arrived here
        self._reported = 0
        self._reported_at = 0.0

    def received(self, index: int, counter: int, size: int, now: float) -> bool:
        """A batch came under our key index; True when a report is due."""
        self.total_bytes += size
        newest = self._newest
        if counter > newest[1] or index != newest[0]:
            self._newest = (index, counter)
            self._newest_at = now
        unreported = self.total_bytes - self._reported
        if unreported >= MUCH_BYTES:
            return True
        wait_s = SOON_S if unreported >= SOON_BYTES else REPORT_INTERVAL_S
        return unreported >= REPORT_BYTES and now >= self._reported_at + wait_s

    def may_ride(self, now: float) -> bool:
        """Whether to add a report to something that is about to leave anyway."""
        return self.total_bytes != self._reported and now >= self._reported_at + RIDE_INTERVAL_S

    def report(self, now: float, *, busy: bool) -> bytes:
        """The body of a FEEDBACK record; `busy` when more has arrived than we have had time to read."""
        self._reported, self._reported_at = self.total_bytes, now
        index, counter = self._newest
        hold_us = int((now - self._newest_at) * 1e6)
        return FEEDBACK_BODY.pack(index, min(hold_us, 0xFFFFFFFF), counter, self.total_bytes, busy)
