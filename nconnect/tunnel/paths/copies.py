"""Packets that come twice, by the relay and by datagrams: each counts once, and a flow keeps its order. Pure.

While a direct path is in doubt the peer sends each packet both ways. Its copy in datagrams names the relay's
batch, by the counter, and the packet's place in it. Both ways keep their order, and either may lose something
that the other one brings later. So a copy passes when nothing before it can still come:

- all datagrams before it have arrived (the replay window of the direct path's keys knows), or
- all batches before its own have arrived by the relay (the session's replay window knows), and copies of all
  packets before it in its own, or
- it has waited for `MISSING_WAIT_S`, or the relay has brought nothing since another copy waited so long, or
- packets come that are no copies: the peer sends by datagrams alone again, after all that the relay had.

A copy that waits when its twin comes is dropped. TCP never waits, as in `nconnect.tunnel.paths.reorder`. What
comes by the relay does not wait for copies.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from math import inf

from nconnect.tunnel.paths.reorder import HELD_BATCH_BYTES, HELD_BYTES_MOST, MISSING_WAIT_S, may_overtake
from nconnect.tunnel.session import KeyPair

MAX_COPIES = 1024  # batches of which packets came first in datagrams
MAX_PLACE = 1 << 13  # of a packet in a batch: more do not fit into one
_LOOK_BACK = 64  # datagrams before the first copy: of these none may be missing, since it may be a copy
_LATEST = 1024  # datagrams and batches: what came so much earlier is not looked for
_NEW_DOUBT_S = 1.0  # without a copy for so long: the next one begins anew


@dataclass(order=True, slots=True)
class _Held:
    """A copy that waits."""

    counter: int  # the relay's
    place: int
    datagram: int = field(compare=False)  # counter of the datagram that completed it
    until: float = field(compare=False)
    packets: list[memoryview] = field(compare=False)
    size: int = field(compare=False)


class Copies:
    """One peer's."""

    __slots__ = (
        "_came", "_came_at", "_held", "_held_bytes", "_index", "_next_batch", "_next_datagram", "_pair",
        "_relay_brings", "waits",
    )  # fmt: skip

    def __init__(self) -> None:
        self.waits = False  # whether a copy waits: then `relay_came` is to be told of batches
        self._came: dict[tuple[int, int], int] = {}  # (key index, counter) -> bits: packets that passed here
        self._came_at = -inf  # when the last copy came
        self._index = -1  # of the keys of the last copy
        self._pair: KeyPair | None = None  # these keys, while a copy waits: nobody else must keep keys
        self._held: list[_Held] = []  # in order
        self._held_bytes = 0
        self._next_datagram = 0  # all before it have arrived, or are not waited for
        self._next_batch = 0  # the same of the relay's batches
        self._relay_brings = True

    def clear(self) -> None:
        """There are no keys any more, so nothing that was sent under them will come by the relay."""
        self._came.clear()
        self._held.clear()
        self._held_bytes, self.waits, self._pair, self._index = 0, False, None, -1

    def put(
        self, pair: KeyPair, counter: int, place: int, datagram: int, packets: list[memoryview], now: float
    ) -> list[memoryview]:
        """A copy of the packet at `place` in the relay's batch `counter`; the packets that may pass now.

        `datagram`: the counter of the datagram that completed it. Packets that wait are copied.
        """
        passed: list[memoryview] = []
        if pair.local_index != self._index or (now > self._came_at + _NEW_DOUBT_S and not self._held):
            passed = self._pass_until(inf)
            self._index = pair.local_index
            self._next_datagram = max(0, datagram - _LOOK_BACK)
            self._next_batch = pair.window.newest + 1
            self._relay_brings = True
        self._came_at = now
        if self._is_second(pair, counter, place):
            return passed
        if may_overtake(packets[0]):
            self._passes(pair, counter, place)
            return passed + packets
        size = HELD_BATCH_BYTES + sum(map(len, packets))
        until = now + MISSING_WAIT_S if self._relay_brings else now
        kept = [memoryview(bytes(packet)) for packet in packets]
        self._pair = pair
        insort(self._held, _Held(counter, place, datagram, until, kept, size))
        self._held_bytes += size
        passed += self._pass_until(inf if self._held_bytes > HELD_BYTES_MOST else now)
        return passed

    def first_ones(self, index: int, counter: int, packets: list[memoryview]) -> list[memoryview]:
        """A batch came by the relay: its packets that did not come in datagrams before."""
        self._relay_brings = True
        places = self._came.pop((index, counter), 0) if self._came else 0
        return (
            [packet for place, packet in enumerate(packets) if not places >> place & 1] if places else packets
        )

    def relay_came(self, now: float) -> list[memoryview]:
        """A batch came by the relay: the copies that may pass now."""
        return self._pass_until(now)

    def end(self) -> list[memoryview]:
        """Packets came in datagrams that are no copies: those that waited, which pass before them."""
        return self._pass_until(inf)

    def overdue(self, now: float) -> list[memoryview]:
        """The copies that have waited for long enough, and what may pass then."""
        return self._pass_until(now)

    def overdue_at(self) -> float:
        """When to call `overdue`; infinite if never."""
        return min((held.until for held in self._held), default=inf)

    def _pass_until(self, now: float) -> list[memoryview]:
        """What may pass, in order: what was in its turn, and what has waited until now."""
        pair, held = self._pair, self._held
        if not held or pair is None:
            return []
        passed: list[memoryview] = []
        number = max((n for n, each in enumerate(held, 1) if each.until <= now), default=0)
        while held:
            first = held[0]
            if not self._is_in_turn(pair, first):
                if number <= 0:
                    break
                self._relay_brings = False  # what is missing before it is not waited for any more
            # All before it has come, by either way.
            self._next_datagram = max(self._next_datagram, first.datagram + 1)
            self._next_batch = max(self._next_batch, first.counter)
            number -= 1
            del held[0]
            self._held_bytes -= first.size
            if not self._is_second(pair, first.counter, first.place):
                self._passes(pair, first.counter, first.place)
                passed += first.packets
        self.waits = bool(held)
        if not held:
            self._pair = None
        return passed

    def _is_in_turn(self, pair: KeyPair, held: _Held) -> bool:
        """Whether all that was sent before it has come, by either way."""
        at = max(self._next_datagram, held.datagram - _LATEST)
        while at <= held.datagram and not pair.direct.is_fresh(at):
            at += 1
        self._next_datagram = at
        if at > held.datagram or not pair.window.is_fresh(held.counter):
            return True
        at = max(self._next_batch, held.counter - _LATEST)
        while at < held.counter and not pair.window.is_fresh(at):
            at += 1
        self._next_batch = at
        before = (1 << held.place) - 1
        return at >= held.counter and self._places(pair, held.counter) & before == before

    def _is_second(self, pair: KeyPair, counter: int, place: int) -> bool:
        """Whether this packet has come, by either way."""
        places = self._places(pair, counter)
        return bool(places >> place & 1) or place >= MAX_PLACE or not pair.window.is_fresh(counter)

    def _places(self, pair: KeyPair, counter: int) -> int:
        return self._came.get((pair.local_index, counter), 0)

    def _passes(self, pair: KeyPair, counter: int, place: int) -> None:
        key = (pair.local_index, counter)
        if len(self._came) >= MAX_COPIES and key not in self._came:
            del self._came[next(iter(self._came))]
        self._came[key] = self._came.get(key, 0) | 1 << place
