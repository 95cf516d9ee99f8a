"""The messages that wait for one client's socket: a bounded queue, fair between their senders' addresses.

It is used only while the socket is full; otherwise messages go to it directly from the buffer in which they
arrived. Here they are copies, owned by the queue until they are sent or dropped. Senders' addresses take
turns by bytes (deficit round robin), and so do the senders at one address; an address that was idle goes
first. Each message counts as `MESSAGE_BYTES` more than its size, for turns and for bounds: that is what
storing it costs, and small messages must not give a sender more than its turn.

Drop policy: beyond the client's own bound, the oldest message of the largest sender at the largest address is
dropped. If the clients at the receiving address hold as much as is left for all others, the new message is
dropped. Nothing is dropped because of its age: docs/decisions/0019-no-codel-in-the-node.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Generic, Protocol, TypeVar

from nconnect.errors import DropReason
from nconnect.node.settings import NodeDrop
from nconnect.queueing.fq_codel import FairQueue

# RFC 8290 assumes packets of 1500 bytes; here a message is a batch of up to some hundred kilobytes.
_QUANTUM_BYTES = 64 << 10
MESSAGE_BYTES = 512  # measured: 230 bytes of memory per message, besides the message itself

_REASONS = {
    DropReason.QUEUE_FULL: NodeDrop.QUEUE_FULL,
    DropReason.LINK_DOWN: NodeDrop.CLIENT_GONE,
}


@dataclass(slots=True)
class Pool:
    """The bytes that wait for all clients of a node, and their bound."""

    limit_bytes: int
    used_bytes: int = 0

    @property
    def is_over(self) -> bool:
        return self.used_bytes > self.limit_bytes


@dataclass(slots=True)
class Account:
    """How much of the pool the clients at one address use."""

    pool: Pool
    used_bytes: int = 0

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes may wait: an address may use at most as much as it leaves for others."""
        return self.used_bytes + size <= self.pool.limit_bytes - self.pool.used_bytes

    def add(self, size: int) -> None:
        self.used_bytes += size
        self.pool.used_bytes += size


class Sized(Protocol):
    """A message."""

    def __len__(self) -> int: ...


_T = TypeVar("_T", bound=Sized)


@dataclass(slots=True)
class _Source(Generic[_T]):
    """The waiting messages of one sending address, in a queue per sender."""

    number: int
    queue: FairQueue[_T]
    deficit: int = _QUANTUM_BYTES


@dataclass(slots=True)
class Egress(Generic[_T]):
    """The queue in front of one client's socket, or of the other nodes of a cluster.

    `dropped(reason)` is called for each message lost.
    """

    limit_bytes: int
    account: Account
    dropped: Callable[[NodeDrop], None]
    size_bytes: int = 0  # of the messages, each with `MESSAGE_BYTES`
    _sources: dict[int, _Source[_T]] = field(default_factory=dict)  # those in `_new` or `_old`
    _new: deque[_Source[_T]] = field(default_factory=deque)
    _old: deque[_Source[_T]] = field(default_factory=deque)

    def __len__(self) -> int:
        return sum(len(source.queue) for source in self._sources.values())

    def put(self, source: int, sender: int, message: _T, now: float) -> None:
        """Queue one message of a sender at a source, both given by number; report what is dropped for it."""
        size = len(message) + MESSAGE_BYTES
        if not self.account.has_room(size):
            self.dropped(NodeDrop.NODE_FULL)
            return
        waiting = self._sources.get(source)
        if waiting is None:
            queue = FairQueue[_T](
                max_bytes=self.limit_bytes, quantum_bytes=_QUANTUM_BYTES, target_s=inf, on_drop=self._on_drop
            )
            waiting = self._sources[source] = _Source(source, queue)
            self._new.append(waiting)
        self._change(waiting, lambda queue: queue.enqueue(sender, message, size, now))
        while self.size_bytes > self.limit_bytes:
            fattest = max(self._sources.values(), key=lambda s: s.queue.bytes_held)
            goal = fattest.queue.bytes_held - (self.size_bytes - self.limit_bytes)
            self._change(fattest, lambda queue, goal=goal: queue.shrink(goal))  # type: ignore[misc]

    def take(self, now: float) -> _T | None:
        """The next message to send, or None when nothing is left. (RFC 8290, section 4.2, by source.)"""
        new, old = self._new, self._old
        while self._sources:
            turn = new or old
            source = turn[0]
            if source.deficit <= 0:
                source.deficit += _QUANTUM_BYTES
                old.append(turn.popleft())
                continue
            before = source.queue.bytes_held
            message = source.queue.dequeue(now)
            if message is not None:
                size = before - source.queue.bytes_held
                source.deficit -= size
                self.size_bytes -= size
                self.account.add(-size)
                if not self.size_bytes:
                    self._forget()
                return message
            turn.popleft()
            if turn is new and old:
                old.append(source)  # it must not become new again at once (RFC 8290, section 4.2)
            else:
                del self._sources[source.number]
        return None

    def clear(self, reason: DropReason = DropReason.LINK_DOWN) -> None:
        """Drop everything for this reason; by default because the client is gone."""
        for source in self._sources.values():
            self._change(source, lambda queue: queue.clear(reason))
        self._forget()

    def _forget(self) -> None:
        self._sources.clear()
        self._new.clear()
        self._old.clear()

    def _change(self, source: _Source[_T], change: Callable[[FairQueue[_T]], None]) -> None:
        """Apply `change` to a source's queue, and update all accounts."""
        before = source.queue.bytes_held
        change(source.queue)
        grown = source.queue.bytes_held - before
        self.size_bytes += grown
        self.account.add(grown)

    def _on_drop(self, message: _T, reason: DropReason) -> None:
        self.dropped(_REASONS[reason])
