"""One peer's direction, end to end, in virtual time: a slow path is paced, a busy processor forgotten."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

from nconnect.tunnel.paths import feedback
from nconnect.tunnel.paths.feedback import (
    MUCH_BYTES,
    REPORT_BYTES,
    REPORT_INTERVAL_S,
    SOON_BYTES,
    SOON_S,
    Arrivals,
    Sending,
)

STEP_S = 0.001
BATCH_BYTES = 128 << 10
WINDOW_BYTES = 2 << 20  # what the sockets on the way take
OFFERED_BYTES = 2 << 20  # in a step, by programs
HOP_S = 0.0005
FAST = 250e6  # bytes a second: 2 Gbit/s
Speed = Callable[[float], float]


class Path:
    """A sender with an unlimited amount to send, a queue served at `speed(now)`, and the peer's reports.

    Neither side knows that a processor is late: the worst case.
    """

    def __init__(
        self, speed: Speed, *, taken_bytes: int = WINDOW_BYTES, hop_s: float = HOP_S, busy: bool = False
    ) -> None:
        """`taken_bytes`: by the sockets. `hop_s`: a third of the round trip. `busy`: it says it is late."""
        self.taken_bytes, self.hop_s, self.busy = taken_bytes, hop_s, busy
        self.most_under_way = 0
        self.now = 0.0
        self.sending = Sending(0.0)
        self.arrived_bytes = 0
        self.delays: list[float] = []
        self._speed = speed
        self._arrivals = Arrivals()
        self._queue: deque[tuple[int, int, float]] = deque()  # number, bytes, when
        self._under_way = 0
        self._reports: deque[tuple[float, bytes]] = deque()
        self._credit = 0.0
        self._number = 0
        self._steps = 0

    def run(self, seconds: float) -> float:
        """Go on; bytes a second that arrive meanwhile."""
        self.arrived_bytes = 0
        self.delays.clear()
        for _ in range(round(seconds / STEP_S)):
            self._steps += 1
            self.now = self._steps * STEP_S
            self._step()
        return self.arrived_bytes / seconds

    def _step(self) -> None:
        now = self.now
        while self._reports and self._reports[0][0] <= now:
            self.sending.on_report(self._reports.popleft()[1], now, busy=False)
        offered = 0
        while (
            self._under_way < self.taken_bytes
            and offered < OFFERED_BYTES
            and (budget := self.sending.budget(now))
        ):
            size = min(budget, BATCH_BYTES)
            offered += size
            self.sending.sent(1, self._number, size, now)
            self._queue.append((self._number, size, now))
            self._number += 1
            self._under_way += size
        self.most_under_way = max(self.most_under_way, self._under_way)
        self._credit += self._speed(now) * STEP_S
        while self._queue and self._credit >= self._queue[0][1]:
            number, size, since = self._queue.popleft()
            self._credit -= size
            self._under_way -= size
            self.arrived_bytes += size
            self.delays.append(now - since)
            if self._arrivals.received(1, number, size, now + self.hop_s):
                report = self._arrivals.report(now + self.hop_s, busy=self.busy)
                self._reports.append((now + 3 * self.hop_s, report))
        if not self._queue:
            self._credit = 0.0


def slow_until(end: float, speed: float) -> Speed:
    return lambda now: speed if now < end else FAST


def test_a_path_that_was_slow_for_its_first_half_second_is_soon_at_its_full_rate() -> None:
    """As it is when a daemon starts on a machine that is busy with something else."""
    path = Path(slow_until(0.5, 25e6))
    path.run(0.5)
    assert path.sending.pacer.rate is not None, "there is something to be forgotten"
    path.run(0.5)
    assert path.run(1) > 0.9 * FAST
    assert path.sending.pacer.rate is None


def test_a_path_that_is_stopped_again_and_again_is_soon_at_its_full_rate() -> None:
    """A processor that has a fifth of the time, in turns, for two seconds."""
    path = Path(lambda now: FAST if now > 3 or now < 1 or now % 0.05 < 0.01 else 0.0)
    assert path.run(1) > 0.9 * FAST
    assert path.run(2) > 0.1 * FAST
    path.run(0.7)
    assert path.run(1) > 0.9 * FAST


@pytest.mark.parametrize("mbit", [20, 100, 500])
def test_a_slow_path_is_used_and_its_queue_is_not(mbit: int) -> None:
    rate = mbit * 1e6 / 8
    path = Path(lambda now: rate)
    path.run(4)
    assert path.run(8) > 0.85 * rate
    assert sorted(path.delays)[int(0.98 * len(path.delays))] < 0.030


@pytest.mark.parametrize("speed", [25e6, 100e6, FAST])
def test_a_relay_holds_little_for_a_peer_that_cannot_keep_up(speed: float) -> None:
    """Its queue would drop packets of whatever flow, where ours drops those of the fattest."""
    path = Path(lambda now: speed, taken_bytes=1 << 40, busy=True)
    assert path.run(3) > 0.95 * speed
    assert path.sending.pacer.rate is None, "nothing is known of the path"
    path.most_under_way = 0  # there was no bound before the first report
    assert path.run(1) > 0.95 * speed
    assert path.most_under_way < 16 << 20, "what our node holds for a client"


def test_a_long_way_is_filled() -> None:
    path = Path(lambda now: 100e6, taken_bytes=1 << 40, hop_s=0.2 / 3, busy=True)
    path.run(3)
    assert path.run(3) > 0.9 * 100e6


def test_a_peer_that_reports_nothing_is_not_waited_for_for_long() -> None:
    sending = Sending(0.0)
    sending.sent(1, 0, feedback.UNDER_WAY_BYTES, 0.0)
    assert sending.is_clear(0.0), "who has never reported may not do so at all"
    report = Arrivals()
    assert report.received(1, 0, feedback.UNDER_WAY_BYTES, 0.01)
    sending.on_report(report.report(0.01, busy=True), 0.02, busy=False)
    for number in range(1, 100):
        sending.sent(1, number, 1 << 20, 0.02)
    assert not sending.is_clear(0.03)
    assert sending.budget(0.03) == 0
    assert 0.03 < sending.next_at(0.03) < 0.04
    assert sending.is_clear(0.02 + feedback.LATELY_S)


def test_a_report_is_due_after_a_while_or_after_much() -> None:
    arrivals = Arrivals()
    arrivals.received(1, 0, REPORT_BYTES, 0.0)
    arrivals.report(1.0, busy=False)
    assert not arrivals.received(1, 1, REPORT_BYTES, 1.0)
    assert arrivals.received(1, 2, 1, 1.0 + REPORT_INTERVAL_S)
    arrivals.report(2.0, busy=False)
    assert not arrivals.received(1, 3, SOON_BYTES - 1, 2.0 + SOON_S)
    assert arrivals.received(1, 4, 1, 2.0 + SOON_S)
    arrivals.report(2.5, busy=False)
    assert not arrivals.received(1, 5, MUCH_BYTES - 1, 2.5), "as often as anybody has to know"
    assert arrivals.received(1, 6, 1, 2.5)
    arrivals.report(3.0, busy=False)
    assert not arrivals.received(1, 7, REPORT_BYTES - 1, 9.0), "nobody needs to know"


def test_who_waits_for_a_report_gets_one() -> None:
    """A window that came between two reports, save a message that was lost, is all there is to report on."""
    arrivals = Arrivals()
    arrivals.received(1, 0, REPORT_BYTES, 1.0)
    arrivals.report(1.0, busy=False)
    size = 256 << 10
    assert any(arrivals.received(1, n, size, 1.0) for n in range(1, feedback.UNDER_WAY_BYTES // size))
