"""The largest datagram that a path takes: packetization layer path MTU discovery (RFC 8899).

Data uses `size` (the RFC's PLPMTU), which begins at BASE_BYTES and only grows when a probe of the larger size
was acknowledged. Probes carry no data, so a lost one costs nothing. The largest plausible size is tried
first, since most paths take it: it is known after one round trip. Where it fails, the sizes of well-known
links are searched, and then the middle between the last that passed and the first that failed.

A black hole (section 4.3): the size in use is doubted when large datagrams are lost (`doubt`), and probed
three times in quick succession. If none is answered, data goes back to BASE_BYTES, and no size from the one
that failed on is tried for RAISE_S.
"""

from __future__ import annotations

from enum import Enum
from math import inf

from nconnect.tunnel.paths.direct.constants import (
    BASE_BYTES,
    HEADERS_BYTES,
    MAX_PROBES,
    MIN_STEP_BYTES,
    PATH_MTUS,
    PROBE_TIMER_S,
    RAISE_S,
    VERIFY_TIMER_S,
)


class MtuState(Enum):
    SEARCHING = "searching"
    COMPLETE = "complete"  # until it is time to try larger sizes again
    DOUBTED = "doubted"  # the size in use is probed


class MtuSearch:
    """One path's search. Drive it by `due` at `next_at`, and tell it what became of its probes."""

    __slots__ = ("_failed", "_limit", "_probing", "_sizes", "_tries", "next_at", "rtt_s", "size", "state")

    def __init__(self, now: float, *, version: int, limit: int, rtt_s: float) -> None:
        """For a path over this IP version. `limit`: what both sides' interfaces take (UDP payload)."""
        self.size = BASE_BYTES
        self.rtt_s = rtt_s
        self.next_at = now  # when to call `due`
        self.state = MtuState.SEARCHING
        self._limit = max(limit, BASE_BYTES)
        self._sizes = sorted({mtu - HEADERS_BYTES[version] for mtu in PATH_MTUS} | {self._limit})
        self._failed: float = inf  # the smallest size that did not pass
        self._tries = 0
        self._probing: int | None = None
        self._choose()

    @property
    def is_doubted(self) -> bool:
        """Whether the size in use is probed, since large datagrams were lost."""
        return self.state is MtuState.DOUBTED

    def due(self, now: float) -> int | None:
        """The size to probe now, if any."""
        if now < self.next_at:
            return None
        if self.state is MtuState.COMPLETE:
            self.state, self._failed = MtuState.SEARCHING, inf
            self._choose()
        elif self._tries >= MAX_PROBES:
            self._probe_failed(now)
        if self._probing is None:
            self._complete(now)
            return None
        self._tries += 1
        if self.state is MtuState.DOUBTED:
            self.next_at = now + max(VERIFY_TIMER_S, 1.5 * self.rtt_s)
        else:
            self.next_at = now + max(PROBE_TIMER_S, 3 * self.rtt_s)
        return self._probing

    def acknowledged(self, size: int, now: float) -> None:
        """A probe of this size was answered."""
        if size >= self._failed:  # its answer came after it was given up: the path takes it
            self._failed = inf
        self.size = max(self.size, min(size, self._limit))
        if self.state is MtuState.COMPLETE or self._probing is None or size < self._probing:
            return
        self.state = MtuState.SEARCHING
        self._choose()
        self.next_at = now

    def too_big(self, size: int, now: float) -> None:
        """The kernel refused a datagram of this size (EMSGSIZE): the route's MTU is smaller."""
        if size <= BASE_BYTES:
            return
        self._failed = min(self._failed, size)
        if self.size >= size:
            self.size = BASE_BYTES
        self.state = MtuState.SEARCHING
        self._choose()
        self.next_at = now

    def doubt(self, now: float) -> None:
        """Large datagrams seem to be lost: probe the size in use."""
        if self.size > BASE_BYTES and self.state is not MtuState.DOUBTED:
            self.state, self._probing, self._tries = MtuState.DOUBTED, self.size, 0
            self.next_at = now

    def fall_back(self, now: float) -> None:
        """The path is suspect: use the base size until larger ones have passed again."""
        if self.size > BASE_BYTES:
            self.size = BASE_BYTES
            self.state = MtuState.SEARCHING
            self._choose()
            self.next_at = now + self.rtt_s

    def _probe_failed(self, now: float) -> None:
        assert self._probing is not None
        self._failed = min(self._failed, self._probing)
        if self.state is MtuState.DOUBTED:
            self.size = BASE_BYTES
        self.state = MtuState.SEARCHING
        self._choose()

    def _choose(self) -> None:
        """What to probe next: the largest that may pass, then known sizes from above, then the middle."""
        self._tries = 0
        most = min(self._limit, self._failed - 1)
        known = [size for size in self._sizes if self.size < size <= most]
        if known:
            # The largest first; once that failed, halve what is left of the list.
            self._probing = known[-1] if self._failed == inf else known[len(known) // 2]
        elif self._failed < inf and self._failed - self.size > MIN_STEP_BYTES:
            self._probing = int(self.size + self._failed) // 2
        else:
            self._probing = None

    def _complete(self, now: float) -> None:
        self.state = MtuState.COMPLETE
        self.next_at = now + RAISE_S if self.size < self._limit else inf
