"""Putting a striped flow's batches in order again. Pure.

Batches that are striped over lanes carry a number (record STRIPE) and how long one may wait for those before
it, which the sender reckons from its lanes' round trips. A batch that comes in its turn passes at once; one
that overtook others is held until they are there, or its time is over. What comes after its turn was given up
passes at once too: nothing is ever dropped here.
"""

from __future__ import annotations

from math import inf

MAX_WAIT_S = 0.25  # whatever the sender says; guessed: beyond it a TCP sends again anyway
MAX_HELD_BYTES = 4 << 20  # 0.25 s at 134 Mbit/s
RESTART = 1 << 15  # a number that far from the expected one begins a new count
_SPAN = 1 << 32


class ReorderBuffer:
    """The striped batches of one peer. A packet list given to `put` is handed out once, in order."""

    __slots__ = ("_held", "_held_bytes", "_next", "_until")

    def __init__(self, first: int | None = None) -> None:
        """`first` is the number that is expected; None: whichever comes first."""
        self._next = first
        self._held: dict[int, tuple[list[memoryview], int, float]] = {}  # number -> packets, bytes, until
        self._held_bytes = 0
        self._until = inf  # no batch waits until before then

    def __bool__(self) -> bool:
        """Whether anything is held."""
        return bool(self._held)

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    @property
    def expected(self) -> int | None:
        """The number whose turn it is; None while a batch is held."""
        return None if self._held else self._next

    def is_next(self, number: int) -> bool:
        """Whether this batch is in its turn or past it, so that its packets may be used where they lie."""
        ahead = self._ahead(number)
        return ahead <= 0

    def put(
        self, number: int, packets: list[memoryview], size: int, wait_s: float, now: float
    ) -> list[memoryview]:
        """Take a batch; all packets that may pass now, in order. Held packets must stay valid."""
        ahead = self._ahead(number)
        if ahead < 0 or number in self._held:
            return packets
        if ahead > 0:
            until = now + min(wait_s, MAX_WAIT_S)
            self._held[number] = (packets, size, until)
            self._held_bytes += size
            self._until = min(self._until, until)
            return self._skip() if self._held_bytes > MAX_HELD_BYTES else []
        self._next = (number + 1) % _SPAN
        return packets + self._run() if self._held else packets

    def next_at(self) -> float:
        """When `expire` is to be called, which may find that there is nothing to do; infinite if never."""
        return self._until if self._held else inf

    def expire(self, now: float) -> list[memoryview]:
        """Give up waiting for what is overdue: the packets that may pass now."""
        passed: list[memoryview] = []
        while self.next_at() <= now:
            self._until = min(until for _, _, until in self._held.values())
            if self._until <= now:
                passed += self._skip()
        return passed

    def release(self) -> list[memoryview]:
        """Wait for nothing any more: all that is held, in order."""
        passed: list[memoryview] = []
        while self._held:
            passed += self._skip()
        return passed

    def jump(self, number: int) -> None:
        """What is missing before this batch is not waited for."""
        self._next = number

    def _ahead(self, number: int) -> int:
        """How many batches are missing before this one; negative: its turn is over."""
        if self._next is None:
            self._next = number
        ahead = (number - self._next + _SPAN // 2) % _SPAN - _SPAN // 2
        if abs(ahead) > RESTART and not self._held:
            self._next, ahead = number, 0
        return ahead

    def _skip(self) -> list[memoryview]:
        """Go on behind the gap."""
        assert self._next is not None
        begin = self._next
        self._next = min(self._held, key=lambda number: (number - begin) % _SPAN)
        return self._run()

    def _run(self) -> list[memoryview]:
        passed: list[memoryview] = []
        assert self._next is not None
        while (entry := self._held.pop(self._next, None)) is not None:
            passed += entry[0]
            self._held_bytes -= entry[1]
            self._next = (self._next + 1) % _SPAN
        if not self._held:
            self._until = inf
        return passed
