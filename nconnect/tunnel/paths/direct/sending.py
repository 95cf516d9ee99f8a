"""Delivery feedback of datagrams: as a lane's, but a report may name any of them, and some are lost. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from nconnect.tunnel.paths.feedback import MAX_LOGGED, UNDER_WAY_BYTES, Sending
from nconnect.tunnel.paths.lanes import Hold, Lane


class DatagramSending(Sending):
    """Our side of one direction. The log has a run of datagrams in each entry, with its last counter."""

    __slots__ = ("_firsts", "_hold", "_is_held", "_newest", "is_exact")

    def __init__(self, now: float) -> None:
        super().__init__(now)
        self._hold = Hold()
        self._is_held = False
        self._newest = (0, -1)  # key index and counter that were reported last
        self.is_exact = True  # whether the last report was about whole runs: `reported_bytes` says how much
        self._firsts: deque[int] = deque(maxlen=MAX_LOGGED)  # the first counter of each run, newest last

    def wait_for(self, lanes: Iterable[Lane], own: Lane, now: float) -> None:
        """Send nothing before what is under way on these lanes has arrived: flows keep their order."""
        for lane in lanes:
            self._hold.add(lane, own, now)
        self._is_held = True

    def is_clear(self, now: float) -> bool:
        if self._is_held and self._waits(now):
            return False
        return self.pacer.rate is None and (  # as `Sending` has it, without a call: each packet asks
            self.total_bytes - self.reported_bytes <= UNDER_WAY_BYTES or not self._is_full(now)
        )

    def budget(self, now: float) -> int:
        return 0 if self._is_held and self._waits(now) else super().budget(now)

    def next_at(self, now: float) -> float:
        return now + HOLD_LOOK_S if self._is_held and self._waits(now) else super().next_at(now)

    def _waits(self, now: float) -> bool:
        self._is_held = not self._hold.is_over(now)
        return self._is_held

    def sent(self, index: int, counter: int, size: int, now: float) -> None:
        """Nothing: `run_sent` says it for each run."""

    def run_sent(self, index: int, first_counter: int, last_counter: int, size: int, now: float) -> None:
        """A run of datagrams has left under the peer's key index; `size`: of its batches, in bytes."""
        super().sent(index, last_counter, size, now)
        self._firsts.append(first_counter)

    def _sent_at(self, place: int, counter: int) -> float | None:
        """The reported datagram may be within the next run, or one without packets, which is in no run."""
        log = self._log
        self.is_exact = True
        if log[place][1] != counter:
            place += 1
            if place == len(log) or self._firsts[place - len(log)] > counter:
                return None
            self.is_exact = False
        return log[place][2]

    def _place_of(self, index: int, counter: int) -> int | None:
        """The last run that had left when the reported datagram did."""
        if index == self._newest[0] and counter <= self._newest[1]:
            return None  # it was overtaken by another report
        place = None
        for number, (of_index, last, _, _) in enumerate(self._log):
            if of_index == index:
                if last > counter:
                    break
                place = number
        if place is not None:
            self._newest = index, counter
        return place


HOLD_LOOK_S = 0.002  # how soon to look again whether the wait is over
