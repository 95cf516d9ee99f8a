"""What the peer says has arrived of the data that was sent on the direct path.

Two judgements follow: nothing arrives (`unreported_since`, `is_dropping`), or too little (`is_lossy`).
Answers to probes don't count: there are paths that answer probes and drop data.
"""

from __future__ import annotations

from collections import deque
from math import sqrt

from nconnect.tunnel.paths.direct.constants import (
    BAD_SLOTS,
    DROPPED_RUNS,
    LOSS_MARGIN,
    MAX_LOSS,
    MIN_SLOT_DATAGRAMS,
    SLOT_S,
    SLOTS,
)

_MERGE_S = 0.005  # what is sent within this time is one run
MAX_RUNS = 1024  # that are kept; then the last one grows
DATAGRAM_BYTES = 1200  # for the number of datagrams, of which only bytes are known


class Delivery:
    """Data of one direction. Byte counts are of batches with packets in them, before sealing."""

    __slots__ = (
        "_arrived", "_bad", "_dropped_runs", "_log", "_reported", "_slot_arrived", "_slot_at", "_slot_sent",
        "total_bytes",
    )  # fmt: skip

    def __init__(self, now: float) -> None:
        self.total_bytes = 0  # sent
        # Of each run that was not reported: when its first byte was sent, `total_bytes` after its last.
        self._log: deque[tuple[float, int]] = deque()
        self._reported = 0  # of `total_bytes`: up to the newest datagram that the peer reported
        self._arrived = 0  # of these, what arrived
        self._dropped_runs = 0
        self._bad: deque[bool] = deque(maxlen=SLOTS)
        self._slot_at = now
        self._slot_sent = self._slot_arrived = 0

    def restart(self, now: float) -> None:
        """Another pair is used from now on: judge it alone. Totals go on."""
        self._log.clear()
        self._reported = self.total_bytes
        self._dropped_runs = 0
        self._bad.clear()
        self._slot_at, self._slot_sent, self._slot_arrived = now, self.total_bytes, self._arrived

    @property
    def unreported_since(self) -> float | None:
        """When the oldest data was sent that is newer than all that was reported; None without any."""
        return self._log[0][0] if self._log else None

    @property
    def is_dropping(self) -> bool:
        """Whether reports come, and say that nothing of the last DROPPED_RUNS runs arrived."""
        return self._dropped_runs >= DROPPED_RUNS

    @property
    def is_lossy(self) -> bool:
        """Whether most of the last slots were bad."""
        return sum(self._bad) >= BAD_SLOTS

    def sent(self, size: int, now: float) -> None:
        self.total_bytes += size
        if self._log and (now - self._log[-1][0] < _MERGE_S or len(self._log) >= MAX_RUNS):
            self._log[-1] = (self._log[-1][0], self.total_bytes)
        else:
            self._log.append((now, self.total_bytes))

    def reported(self, sent_bytes: int, arrived_bytes: int, now: float) -> bool:
        """The peer's report: of the first `sent_bytes` sent, `arrived_bytes` arrived.

        True when it ends a slot in which too much was lost.
        """
        if arrived_bytes > self._arrived:
            self._arrived = arrived_bytes
            self._dropped_runs = 0
            settled = 0
        else:
            settled = 1
        self._reported = max(self._reported, min(sent_bytes, self.total_bytes))
        while self._log and self._log[0][1] <= self._reported:
            self._log.popleft()
            self._dropped_runs += settled
        return now - self._slot_at >= SLOT_S and self._end_slot(now)

    def peer_restarted(self, arrived_bytes: int) -> None:
        """The peer counts anew."""
        self._arrived = self._slot_arrived = arrived_bytes

    def forgive(self) -> None:
        """What caused the loss has been mended: judge anew."""
        self._bad.clear()

    def _end_slot(self, now: float) -> bool:
        sent, arrived = self._reported - self._slot_sent, self._arrived - self._slot_arrived
        datagrams = sent / DATAGRAM_BYTES
        if datagrams < MIN_SLOT_DATAGRAMS:
            return False  # the slot goes on
        self._slot_at, self._slot_sent, self._slot_arrived = now, self._reported, self._arrived
        bad = 1 - arrived / sent > MAX_LOSS + LOSS_MARGIN / sqrt(datagrams)
        self._bad.append(bad)
        return bad
