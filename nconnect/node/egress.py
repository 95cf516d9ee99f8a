"""What waits for one client's socket: a bounded queue, fair between the sources.

Used only while the socket takes nothing more; as long as it does, messages go to it directly from the
buffer in which they arrived. Here they are copies, and each belongs to the queue until it is sent or
dropped. Drop policy: over the client's own bound the oldest message of the source that fills it most;
over the node's bound, when this queue already holds as much as is left for all, the newcomer. Nothing is
dropped for its age: docs/decisions/0019-no-codel-in-the-node.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from nconnect.errors import DropReason
from nconnect.node.settings import NodeDrop
from nconnect.queueing.fq_codel import FairQueue

# RFC 8290 speaks of packets of 1500 bytes; here a message is a batch of up to some hundred kilobytes.
QUANTUM_BYTES = 64 << 10

_REASONS = {
    DropReason.QUEUE_FULL: NodeDrop.QUEUE_FULL,
    DropReason.LINK_DOWN: NodeDrop.CLIENT_GONE,
}


@dataclass(slots=True)
class Pool:
    """The bytes held back by all queues of a node together, and their bound."""

    limit_bytes: int
    used_bytes: int = 0


class Egress:
    """The queue in front of one client's socket. `dropped(reason)` is called for each message lost."""

    __slots__ = ("_counted_bytes", "_dropped", "_pool", "_queue")

    def __init__(self, limit_bytes: int, pool: Pool, dropped: Callable[[NodeDrop], None]) -> None:
        self._queue: FairQueue[bytes] = FairQueue(
            max_bytes=limit_bytes,
            quantum_bytes=QUANTUM_BYTES,
            target_s=inf,
            on_drop=self._on_drop,
        )
        self._pool = pool
        self._dropped = dropped
        self._counted_bytes = 0  # of ours in the pool

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def size_bytes(self) -> int:
        return self._queue.bytes_held

    def put(self, source: int, message: bytes, now: float) -> None:
        """Hold one message of the source numbered so; count what had to be dropped for it."""
        pool = self._pool
        if self._counted_bytes + len(message) > pool.limit_bytes - pool.used_bytes:
            self._dropped(NodeDrop.NODE_FULL)
            return
        self._queue.enqueue(source, message, len(message), now)
        self._settle()

    def take(self, now: float) -> bytes | None:
        """The next message to send, or None when nothing is left."""
        message = self._queue.dequeue(now)
        self._settle()
        return message

    def clear(self) -> None:
        """Drop everything, since the client is gone."""
        self._queue.clear(DropReason.LINK_DOWN)
        self._settle()

    def _settle(self) -> None:
        """Bring the pool's account up to date."""
        held = self._queue.bytes_held
        self._pool.used_bytes += held - self._counted_bytes
        self._counted_bytes = held

    def _on_drop(self, message: bytes, reason: DropReason) -> None:
        self._dropped(_REASONS[reason])
