"""When to connect to a peer, where, and which of two streams stays. Pure; one `PeerDialler` for each peer.

Both sides may connect at the same time. Then the stream that the side with the smaller public key dialled
stays, on both sides. Otherwise a new stream takes the place of the old one: who dials has none that works.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from nconnect.model import Endpoint
from nconnect.tunnel.paths.direct.budget import ProbeBudget
from nconnect.tunnel.paths.direct.candidates import LEAST_PORT
from nconnect.wire.direct import Candidate, CandidateKind

# After a failure; the last one repeats. Begins anew with the first when either side is somewhere else.
RETRY_S = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
STEADY_S = 10.0  # guessed: a stream that held for so long was a good one: when it ends, dial soon
SOON_S = 0.5
CROSSING_S = 2.0  # guessed: two streams within this time were dialled at once
ATTEMPT_BYTES = 240  # three tries of a SYN, and OPEN
# A router's port for UDP says nothing about TCP.
_DIALLED = (CandidateKind.HOST, CandidateKind.MAPPED, CandidateKind.FORWARDED)


class PeerDialler:
    """The caller tells what happens, and asks `due` while there is traffic."""

    def __init__(self, budget: ProbeBudget, *, is_first: bool) -> None:
        """`is_first`: our public key is the smaller one. `budget`: the interface's."""
        self.is_open = False
        self._budget = budget
        self._is_first = is_first
        self._endpoints: tuple[Endpoint, ...] = ()
        self._is_dialling = False
        self._failures = 0
        self._at = -inf  # not before
        self._is_ours = False  # the open stream was dialled by us
        self._opened_at = -inf

    def told(self, candidates: Iterable[Candidate], now: float) -> None:
        """The peer's candidates that may be sent to at all (`candidates.to_probe`)."""
        found = dict.fromkeys(
            candidate.endpoint
            for candidate in candidates
            if candidate.kind in _DIALLED and candidate.endpoint.port >= LEAST_PORT
        )
        if tuple(found) != self._endpoints:
            self._endpoints = tuple(found)
            self.moved(now)

    def moved(self, now: float) -> None:
        """Either side is somewhere else: what failed before may work."""
        self._failures, self._at = 0, now

    def next_at(self) -> float:
        """When `due` may give something; infinite while it cannot."""
        return inf if self.is_open or self._is_dialling or not self._endpoints else self._at

    def due(self, now: float) -> tuple[Endpoint, ...]:
        """Where to connect now, all at once; `attempt_over` must follow if there is anything."""
        if now < self.next_at():
            return ()
        found = tuple(each for each in self._endpoints if self._budget.take(each, ATTEMPT_BYTES, None, now))
        if found:
            self._is_dialling = True
        else:
            self._wait(now)
        return found

    def attempt_over(self, now: float) -> None:
        """All connections of an attempt have failed, or one is a stream (`opened` came before)."""
        self._is_dialling = False
        if not self.is_open:
            self._wait(now)

    def opened(self, *, is_ours: bool, now: float) -> bool:
        """A stream is open, `is_ours` if we dialled. Whether it stays; the other one, if any, is closed."""
        if self.is_open and self._is_ours is not is_ours and now - self._opened_at < CROSSING_S:
            stays = is_ours is self._is_first
            if not stays:
                return False
        self.is_open, self._is_ours, self._opened_at = True, is_ours, now
        return True

    def closed(self, now: float) -> None:
        """The stream that stayed is at its end."""
        self.is_open = False
        if now - self._opened_at >= STEADY_S:
            self._failures, self._at = 0, now + SOON_S
        else:
            self._wait(now)

    def _wait(self, now: float) -> None:
        self._at = now + RETRY_S[min(self._failures, len(RETRY_S) - 1)]
        self._failures += 1
