"""For tests: disturbs the order of one client's messages as the official node does.

Measured there: 40 to 85 % of the messages arrive after a later one, displaced by up to 80. Here about two
thirds are put behind 1 to 80 later ones, most behind few; the choice is a fixed pseudo-random sequence, so
that a run can be repeated. Nothing is lost, and nothing is held for long: `flush` returns all that is held,
and the caller calls it `HOLD_S` after the first `push`.
"""

from __future__ import annotations

import heapq

HOLD_S = 0.002  # guessed: the official node's disorder comes from parallel work, of about this length
MAX_DISPLACEMENT = 80  # measured, at 64 KiB
MAX_HELD_BYTES = 16 << 20
_DISPLACED_PER_256 = 170


class Reorderer:
    """Holds messages back by their number. Owns the bytes that it holds."""

    def __init__(self, seed: int = 1) -> None:
        self._state = (seed * 0x9E3779B97F4A7C15 + 1) & 0xFFFF_FFFF_FFFF_FFFF or 1
        self._count = 0
        self._held: list[tuple[int, int, bytes]] = []  # a heap of (may leave at count, number, message)
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def push(self, message: bytes) -> list[bytes]:
        """Take one message in; return those that leave now, in their new order."""
        self._count += 1
        heapq.heappush(self._held, (self._count + self._displacement(), self._count, message))
        self.held_bytes += len(message)
        if self.held_bytes > MAX_HELD_BYTES:
            return self.flush()
        leaving = []
        while self._held and self._held[0][0] <= self._count:
            leaving.append(self._pop())
        return leaving

    def flush(self) -> list[bytes]:
        """Give out everything, still in the disturbed order."""
        return [self._pop() for _ in range(len(self._held))]

    def _pop(self) -> bytes:
        message = heapq.heappop(self._held)[2]
        self.held_bytes -= len(message)
        return message

    def _displacement(self) -> int:
        """Behind how many later messages the next one goes: 0 for a third, else 1 to 80, mostly few."""
        self._state ^= self._state << 13 & 0xFFFF_FFFF_FFFF_FFFF
        self._state ^= self._state >> 7
        self._state ^= self._state << 17 & 0xFFFF_FFFF_FFFF_FFFF
        if self._state & 0xFF >= _DISPLACED_PER_256:
            return 0
        uniform = (self._state >> 8 & 0xFFFF) / 0x10000
        return 1 + int(uniform**3 * MAX_DISPLACEMENT)
