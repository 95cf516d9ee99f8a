"""Mail for clients that are offline: kept until they log in, or until its sender's time is over. Pure.

A message stands in one **mailbox**, its destination's, in the order in which it came. What is kept is bounded
four ways. Drop policy: over a mailbox's bounds (bytes, messages) the oldest message of the sender that
fills it most goes, so that a flood pushes out itself first; over one host's share of the node, or over the
node's bound, the newcomer is refused, so that nobody can push out other people's mail.

Nothing is handed out after its time, whenever `expire` was last called. Times are seconds of the node's
clock. The mail is in memory alone: it ends with the node.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from nconnect.node.settings import NodeDrop

OVERHEAD_BYTES = 512  # of one message besides its payload and its sender's name (measured: about 400)
HOST_SHARE = 4  # one host may fill a quarter of what the node keeps


@dataclass(slots=True)
class Held:
    """One message that waits. `src` is its sender's address."""

    src: str
    payload: bytes
    host: str  # on whose account it is: what `limits.limit_key` makes of the sender's IP address
    expires_at: float
    number: int = 0

    @property
    def size_bytes(self) -> int:
        """What it costs us."""
        return len(self.payload) + len(self.src) + OVERHEAD_BYTES


class Holding:
    """All mailboxes of a node. `dropped(reason)` is called for each message that is lost."""

    def __init__(
        self,
        *,
        limit_bytes: int,
        mailbox_bytes: int,
        mailbox_messages: int,
        dropped: Callable[[NodeDrop], None],
    ) -> None:
        self.held_bytes = 0
        self.held_messages = 0
        self._limit_bytes = limit_bytes
        self._mailbox_bytes = mailbox_bytes
        self._mailbox_messages = mailbox_messages
        self._dropped = dropped
        self._mailboxes: dict[str, _Mailbox] = {}
        self._hosts: dict[str, int] = {}  # bytes on each host's account
        self._count = 0
        # (expires_at, number, address): entries of messages that are gone are skipped in their turn.
        self._ends: list[tuple[float, int, str]] = []

    def put(self, dest: str, held: Held, now: float) -> bool:
        """Keep a message for `dest`; False (counted) when there is no room for it."""
        size = held.size_bytes
        if self.held_bytes + size > self._limit_bytes:
            self.expire(now)
        account = self._hosts.get(held.host, 0) + size
        over = self.held_bytes + size > self._limit_bytes or account > self._limit_bytes // HOST_SHARE
        if over or size > self._mailbox_bytes:
            self._dropped(NodeDrop.HOLDING_FULL)
            return False
        self._count += 1
        held.number = self._count
        mailbox = self._mailboxes.setdefault(dest, _Mailbox())
        mailbox.add(held)
        self._account(held, 1)
        heapq.heappush(self._ends, (held.expires_at, held.number, dest))
        while mailbox.size_bytes > self._mailbox_bytes or len(mailbox.messages) > self._mailbox_messages:
            self._account(mailbox.shed(), -1)
            self._dropped(NodeDrop.HOLDING_FULL)
        if len(self._ends) > 2 * self.held_messages + 1024:
            waiting = {h.number for box in self._mailboxes.values() for h in box.messages}
            self._ends = sorted(end for end in self._ends if end[1] in waiting)
        return True

    def waits(self, dest: str) -> bool:
        """Whether there is anything in the mailbox."""
        return dest in self._mailboxes

    def take(self, dest: str, now: float) -> Held | None:
        """The oldest message for `dest`, which is the caller's from now on; None when there is no more."""
        while (mailbox := self._mailboxes.get(dest)) is not None:
            held = mailbox.pop()
            self._removed(dest, mailbox, held)
            if held.expires_at > now:
                return held
            self._dropped(NodeDrop.HELD_TOO_LONG)
        return None

    def put_back(self, dest: str, held: Held) -> None:
        """Undo `take`: the message stands first again."""
        self._mailboxes.setdefault(dest, _Mailbox()).add(held, first=True)
        self._account(held, 1)
        heapq.heappush(self._ends, (held.expires_at, held.number, dest))

    def next_end(self) -> float | None:
        """When the next message may have waited long enough; None when nothing waits."""
        if not self.held_messages:
            return None
        return self._ends[0][0]

    def expire(self, now: float) -> None:
        """Forget what has waited for its time."""
        while self._ends and self._ends[0][0] <= now:
            _, number, dest = heapq.heappop(self._ends)
            mailbox = self._mailboxes.get(dest)
            held = mailbox.remove(number) if mailbox is not None else None
            if mailbox is not None and held is not None:
                self._removed(dest, mailbox, held)
                self._dropped(NodeDrop.HELD_TOO_LONG)

    def _removed(self, dest: str, mailbox: _Mailbox, held: Held) -> None:
        self._account(held, -1)
        if not mailbox.messages:
            del self._mailboxes[dest]
        if not self.held_messages:
            self._ends.clear()

    def _account(self, held: Held, sign: int) -> None:
        size = held.size_bytes
        self.held_bytes += sign * size
        self.held_messages += sign
        left = self._hosts.get(held.host, 0) + sign * size
        if left:
            self._hosts[held.host] = left
        else:
            del self._hosts[held.host]


class _Mailbox:
    """One destination's messages, oldest first, and how much of it is whose."""

    __slots__ = ("_sources", "messages", "size_bytes")

    def __init__(self) -> None:
        self.messages: deque[Held] = deque()
        self.size_bytes = 0
        self._sources: dict[str, int] = {}

    def add(self, held: Held, *, first: bool = False) -> None:
        if first:
            self.messages.appendleft(held)
        else:
            self.messages.append(held)
        self.size_bytes += held.size_bytes
        self._sources[held.src] = self._sources.get(held.src, 0) + held.size_bytes

    def pop(self) -> Held:
        held = self.messages.popleft()
        self._forget(held)
        return held

    def remove(self, number: int) -> Held | None:
        for held in self.messages:
            if held.number == number:
                self.messages.remove(held)
                self._forget(held)
                return held
        return None

    def shed(self) -> Held:
        """Remove the oldest message of the sender that holds most."""
        fattest = max(self._sources, key=self._sources.__getitem__)
        held = next(h for h in self.messages if h.src == fattest)
        self.messages.remove(held)
        self._forget(held)
        return held

    def _forget(self, held: Held) -> None:
        self.size_bytes -= held.size_bytes
        left = self._sources[held.src] - held.size_bytes
        if left:
            self._sources[held.src] = left
        else:
            del self._sources[held.src]
