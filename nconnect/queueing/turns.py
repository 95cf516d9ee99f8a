"""Turns of an event loop, shared out between sources by the work they cause. Pure.

A source that sends more than one loop turn can serve must not delay the others. Work is counted in bytes:
the bytes of a message, `MESSAGE_WORK` for the message itself, and what its receiver adds for other work
(`Share.charge`). In one turn of the loop a source may cause `quantum` of work. Work beyond that waits in a
ring, which gets `total` of work in each turn, source by source (deficit round robin: a source that exceeded
its quantum pays it back in later turns).

A source within its quantum is served as soon as its socket is readable, so a sparse source waits at most one
turn. If only one source is busy, it is served in every turn, with `ALONE` quanta. Within one source, the
order is first in, first out.

The bytes of incomplete messages are bounded for all sources together (`kept_limit`). A source may keep at
most as much as it leaves for the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

MESSAGE_WORK = 4096  # measured: a message costs our node as much as relaying 4 KB
QUANTUM = 256 << 10  # measured: about a millisecond of our node
TOTAL = 2 * QUANTUM
ALONE = 8  # measured: a busy source alone may do so many quanta in one turn
KEPT_LIMIT = 64 << 20  # guessed: ten sources that fill it leave another one more than the largest message
BUSY_TURNS = 16  # guessed: a source counts as busy for so many turns after it filled a quantum


class Turns:
    """All sources of one loop. `schedule(run)` must call `run()` once in the loop's next turn."""

    def __init__(
        self,
        schedule: Callable[[Callable[[], None]], object] | None = None,
        *,
        quantum: int = QUANTUM,
        total: int = TOTAL,
        kept_limit: int = KEPT_LIMIT,
    ) -> None:
        self.schedule = schedule
        self.kept_limit = kept_limit
        self.kept_bytes = 0
        self.quantum = quantum
        self.number = 0
        self.used = 0  # work of this turn
        self._total = total
        self.is_contended = False  # several sources are busy
        self._contended_until = 0
        self._busiest: Share | None = None  # the last that filled a quantum, and until when that counts
        self._busiest_until = 0
        self._ring: deque[Share] = deque()
        self._is_scheduled = False

    def share(self) -> Share:
        """The share of a new source."""
        return Share(self)

    def run(self) -> None:
        """Begin a new turn: serve the sources that wait, up to the turn's total work."""
        self._is_scheduled = False
        self.number += 1
        self.used = 0
        self.is_contended = bool(self._ring) or self.number < self._contended_until
        ring = self._ring
        for _ in range(len(ring)):
            if self.used >= self._total:
                break
            share = ring.popleft()
            share.settle()
            share.serve()
            if share.waiting:
                ring.append(share)
            else:
                share.is_in_ring = False
        if ring:
            self.wake()

    def wake(self) -> None:
        """Schedule the next turn, unless it is scheduled."""
        if not self._is_scheduled and self.schedule is not None:
            self._is_scheduled = True
            self.schedule(self.run)

    def filled(self, share: Share) -> None:
        """Note that a share has filled its quantum."""
        if self._busiest is not share:
            if self.number < self._busiest_until:
                self._contended_until = self.number + BUSY_TURNS
                self.is_contended = True
            self._busiest = share
        self._busiest_until = self.number + BUSY_TURNS
        self.wake()

    @property
    def is_full(self) -> bool:
        """Whether this turn's total work is used up."""
        return self.used >= self._total

    def enlist(self, share: Share) -> None:
        """Put a share with waiting work into the ring."""
        if not share.is_in_ring:
            share.is_in_ring = True
            self._ring.append(share)
        self.wake()


class Share:
    """One source's part in the turns."""

    __slots__ = ("_turns", "busy_until", "is_in_ring", "kept_bytes", "spent", "turn", "waiting")

    def __init__(self, turns: Turns) -> None:
        self.spent = 0  # work in this turn, and the debt of earlier turns
        self.turn = 0  # the turn in which `spent` was counted
        self.busy_until = 0  # the turn from which it counts as a sparse source again
        self.waiting: deque[Callable[[], None]] = deque()
        self.is_in_ring = False
        self.kept_bytes = 0  # of incomplete messages
        self._turns = turns

    def keep(self, more: int) -> bool:
        """Change the count of kept bytes by `more` (maybe negative); False if it is now too much."""
        turns = self._turns
        self.kept_bytes += more
        turns.kept_bytes += more
        return more <= 0 or self.kept_bytes <= turns.kept_limit - (turns.kept_bytes - more)

    def may_go_on(self) -> bool:
        """Whether this source may be served now. If not, call `wait`."""
        turns = self._turns
        if self.turn != turns.number:
            self.settle()
        if not turns.is_contended:
            return True
        return self.spent < turns.quantum and not (turns.is_full and turns.number < self.busy_until)

    def charge(self, work: int) -> None:
        """Count work that this source caused."""
        turns = self._turns
        self.spent += work
        turns.used += work
        if self.spent >= turns.quantum:
            self.busy_until = turns.number + self.spent // turns.quantum + BUSY_TURNS
            turns.filled(self)
        elif turns.is_full:
            turns.wake()

    @property
    def limit(self) -> int:
        """The value of `spent` at which this turn's work on data that was already read ends.

        It is higher than the quantum, because otherwise the data of one read would often wait half done.
        """
        turns = self._turns
        return (2 if turns.is_contended else ALONE) * turns.quantum

    def wait(self, go_on: Callable[[], None], *, first: bool = False) -> None:
        """Call `go_on` when it is this source's turn; `first`: before its other waiting calls."""
        if first:
            self.waiting.appendleft(go_on)
        else:
            self.waiting.append(go_on)
        self._turns.enlist(self)

    def settle(self) -> None:
        """Pay back a quantum for each turn that has passed."""
        turns = self._turns
        owed = self.spent - (turns.number - self.turn) * turns.quantum
        self.spent = max(0, owed) if turns.is_contended else 0
        self.turn = turns.number

    def serve(self) -> None:
        """Make the waiting calls, each once, while the quantum lasts."""
        for _ in range(len(self.waiting)):
            if self.spent >= self._turns.quantum:
                break
            self.waiting.popleft()()
