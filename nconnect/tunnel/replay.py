"""The replay window: each counter is accepted once (RFC 6479's blocks, here one integer a block)."""

from __future__ import annotations

from nconnect.tunnel.constants import REPLAY_WINDOW

_BLOCK_BITS = 64
_BLOCKS = REPLAY_WINDOW // _BLOCK_BITS + 1  # one more than the window: the newest block is partly filled


class ReplayWindow:
    """Accepts each counter at most once, and none that is `REPLAY_WINDOW` or more below the newest.

    Call `is_fresh` before the message is opened, and `mark` only after it proved authentic.
    """

    __slots__ = ("_blocks", "newest")

    def __init__(self) -> None:
        self.newest = -1  # a counter above it is fresh
        self._blocks = [0] * _BLOCKS

    def is_fresh(self, counter: int) -> bool:
        newest = self.newest
        if counter > newest:
            return True
        if counter + REPLAY_WINDOW <= newest:
            return False
        block = self._blocks[counter // _BLOCK_BITS % _BLOCKS]
        return not block >> counter % _BLOCK_BITS & 1

    def mark(self, counter: int) -> None:
        """Remember a counter that `is_fresh` accepted."""
        block = counter // _BLOCK_BITS
        newest = self.newest
        if counter > newest:
            first = newest // _BLOCK_BITS + 1 if newest >= 0 else 0
            if block >= first:
                for passed in range(max(first, block - _BLOCKS + 1), block + 1):
                    self._blocks[passed % _BLOCKS] = 0
            self.newest = counter
        self._blocks[block % _BLOCKS] |= 1 << counter % _BLOCK_BITS
