"""Pacing a link a little under its rate, so that its queue stands here, where it is fair, and nowhere else.

A link is a TCP connection; what is handed to it cannot be taken back. The kernel's TCP_INFO tells how many
bytes were acknowledged, the round trip, and what is unsent. From these the pacer learns the rate:

- The *delay* is what the round trip has above its base. A queue *stands* when the delay has not been short
  for `_WINDOW_S` in which something was under way all the time, or bytes have been unsent for `UNSENT_S`
  (TCP_NOTSENT_LOWAT keeps those few). A link on which none stands is faster than we are, and is not paced.
- While a queue stands the link is saturated, so what it acknowledges in that time is its rate. The pacer
  then pauses until what is under way fits the link without a queue, and goes on at `CRUISE` of that rate.
- After a while it offers more, in steps that each last as long as an answer takes, until a queue stands
  again (most often at once, and a few milliseconds long) or nobody asks for what it offers. A rate that was
  found once may be a moment's (a processor was busy) and is tried again soon; one that was found again is
  held for longer, up to `_HOLD_S`.
- A queue that is still there after such a pause is not ours (the path became longer, or somebody else fills
  the link): its delay becomes part of the base.

The rate comes from the acknowledged bytes, not from tcpi_delivery_rate: whoever paces is "app-limited" to the
kernel, which then goes on to report an old, higher rate.

Pure: `now` is seconds of any clock that does not go back. One pacer for one link, used by one task.
"""

from __future__ import annotations

from collections import deque
from math import inf

UNLIMITED_BYTES = 1 << 30  # the budget of a link that is not paced

# Guessed, then tried on the simulated bottleneck of tests/queueing/bottleneck.py.
ENTER_S = 0.010  # a longer delay is a queue, for a link that is not paced
_TRIGGER_S = 0.004  # and for one that is
OF_BASE = 0.1  # on long paths: longer than this part of the base
_WINDOW_S = 0.030
BASE_WINDOW_S = 30.0  # how long a shortest round trip is believed
CRUISE = 0.94
_HOLD_S = 2.0
FIRST_HOLD_S = 0.1  # doubled each time when the rate is found again
SAME_RATE = 1.25  # within this factor
FAST_RATE = 12.5e6  # from 100 Mbit/s on a wrong rate costs more than a look whether it is right
FAST_HOLD_S = 0.5
GENTLE_STEP = 1.08  # up from CRUISE, across the rate that is known
GENTLE_UNTIL = 1.15  # three such steps: at the first ones a queue grows too slowly to be seen in time
BOLD_STEP = 1.3  # when there is no queue even above it: the link has become faster
FAST_BOLD_STEP = 1.6
UNPACE_RATIO = 1.5  # offering that much above what was known, without a queue and without a taker
UNSENT_S = 0.5  # unsent for longer: not a window that still grows, but all that this path gives
_SETTLE_S = 0.040  # the smoothed round trip follows the real one by some acknowledgements
BURST_S = 0.004  # what may leave at once: timers of 1 ms are late by as much
MIN_BURST_BYTES = 3_028  # two full packets
PACKET_BYTES = 1_514
MIN_RATE = 16_000.0  # bytes a second
# Guessed: from a gigabit on the processors are the limit, and buffers in a path are short.
MAX_RATE = 125e6
# A path that was that fast a moment ago has a busy processor rather than a slow link in it.
FAST_MEMORY_S = 10.0
FAST_PATIENCE_S = 1.0
PRESSING = 0.8  # a paced link that is offered less than this part of its rate is not ours to slow down
# Of the time something is under way: else what is acknowledged is not the link's rate. (The kernel counts in
# jiffies, of up to 4 ms.)
SATURATED = 0.8
QUEUE_S = 0.012
_IDLE_S = 0.15  # without a sample for as long, nothing is known of what stands now
_QUEUE_BYTES = 6_056  # four full packets: of fewer, the delay may be that of a delayed acknowledgement
MAX_PAUSE_S = 2.0
_NOT_OURS_S = 0.020  # only a delay of some size tells whose queue it is


class Pacer:
    """Says when how many bytes may go to one link.

    The socket must have TCP_NOTSENT_LOWAT (16 KiB, say), which bounds what waits below the pacer. `sample` is
    for every 10 to 20 ms in which something is sent or unacknowledged; none are needed while the link is
    idle.
    """

    __slots__ = (
        "_base", "_best", "_best_of_s", "_blind_until", "_busy_part", "_climb_at", "_drain_from",
        "_drain_until", "_drained_s", "_draining", "_fast_at", "_held_rate", "_hold_s", "_known_rate",
        "_offered", "_patience_s", "_queue_bytes", "_queued_until", "_samples", "_sent_all_at", "_sent_bytes",
        "_short_at", "_step_at", "_step_bytes", "_tokens", "_tokens_at", "_trigger_s", "rate",
    )  # fmt: skip

    def __init__(
        self,
        now: float,
        *,
        queue_bytes: int = _QUEUE_BYTES,
        trigger_s: float = _TRIGGER_S,
        patience_s: float = _WINDOW_S,
        best_of_s: float = 0.0,
    ) -> None:
        """With less than `queue_bytes` under way, or a delay under `trigger_s`, no queue is believed.

        Nor before it has stood for `patience_s`. The rate at which it drains is the best of `best_of_s`.

        The defaults are for round trips that the kernel measures; what programs measure is less steady.
        """
        self._queue_bytes = queue_bytes
        self._trigger_s = trigger_s
        self._patience_s = patience_s
        self._best_of_s = best_of_s
        self.rate: float | None = None  # bytes a second that may be sent; None: the link is not paced
        self._hold_s = FIRST_HOLD_S
        self._held_rate = 0.0  # the rate that was found before
        self._known_rate = 0.0  # what the link delivered when it was last saturated
        self._tokens = 0.0
        self._tokens_at = now  # later than now: pausing until then
        self._step_at = now  # when the step of now began, and what was sent for it
        self._step_bytes = 0.0
        self._climb_at = inf
        self._short_at = now  # when the delay was last short, or had to be taken for it
        self._blind_until = now  # until then round trips tell of a queue that was drained
        self._sent_all_at = now  # when nothing worth speaking of was unsent
        self._draining = False
        self._drain_from = (now, 0)  # when the queue was found, and the bytes acknowledged by then
        self._drain_until = now  # at the latest
        self._queued_until = 0  # bytes acknowledged when all has arrived that it is to remove
        self._drained_s = 0.0  # the delay that the last pause was to remove
        self._sent_bytes = 0
        self._offered = 0.0  # bytes a second that were sent within the last window
        self._fast_at = -inf  # when the link was last faster than `MAX_RATE`
        # (when, bytes acknowledged, bytes sent, seconds with something under way)
        self._samples: deque[tuple[float, int, int, float]] = deque()
        self._busy_part = 1.0  # of the last window in which something was under way
        self._best: deque[tuple[float, float]] = deque()  # (when, bytes a second), falling: the first is best
        self._base: deque[tuple[float, float]] = deque()  # (when, round trip), rising: the first is the base

    @property
    def acknowledged_rate(self) -> float:
        """Bytes a second that arrived in the newest window, whether or not that was all the link gives."""
        return self._best[-1][1] if self._best else 0.0

    @property
    def base_s(self) -> float:
        """The round trip without a queue, as far as it is known."""
        return self._base[0][1] if self._base else 0.0

    def budget(self, now: float) -> int:
        """How many bytes may be sent now. A packet may exceed it: what is too much is waited for later."""
        if self.rate is None:
            return UNLIMITED_BYTES
        self._refill(now, self.rate)
        return max(0, int(self._tokens))

    def next_at(self, now: float) -> float:
        """When there is a budget again, for one packet at least; `now` if there is one."""
        if self.rate is None:
            return now
        self._refill(now, self.rate)
        if self._tokens >= 1:
            return now
        return self._tokens_at + (PACKET_BYTES - self._tokens) / self.rate

    def sent(self, now: float, size_bytes: int) -> None:
        """Bytes were handed to the link."""
        self._step_bytes += size_bytes
        self._sent_bytes += size_bytes
        if self.rate is not None:
            self._refill(now, self.rate)
            self._tokens -= size_bytes

    def sample(
        self,
        now: float,
        *,
        acked_bytes: int,
        in_flight_bytes: int,
        unsent_bytes: int,
        rtt_s: float,
        min_rtt_s: float,
        busy_s: float | None = None,
        limited_elsewhere: bool = False,
    ) -> None:
        """Learn from TCP_INFO: bytes_acked, unacked (times snd_mss), notsent_bytes, rtt, min_rtt, busy_time.

        `busy_s` is in all for how long something was under way; None: always, as far as anybody knows.
        `unsent_bytes` also counts what the sender holds above the socket, if it cannot be taken back.
        `limited_elsewhere`: it is known that a queue that stands now does so because a receiver is late.
        """
        if self._samples and now - self._samples[-1][0] > _IDLE_S and not self._draining:
            self._samples.clear()
            self._best.clear()
            self._short_at = self._sent_all_at = now
        base = self._note_round_trip(now, rtt_s, min_rtt_s)
        delivered = self._note_acknowledged(now, acked_bytes, base, now if busy_s is None else busy_s)
        if unsent_bytes <= MIN_BURST_BYTES:
            self._sent_all_at = now
        if self._draining:
            self._drain(now, acked_bytes, in_flight_bytes + unsent_bytes, base, rtt_s)
            return
        if now < self._blind_until:
            return
        delay = rtt_s - base
        short = (
            limited_elsewhere
            or self._is_short(delay, base, delivered)
            or in_flight_bytes + unsent_bytes < self._least_queue()
            or not self._is_pressing(delivered)
            or self._busy_part < SATURATED
        )
        if short and (limited_elsewhere or now - self._sent_all_at < UNSENT_S):
            self._short_at = now
            self._drained_s = 0.0
        if delivered > MAX_RATE:
            self._fast_at = now
        if now - self._short_at >= (
            self._patience_s if now - self._fast_at > FAST_MEMORY_S else FAST_PATIENCE_S
        ):
            self._slow_down(now, acked_bytes, in_flight_bytes + unsent_bytes, delay, base, rtt_s)
        elif self.rate is not None and now >= self._climb_at and now - self._sent_all_at < _WINDOW_S:
            self._climb(now, self.rate, base, sure=self._is_short(delay, base, delivered))

    def _is_short(self, delay: float, base: float, delivered: float) -> bool:
        limit = ENTER_S if self.rate is None else self._trigger_s
        return delay <= max(limit, base * OF_BASE, 1.5 * PACKET_BYTES / max(delivered, MIN_RATE))

    def _least_queue(self) -> float:
        """Bytes under way that may stand for a queue: of a paced link, what it carries in `QUEUE_S`."""
        if self.rate is None:
            return self._queue_bytes
        return max(_QUEUE_BYTES, min(self._queue_bytes, self.rate * QUEUE_S))

    def _is_pressing(self, delivered: float) -> bool:
        """Whether we may be why a queue stands: we use what the link is known to carry, or send more.

        While more is allowed than that, who has no use for it can fill the link all the same.
        """
        if self.rate is None:
            return True
        most = min(self.rate, self._known_rate)
        return self._offered >= PRESSING * most or delivered < 0.9 * self._offered

    def _slow_down(
        self, now: float, acked: int, outstanding: int, delay: float, base: float, rtt_s: float
    ) -> None:
        """A queue stands: let it drain, then go on under the rate at which it did."""
        if self._drained_s > _NOT_OURS_S and delay > 0.7 * self._drained_s:
            # It outlived a pause in which ours has drained.
            self._base.clear()
            self._base.append((now, rtt_s))
            self._short_at, self._drained_s = now, 0.0
            return
        if self.acknowledged_rate > MAX_RATE:
            self.rate = None
            self._short_at = now
            return
        self._draining = True
        self._drained_s = delay
        self._drain_from = (now, acked)
        self._drain_until = now + delay + MAX_PAUSE_S
        self._queued_until = acked + outstanding
        self._tokens = 0.0
        self._drain(now, acked, outstanding, base, rtt_s)

    def _drain(self, now: float, acked: int, outstanding: int, base: float, rtt_s: float) -> None:
        """Pause until no more is under way than the link holds without a queue.

        The link is saturated as long as something is left of the queue that was found, and its rate becomes
        better known with each sample. Once nothing is under way, it may have been idle for a while. Where
        programs acknowledge, the rate is the best of a while: a processor that is busy elsewhere stops a
        link, but none speeds one up.
        """
        if outstanding and acked < self._queued_until:
            self._known_rate = max(self._best[0][1], MIN_RATE)
            self.rate = CRUISE * self._known_rate
        since, acked_before = self._drain_from
        if now > since:
            # Where a packet was lost, nothing may be acknowledged in the last window, and then all at once.
            self._known_rate = max(self._known_rate, (acked - acked_before) / (now - since))
            self.rate = CRUISE * self._known_rate
        known = self._known_rate
        excess = outstanding - known * base - MIN_BURST_BYTES
        if excess > 0 and now < self._drain_until:
            self._tokens_at = now + excess / known
            return
        self._draining = False
        self._tokens_at = now  # the pause was reckoned with a rate that was known less well
        self._blind_until = self._short_at = self._sent_all_at = (
            now + max(base, rtt_s - self._drained_s) + _SETTLE_S
        )
        same = self._held_rate / SAME_RATE < known < self._held_rate * SAME_RATE
        self._hold_s = 2 * self._hold_s if same else FIRST_HOLD_S
        self._hold_s = min(self._hold_s, FAST_HOLD_S if known > FAST_RATE else _HOLD_S)
        self._held_rate = known
        self._begin_step(now, self._blind_until + self._hold_s)

    def _climb(self, now: float, rate: float, base: float, *, sure: bool) -> None:
        """No queue, and it is time to offer more, if what is offered was taken.

        Unless it is `sure`, the delay may be that of a queue that is still too short to be believed.
        """
        taken = self._step_bytes >= 0.8 * rate * (now - self._step_at)
        if taken:
            bold = FAST_BOLD_STEP if rate > FAST_RATE else BOLD_STEP
            is_bold = sure and rate >= GENTLE_UNTIL * self._known_rate
            self.rate = rate * (bold if is_bold else GENTLE_STEP)
        elif rate > UNPACE_RATIO * self._known_rate:
            self.rate = None
        if self.rate is not None and self.rate > MAX_RATE:
            self.rate = None
        self._begin_step(now, now + base + _WINDOW_S + _SETTLE_S)

    def _begin_step(self, now: float, until: float) -> None:
        # A message larger than the budget is paid for in later steps.
        debt = 0.0 if self.rate is None else max(0.0, -self._tokens)
        self._step_at, self._step_bytes, self._climb_at = now, debt, until

    def _note_round_trip(self, now: float, rtt_s: float, min_rtt_s: float) -> float:
        """Keep the shortest round trip of the last `BASE_WINDOW_S`; give it.

        The kernel's own shortest is up to 300 s old (net.ipv4.tcp_min_rtt_wlen): it is only to start with.
        """
        rtts = self._base
        if not rtts:
            rtts.append((now, min(rtt_s, min_rtt_s)))
        while rtts and rtts[-1][1] >= rtt_s:
            rtts.pop()
        rtts.append((now, rtt_s))
        if rtts[0][0] < now - BASE_WINDOW_S:
            rtts.popleft()
        return rtts[0][1]

    def _note_acknowledged(self, now: float, acked_bytes: int, base: float, busy_s: float) -> float:
        """Bytes a second acknowledged within the last window."""
        samples = self._samples
        samples.append((now, acked_bytes, self._sent_bytes, busy_s))
        begin = now - _WINDOW_S - base
        while len(samples) > 2 and samples[1][0] <= begin:
            samples.popleft()
        since, acked, sent, busy = samples[0]
        if now <= since:
            self._best.append((now, 0.0))
            return 0.0
        self._busy_part = (busy_s - busy) / (now - since)
        self._offered = (self._sent_bytes - sent) / (now - since)
        delivered = (acked_bytes - acked) / (now - since)
        best = self._best
        while best and best[-1][1] <= delivered:
            best.pop()
        best.append((now, delivered))
        while best[0][0] < now - self._best_of_s:
            best.popleft()
        return delivered

    def _refill(self, now: float, rate: float) -> None:
        if now > self._tokens_at:
            burst = max(MIN_BURST_BYTES, rate * BURST_S)
            self._tokens = min(burst, self._tokens + (now - self._tokens_at) * rate)
            self._tokens_at = now
