"""Pacing a link slightly under its rate, so that the queue stands here, where it is fair, and nowhere else.

A link is a TCP connection; bytes that are handed to it cannot be taken back. The kernel's TCP_INFO gives the
acknowledged bytes, the round trip, and the unsent bytes. From these the pacer learns the rate:

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

The rate comes from the acknowledged bytes, not from tcpi_delivery_rate: to the kernel, a paced sender is
"app-limited", and it keeps reporting an old, higher rate.

Pure: `now` is seconds of any monotonic clock. One pacer serves one link and is used by one task.
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
FIRST_HOLD_S = 0.1  # doubled each time the same rate is found again
SAME_RATE = 1.25  # rates within this factor are the same
FAST_RATE = 12.5e6  # from 100 Mbit/s on, a wrong rate costs more than probing whether it is right
FAST_HOLD_S = 0.5
GENTLE_STEP = 1.08  # up from CRUISE, past the known rate
GENTLE_UNTIL = 1.15  # three such steps: in the first ones a queue grows too slowly to be seen in time
BOLD_STEP = 1.3  # if there is no queue even above that: the link has become faster
FAST_BOLD_STEP = 1.6
UNPACE_RATIO = 1.5  # offering that much above what was known, without a queue and without a taker
UNSENT_S = 0.5  # unsent for longer: not a window that still grows, but all that this path gives
_SETTLE_S = 0.040  # the smoothed round trip follows the real one by some acknowledgements
BURST_S = 0.004  # what may leave at once: timers of 1 ms are late by as much
MIN_BURST_BYTES = 3_028  # two full packets
PACKET_BYTES = 1_514
MIN_RATE = 16_000.0  # bytes a second
# Guessed: from a gigabit on, processors are the limit and buffers on a path are short.
MAX_RATE = 125e6
# A path that was this fast a moment ago is slowed down by a busy processor rather than by a slow link.
FAST_MEMORY_S = 10.0
FAST_PATIENCE_S = 1.0
PRESSING = 0.8  # if we send less than this fraction of a paced link's rate, its queue is not ours
# Something must be in flight for this fraction of the time, or the rate of acknowledgements is not the link's
# rate. (The kernel counts in jiffies, of up to 4 ms.)
SATURATED = 0.8
QUEUE_S = 0.012
_IDLE_S = 0.15  # without a sample for as long, nothing is known of what stands now
_QUEUE_BYTES = 6_056  # four full packets: of fewer, the delay may be that of a delayed acknowledgement
MAX_PAUSE_S = 2.0
_NOT_OURS_S = 0.020  # a shorter delay does not tell whose queue it is


class Pacer:
    """Decides when how many bytes may go to one link.

    The socket must have TCP_NOTSENT_LOWAT set (for example 16 KiB), which bounds what waits below the pacer.
    Call `sample` every 10 to 20 ms while something is sent or unacknowledged; an idle link needs none.
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
        """A queue is recognised if at least `queue_bytes` are in flight and the delay is over `trigger_s`
        for `patience_s`. The rate at which it drains is the best within `best_of_s`.

        The defaults suit round trips measured by the kernel; those measured by a program are less steady.
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
        self._step_at = now  # when the current step began, and the bytes sent in it
        self._step_bytes = 0.0
        self._climb_at = inf
        self._short_at = now  # when the delay was last short, or was treated as short
        self._blind_until = now  # until then round trips still show a queue that has been drained
        self._sent_all_at = now  # when (almost) nothing was unsent
        self._draining = False
        self._drain_from = (now, 0)  # when the queue was found, and the bytes acknowledged by then
        self._drain_until = now  # when draining ends at the latest
        self._queued_until = 0  # bytes acknowledged once the whole queue that was found has arrived
        self._drained_s = 0.0  # the delay that the last pause should have removed
        self._sent_bytes = 0
        self._offered = 0.0  # bytes a second that were sent within the last window
        self._fast_at = -inf  # when the link was last faster than `MAX_RATE`
        # (when, bytes acknowledged, bytes sent, seconds with something in flight)
        self._samples: deque[tuple[float, int, int, float]] = deque()
        self._busy_part = 1.0  # the fraction of the last window in which something was in flight
        self._best: deque[tuple[float, float]] = deque()  # (when, bytes a second), falling: the first is best
        self._base: deque[tuple[float, float]] = deque()  # (when, round trip), rising: the first is the base

    @property
    def acknowledged_rate(self) -> float:
        """Bytes a second acknowledged in the newest window, whether or not the link could carry more."""
        return self._best[-1][1] if self._best else 0.0

    @property
    def base_s(self) -> float:
        """The round trip without a queue, in seconds, as far as it is known."""
        return self._base[0][1] if self._base else 0.0

    def budget(self, now: float) -> int:
        """How many bytes may be sent now. One packet may exceed it; the excess delays later ones."""
        if self.rate is None:
            return UNLIMITED_BYTES
        self._refill(now, self.rate)
        return max(0, int(self._tokens))

    def next_at(self, now: float) -> float:
        """When there will be a budget for at least one packet; `now` if there is one already."""
        if self.rate is None:
            return now
        self._refill(now, self.rate)
        if self._tokens >= 1:
            return now
        return self._tokens_at + (PACKET_BYTES - self._tokens) / self.rate

    def sent(self, now: float, size_bytes: int) -> None:
        """Note that bytes were handed to the link."""
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

        `busy_s` is the total time in which something was in flight; None means always.
        `unsent_bytes` includes what the sender holds above the socket, if it cannot be taken back.
        `limited_elsewhere`: a queue that stands now is known to be caused by a slow receiver.
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
        """The fewest bytes in flight that can be a queue: on a paced link, what it carries in `QUEUE_S`."""
        if self.rate is None:
            return self._queue_bytes
        return max(_QUEUE_BYTES, min(self._queue_bytes, self.rate * QUEUE_S))

    def _is_pressing(self, delivered: float) -> bool:
        """Whether we may cause the standing queue: we use what the link is known to carry, or send more.

        It compares with the known rate, not with the (higher) allowed rate: a sender that does not use all
        that is allowed can fill the link nevertheless.
        """
        if self.rate is None:
            return True
        most = min(self.rate, self._known_rate)
        return self._offered >= PRESSING * most or delivered < 0.9 * self._offered

    def _slow_down(
        self, now: float, acked: int, outstanding: int, delay: float, base: float, rtt_s: float
    ) -> None:
        """A queue stands: let it drain, then continue slightly under the rate at which it drained."""
        if self._drained_s > _NOT_OURS_S and delay > 0.7 * self._drained_s:
            # It is still there after a pause in which our own queue drained.
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
        """Pause until no more is in flight than the link holds without a queue.

        As long as something is left of the queue that was found, the link is saturated, and each sample makes
        its rate better known. Once nothing is in flight, the link may have been idle for a while. If programs
        acknowledge, the best rate of a period counts: a busy processor can slow a link down, never speed it
        up.
        """
        if outstanding and acked < self._queued_until:
            self._known_rate = max(self._best[0][1], MIN_RATE)
            self.rate = CRUISE * self._known_rate
        since, acked_before = self._drain_from
        if now > since:
            # After a loss, nothing may be acknowledged in the last window, and then everything at once.
            self._known_rate = max(self._known_rate, (acked - acked_before) / (now - since))
            self.rate = CRUISE * self._known_rate
        known = self._known_rate
        excess = outstanding - known * base - MIN_BURST_BYTES
        if excess > 0 and now < self._drain_until:
            self._tokens_at = now + excess / known
            return
        self._draining = False
        self._tokens_at = now  # the pause was computed with a less exact rate
        self._blind_until = self._short_at = self._sent_all_at = (
            now + max(base, rtt_s - self._drained_s) + _SETTLE_S
        )
        same = self._held_rate / SAME_RATE < known < self._held_rate * SAME_RATE
        self._hold_s = 2 * self._hold_s if same else FIRST_HOLD_S
        self._hold_s = min(self._hold_s, FAST_HOLD_S if known > FAST_RATE else _HOLD_S)
        self._held_rate = known
        self._begin_step(now, self._blind_until + self._hold_s)

    def _climb(self, now: float, rate: float, base: float, *, sure: bool) -> None:
        """There is no queue, and it is time to offer more if what was offered has been used.

        `sure`: the delay is short. Otherwise it may be that of a queue too short to be recognised yet.
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
        # A message larger than the budget is accounted to the following steps.
        debt = 0.0 if self.rate is None else max(0.0, -self._tokens)
        self._step_at, self._step_bytes, self._climb_at = now, debt, until

    def _note_round_trip(self, now: float, rtt_s: float, min_rtt_s: float) -> float:
        """Return the shortest round trip of the last `BASE_WINDOW_S`.

        The kernel's own minimum is up to 300 s old (net.ipv4.tcp_min_rtt_wlen), so it is used only at first.
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
        """Return the bytes a second acknowledged within the last window."""
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
