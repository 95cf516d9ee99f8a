"""How much of a session may be in flight without filling a queue on its way.

A node queues megabytes for a receiver behind a slow link. A sender that fills the other side's window there
waits longer for acknowledgements than its time-out is, and sends again what was never lost. So besides the
window and losses there is a bound: what is delivered in the shortest round trip and `QUEUE_S` more.
"""

from __future__ import annotations

from collections import deque

FIRST_FLIGHT_BYTES = 512 << 10
QUEUE_S = 0.25  # guessed: five times what an official receiver waits to acknowledge
_SAMPLE_S, _SAMPLES = 0.25, 8  # the fastest of two seconds counts
_SHORTEST_S = 30.0  # a round trip is the shortest one for so long


class SessionDelivery:
    """Rate and shortest round trip of one session's way out, from what is acknowledged."""

    def __init__(self) -> None:
        self._bytes = 0
        self._since: float | None = None
        self._rates: deque[float] = deque(maxlen=_SAMPLES)
        self._rtt_s: float | None = None
        self._rtt_at = 0.0

    def round_trip(self, rtt_s: float, now: float) -> None:
        """Of a packet that was sent once."""
        if self._rtt_s is None or rtt_s <= self._rtt_s or now - self._rtt_at > _SHORTEST_S:
            self._rtt_s, self._rtt_at = rtt_s, now

    def acked(self, size: int, now: float) -> None:
        """Bytes that were acknowledged at once."""
        if self._since is None:
            self._since = now  # what began before is not known
            return
        self._bytes += size
        elapsed_s = now - self._since
        if elapsed_s >= _SAMPLE_S:
            self._rates.append(self._bytes / elapsed_s)
            self._bytes, self._since = 0, now

    def bound(self) -> float:
        """Bytes in flight."""
        if self._rtt_s is None or not self._rates:
            return FIRST_FLIGHT_BYTES
        return max(FIRST_FLIGHT_BYTES, max(self._rates) * (self._rtt_s + QUEUE_S))
