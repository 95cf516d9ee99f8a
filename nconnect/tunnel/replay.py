"""Which counters of a direction have come already: nothing is accepted twice."""

from __future__ import annotations

from nconnect.tunnel.constants import REPLAY_WINDOW

_BLOCK_BITS = 64
_FULL = (1 << _BLOCK_BITS) - 1


class ReplayWindow:
    """Accepts each counter at most once, and none that is `size` or more below the newest.

    `size` is a multiple of 64. RFC 6479's blocks of bits, here one integer a block. Call `is_fresh` before
    the message is opened, and `mark` only after it proved authentic.
    """

    __slots__ = ("_blocks", "_size", "newest")

    def __init__(self, size: int = REPLAY_WINDOW) -> None:
        self.newest = -1  # a counter above it is fresh
        self._size = size
        # One block more than the window: the newest is partly filled.
        self._blocks = [0] * (size // _BLOCK_BITS + 1)

    def is_fresh(self, counter: int) -> bool:
        newest = self.newest
        if counter > newest:
            return True
        if counter + self._size <= newest:
            return False
        blocks = self._blocks
        block = blocks[counter // _BLOCK_BITS % len(blocks)]
        return not block >> counter % _BLOCK_BITS & 1

    def mark(self, counter: int) -> None:
        """Remember a counter that `is_fresh` accepted."""
        block = counter // _BLOCK_BITS
        blocks, newest = self._blocks, self.newest
        count = len(blocks)
        if counter > newest:
            first = newest // _BLOCK_BITS + 1 if newest >= 0 else 0
            if block >= first:
                for passed in range(max(first, block - count + 1), block + 1):
                    blocks[passed % count] = 0
            self.newest = counter
        blocks[block % count] |= 1 << counter % _BLOCK_BITS

    def mark_run(self, first: int, count: int) -> None:
        """Remember `count` counters from `first` on, all above `newest`."""
        self.mark(first)
        last = first + count - 1
        blocks = self._blocks
        block, last_block = first // _BLOCK_BITS, last // _BLOCK_BITS
        bits = -1 << first % _BLOCK_BITS & _FULL
        while block < last_block:
            blocks[block % len(blocks)] |= bits
            block, bits = block + 1, _FULL
            blocks[block % len(blocks)] = 0
        blocks[block % len(blocks)] |= bits & ((2 << last % _BLOCK_BITS) - 1)
        self.newest = last
