"""Where a websocket's bytes are received: large buffers that connections share, and half frames kept apart.

A connection borrows a large buffer to read into, and gives it back when it has handed on all whole frames. A
bounded number of connections may keep theirs for the rest of a frame that is worth it. All other half frames
lie in buffers of their own that grow with what really arrives: an announced size alone costs nothing.
"""

from __future__ import annotations

RECEIVE_BUFFER_BYTES = 1 << 20  # measured: 256 KiB to 2 MiB make no difference, 64 KiB costs a tenth
SPARE_BUFFERS = 4  # receive buffers kept for the next reader
MAX_LARGE_BUFFERS = 16  # connections that may hold such a buffer while half a frame is in it
_SMALL_BYTES = 4096  # guessed: half a frame under this is not worth a large buffer


class BufferPool:
    """Buffers of one process. They are reused, because a new one would be faulted in page by page."""

    def __init__(self) -> None:
        self.spare: list[tuple[bytearray, memoryview]] = []
        self.lent = 0

    def give_back(self, buffer: bytearray, view: memoryview) -> None:
        self.lent -= 1
        if len(self.spare) < SPARE_BUFFERS:
            self.spare.append((buffer, view))


POOL = BufferPool()


class ReceiveBuffer:
    """What one connection has received and not handed on: `view[start:filled]`, while there is a buffer."""

    __slots__ = ("buffer", "filled", "is_lent", "start", "view")

    def __init__(self) -> None:
        self.buffer: bytearray | None = None
        self.view: memoryview  # of all of the buffer
        self.is_lent = False  # by the pool
        self.start = 0
        self.filled = 0

    @property
    def own_bytes(self) -> int:
        """The size of a buffer that is not the pool's."""
        return 0 if self.buffer is None or self.is_lent else len(self.buffer)

    def borrow(self) -> bytearray:
        """An empty buffer of the pool's."""
        POOL.lent += 1
        if POOL.spare:
            buffer, self.view = POOL.spare.pop()
        else:
            buffer = bytearray(RECEIVE_BUFFER_BYTES)
            self.view = memoryview(buffer)
        self.buffer, self.is_lent = buffer, True
        self.start = self.filled = 0
        return buffer

    def hold(self, data: bytes) -> None:
        """A buffer that is full of `data`."""
        self.buffer, self.is_lent = bytearray(data), False
        self.view = memoryview(self.buffer)
        self.start, self.filled = 0, len(data)

    def make_room(self, needed: int, *, may_lend: bool) -> None:
        """Keep the half frame where it is if its rest fits behind it, else move it to where it does.

        `needed` is its whole size, as far as known. `may_lend`: it may keep a buffer of the pool's.
        """
        buffer = self.buffer
        assert buffer is not None
        start, have = self.start, self.filled - self.start
        worth_it = _SMALL_BYTES < needed <= len(buffer) and may_lend
        if self.is_lent and worth_it and POOL.lent <= MAX_LARGE_BUFFERS:
            if start + needed > len(buffer):
                self.view[:have] = self.view[start : self.filled]
                self.start, self.filled = 0, have
            return
        if not self.is_lent and start == 0 and have < len(buffer):
            return
        target = bytearray(min(needed, max(1024, 2 * have)))
        target[:have] = self.view[start : self.filled]
        if self.is_lent:
            POOL.give_back(buffer, self.view)
            self.is_lent = False
        self.buffer, self.view = target, memoryview(target)
        self.start, self.filled = 0, have

    def release_if_empty(self) -> None:
        if self.buffer is not None and self.start == self.filled:
            if self.is_lent:
                POOL.give_back(self.buffer, self.view)
            self.buffer, self.is_lent = None, False
