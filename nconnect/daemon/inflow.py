"""Packets that wait to be written into the TUN, because a source sent more than a turn of the loop may take.

Pure. A packet that the kernel refuses costs 20 us, so one message with 7,000 of them holds the loop up for
0.15 s, and other peers' packets with it. Each source has a queue of its own, and they take turns; what a
queue has no room for is dropped, as a network would do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

TURN_PACKETS = 1024  # guessed: 20 ms at most where the kernel refuses all; a batch of bulk has 190
# Guessed, at 20 us a packet: one source delays others by 80 ms at most, all together by a few times that.
MAX_PACKETS, MAX_BYTES = 4096, 4 << 20  # of one source
MAX_ALL_BYTES = 32 << 20


class Inflow:
    """What a turn may still write, and the queues by source.

    A source is the NKN address of the peer under whose keys the packets came.
    """

    def __init__(self) -> None:
        self.left = TURN_PACKETS  # how many packets may still be written in this turn of the loop
        self.is_counted = False  # whether the driver waits for the end of this turn
        self.waiting = False  # whether there is anything: an attribute, for the hot path
        self._queues: dict[str, deque[bytes]] = {}  # in the order of their turns
        self._bytes: dict[str, int] = {}

    def holds(self, source: str) -> bool:
        """Whether packets of this source wait, so that later ones have to wait behind them."""
        return source in self._queues

    def put(self, source: str, packets: Sequence[memoryview]) -> int:
        """Keep copies of packets; returns how many were dropped for want of room."""
        queue = self._queues.setdefault(source, deque())
        room = min(MAX_BYTES - self._bytes.get(source, 0), MAX_ALL_BYTES - sum(self._bytes.values()))
        taken = size = 0
        for packet in packets[: MAX_PACKETS - len(queue)]:
            if size + len(packet) > room:
                break
            queue.append(bytes(packet))
            size += len(packet)
            taken += 1
        self._bytes[source] = self._bytes.get(source, 0) + size
        if not queue:
            self._forget(source)
        self.waiting = bool(self._queues)
        return len(packets) - taken

    def take(self, count: int) -> list[memoryview]:
        """Take at most `count` packets: equal shares of all sources, each in the order of arrival."""
        taken: list[memoryview] = []
        while self._queues and count > 0:
            share = max(1, count // len(self._queues))
            for source in list(self._queues)[:count]:
                queue = self._queues.pop(source)
                for _ in range(min(share, len(queue))):
                    packet = queue.popleft()
                    self._bytes[source] -= len(packet)
                    taken.append(memoryview(packet))
                    count -= 1
                if queue:
                    self._queues[source] = queue  # behind the others
                else:
                    self._forget(source)
        self.waiting = bool(self._queues)
        return taken

    def _forget(self, source: str) -> None:
        self._queues.pop(source, None)
        self._bytes.pop(source, None)
