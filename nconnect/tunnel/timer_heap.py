"""A heap of all peers by when their timers are due next. Pure.

A peer's own deadlines are in `nconnect.tunnel.timers`. The heap has one time for each peer at which to look
at them (`peer.check_at`), which may be too early, but never too late.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from nconnect.model import Deadline
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.timers import NEVER, Timer


class TimerHeap:
    """When to look at which peer."""

    __slots__ = ("_checks", "_number", "next_at")

    def __init__(self) -> None:
        self.next_at = NEVER  # when a timer may be due; `NEVER` when none is set
        self._checks: list[tuple[float, int, Peer]] = []  # a heap; an entry is void if not at peer.check_at
        self._number = 0

    def schedule(self, peer: Peer) -> None:
        """Look at this peer's timers when the earliest is due."""
        at = peer.timers.next_at()
        if at < peer.check_at:
            peer.check_at = at
            self._number += 1
            heapq.heappush(self._checks, (at, self._number, peer))
            self.next_at = self._checks[0][0]

    def forget(self, peer: Peer) -> None:
        """Do not look at this peer's timers any more."""
        peer.check_at = NEVER
        self._drop_void()

    def next(self) -> Deadline | None:
        """When a timer is due, and which; None when none is set."""
        self._drop_void()
        at = self.next_at
        if at == NEVER:
            return None
        peer = self._checks[0][2]
        deadline = peer.timers.next()
        return Deadline(at, f"{peer.name}: {deadline.why if deadline else 'check'}")

    def due(self, now: float) -> Iterator[tuple[Peer, Timer]]:
        """Each timer that is due; one that is set meanwhile may fire in the same turn."""
        self._drop_void()
        while self.next_at <= now:
            peer = heapq.heappop(self._checks)[2]
            peer.check_at = NEVER
            self._drop_void()
            for timer in peer.timers.due(now):
                yield peer, timer
            self.schedule(peer)
            self._drop_void()

    def _drop_void(self) -> None:
        checks = self._checks
        while checks and checks[0][2].check_at != checks[0][0]:
            heapq.heappop(checks)
        self.next_at = checks[0][0] if checks else NEVER
