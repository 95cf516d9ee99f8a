"""Receive buffers, lent to a connection for as long as it has half a frame in one."""

from __future__ import annotations

RECEIVE_BUFFER_BYTES = 1 << 20  # measured: 256 KiB to 2 MiB make no difference, 64 KiB costs a tenth
SPARE_BUFFERS = 4  # receive buffers kept for the next reader


class ReceiveBuffers:
    """Buffers of one process. They stay: a new one would fault in page by page."""

    def __init__(self) -> None:
        self._spare: list[tuple[bytearray, memoryview]] = []
        self.lent = 0

    def take(self) -> tuple[bytearray, memoryview]:
        """A buffer, and the view of all of it."""
        self.lent += 1
        if self._spare:
            return self._spare.pop()
        buffer = bytearray(RECEIVE_BUFFER_BYTES)
        return buffer, memoryview(buffer)

    def give_back(self, buffer: bytearray, view: memoryview) -> None:
        self.lent -= 1
        if len(self._spare) < SPARE_BUFFERS:
            self._spare.append((buffer, view))
