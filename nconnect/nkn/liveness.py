"""Whether the node at the other end of a link is still there: pings, silence, and the round trip.

Each read from the node only writes `heard_at`, so that it costs a data frame almost nothing; the deadlines
read it when they are due.

An idle link is pinged every `PING_EVERY_S`. A *busy* link, on which messages follow each other within
`BUSY_S`, is pinged when it has been silent for `BUSY_QUIET_S`, because somebody probably waits for data. It
is dead `PROBE_S` later, or after three of its round trips if that is longer.
"""

from __future__ import annotations

from enum import Enum, auto

from nconnect.model import Deadline

# NKN.md, as the official SDKs do.
PING_EVERY_S = 8.0
DEAD_AFTER_S = 10.0
# Ours, guessed.
BUSY_S = 1.0
BUSY_QUIET_S = 1.5
PROBE_S = 2.0  # of a busy link, after a network change or a sleep: how long a node that lives may take
HELD_UP_S = 0.25  # if a verdict is later than this, wait once for data that may be unread
FAIR_S = 1.5  # silence counts only if a ping has been unanswered for this long: we may have been delayed
FRESH_S = 0.5  # a more recent round trip is not measured again
LATE_S = 5.0  # a timer that is later than this means that the machine slept, or we were stopped


class Step(Enum):
    """What a due deadline asks of the link."""

    WAIT = auto()
    PING = auto()
    DEAD = auto()


class Liveness:
    """The liveness of one connection that is logged in. Times are CLOCK_BOOTTIME seconds."""

    __slots__ = (
        "_check_at", "_fair", "_ping_at", "_pinged_at", "_probe_from", "_took_at", "heard_at", "is_busy",
        "rtt_s",
    )  # fmt: skip

    def __init__(self, now: float) -> None:
        self.heard_at = now
        self.rtt_s: float | None = None
        self._ping_at = now  # the first at once: it measures the round trip
        self._check_at = now + DEAD_AFTER_S
        self._pinged_at: float | None = None  # the oldest ping that is not answered
        self._probe_from: float | None = None
        self._fair = False  # the verdict of this probe was put off
        self._took_at = now  # when `rtt_s` was measured
        self.is_busy = False

    def pong(self, now: float) -> None:
        self.heard_at = now
        if self._pinged_at is not None:
            self.rtt_s = now - self._pinged_at
            self._took_at = now
            self._pinged_at = None
        if self._probe_from is None and not self.is_busy:
            self._check_at = now + DEAD_AFTER_S  # after the next ping: an idle link wakes for that alone

    def probe(self, now: float) -> None:
        """Ping now and decide within `PROBE_S`, because something may be wrong with the path."""
        self._ping_at = now
        if self._probe_from is None:
            self._probe_from, self._fair = now, False
            self._check_at = now + min(max(PROBE_S, 3 * (self.rtt_s or 0.0)), DEAD_AFTER_S)

    def became_busy(self, now: float) -> None:
        """Note that messages follow each other, so that a silence is noticed soon."""
        self.is_busy = True
        self._check_at = min(self._check_at, now + BUSY_QUIET_S)

    def measure(self, now: float) -> None:
        """Ping soon to measure the round trip, unless a ping is unanswered or was just answered."""
        if self._pinged_at is None and now - self._took_at >= FRESH_S:
            self._ping_at = min(self._ping_at, now)

    def poll_timeout(self) -> Deadline:
        if self._ping_at <= self._check_at:
            return Deadline(self._ping_at, "ping the node")
        return Deadline(self._check_at, "see whether the node was heard")

    def handle_timeout(self, now: float) -> Step:
        """What is to be done now; a call before the deadline asks for nothing."""
        if now - min(self._ping_at, self._check_at) > LATE_S:
            # What the node sent meanwhile may still lie unread: ask, rather than conclude from the silence.
            self._probe_from = self._pinged_at = None
            self.probe(now)
        if now >= self._check_at:
            since = self._probe_from
            is_silent = since is not None and self.heard_at <= since
            if is_silent and not self._fair and now - self._check_at > HELD_UP_S:
                self._fair, self._check_at = True, now + HELD_UP_S
                return Step.WAIT
            self._probe_from = None
            if is_silent:
                return Step.DEAD
            if since is not None:
                self.is_busy = False
            elif self.is_busy:
                if now - self.heard_at >= BUSY_QUIET_S:
                    self.probe(now)
                    return self._ping(now)
                self._check_at = max(self.heard_at + BUSY_QUIET_S, now + 0.001)
                return self._ping(now) if now >= self._ping_at else Step.WAIT
            elif now - self.heard_at >= DEAD_AFTER_S:
                if self._pinged_at is not None and now - self._pinged_at >= FAIR_S:
                    return Step.DEAD
                self.probe(now)
                return self._ping(now)
            self._check_at = max(self.heard_at + DEAD_AFTER_S, now + 0.001)
        return self._ping(now) if now >= self._ping_at else Step.WAIT

    def _ping(self, now: float) -> Step:
        self._ping_at = now + PING_EVERY_S
        if self._pinged_at is None:
            self._pinged_at = now
        return Step.PING
