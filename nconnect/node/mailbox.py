"""Mail for clients that are offline: kept until they log in, or for as long as the sender asked. Pure.

A message is in the **mailbox** of its destination, in the order of arrival. Bounds and drop policy:

- beyond a mailbox's bounds (bytes, messages), the oldest message of its largest sender at its largest host is
  dropped, so that a flood drops its own messages first, even if it uses many keys;
- beyond one host's share of the node, the new message is refused;
- beyond the node's bound, the oldest message of the largest host is dropped if that holds more than the new
  message's host; otherwise the new message is refused. So no host can keep others out or drop their mail.

No message is delivered after its time, whenever `expire` was last called. Times are seconds of the node's
clock. The mail is in memory only: it is lost when the node ends.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter

from nconnect.node.settings import NodeDrop

ENTRY_OVERHEAD_BYTES = 1024  # measured: a message alone in its mailbox takes about 900 besides its content
HOST_SHARE = 2  # one host may fill half of what the node keeps
EXPIRE_AT_ONCE = 256  # guessed: about a millisecond's work


@dataclass(slots=True, eq=False)
class Held:
    """One message that waits. `src` is its sender's address."""

    src: str
    payload: bytes
    host: str  # whose share it uses: the `limit_key` of the sender's IP address
    expires_at: float
    number: int = 0

    @property
    def size_bytes(self) -> int:
        """What it costs us."""
        return len(self.payload) + len(self.src) + ENTRY_OVERHEAD_BYTES


class OfflineMailbox:
    """All mailboxes of a node. It calls `dropped(reason)` for each message that is lost."""

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
        self._hosts: dict[str, _Host] = {}
        self._count = 0
        # (expires_at, number, address): entries of removed messages are skipped when they are due.
        self._ends: list[tuple[float, int, str]] = []

    def put(self, dest: str, held: Held, now: float) -> bool:
        """Keep a message for `dest`; False (and counted) if there is no room for it."""
        size = held.size_bytes
        if self.held_bytes + size > self._limit_bytes:
            self.expire(now)
        host = self._hosts.get(held.host)
        account = size if host is None else host.size_bytes + size
        if (
            size > self._mailbox_bytes
            or account > self._limit_bytes // HOST_SHARE
            or not self._make_room(size, account)
        ):
            self._dropped(NodeDrop.HOLDING_FULL)
            return False
        self._count += 1
        held.number = self._count
        mailbox = self._mailboxes.setdefault(dest, _Mailbox())
        mailbox.add(held)
        self._add(dest, held)
        while mailbox.size_bytes > self._mailbox_bytes or len(mailbox.messages) > self._mailbox_messages:
            self._removed(dest, mailbox, mailbox.shed())
            self._dropped(NodeDrop.HOLDING_FULL)
        if len(self._ends) > 2 * self.held_messages + 1024:
            waiting = {h.number for box in self._mailboxes.values() for h in box.messages}
            self._ends = sorted(end for end in self._ends if end[1] in waiting)
        return True

    def _make_room(self, size: int, account: int) -> bool:
        """Make room for `size` bytes, for a host that then has `account`, by dropping the largest host's."""
        while self.held_bytes + size > self._limit_bytes:
            most = max(self._hosts.values(), key=attrgetter("size_bytes"), default=None)
            if most is None or most.size_bytes <= account:
                return False
            number, dest = next(iter(most.mail.items()))
            mailbox = self._mailboxes[dest]
            held = mailbox.remove(number)
            assert held is not None, "a host's mail is in a mailbox"
            self._removed(dest, mailbox, held)
            self._dropped(NodeDrop.HOLDING_FULL)
        return True

    def waits(self, dest: str) -> bool:
        """Whether the mailbox contains anything."""
        return dest in self._mailboxes

    def take(self, dest: str, now: float) -> Held | None:
        """Remove and return the oldest message for `dest`; None if there is no more."""
        while (mailbox := self._mailboxes.get(dest)) is not None:
            held = mailbox.pop()
            self._removed(dest, mailbox, held)
            if held.expires_at > now:
                return held
            self._dropped(NodeDrop.HELD_TOO_LONG)
        return None

    def put_back(self, dest: str, held: Held) -> None:
        """Undo `take`: the message is the first one again."""
        self._mailboxes.setdefault(dest, _Mailbox()).add(held, first=True)
        self._add(dest, held)

    def next_end(self) -> float | None:
        """When the next message may expire; None if nothing waits."""
        if not self.held_messages:
            return None
        return self._ends[0][0]

    def expire(self, now: float) -> None:
        """Remove expired messages, at most `EXPIRE_AT_ONCE`; if more remain, `next_end` is still due."""
        for _ in range(EXPIRE_AT_ONCE):
            if not self._ends or self._ends[0][0] > now:
                break
            _, number, dest = heapq.heappop(self._ends)
            mailbox = self._mailboxes.get(dest)
            held = mailbox.remove(number) if mailbox is not None else None
            if mailbox is not None and held is not None:
                self._removed(dest, mailbox, held)
                self._dropped(NodeDrop.HELD_TOO_LONG)

    def _add(self, dest: str, held: Held) -> None:
        self.held_bytes += held.size_bytes
        self.held_messages += 1
        host = self._hosts.setdefault(held.host, _Host())
        host.size_bytes += held.size_bytes
        host.mail[held.number] = dest
        heapq.heappush(self._ends, (held.expires_at, held.number, dest))

    def _removed(self, dest: str, mailbox: _Mailbox, held: Held) -> None:
        """Update the accounts after a message was removed from its mailbox."""
        self.held_bytes -= held.size_bytes
        self.held_messages -= 1
        host = self._hosts[held.host]
        host.size_bytes -= held.size_bytes
        del host.mail[held.number]
        if not host.mail:
            del self._hosts[held.host]
        if not mailbox.messages:
            del self._mailboxes[dest]
        if not self.held_messages:
            self._ends.clear()


@dataclass(slots=True)
class _Host:
    """The mail of all senders at one host."""

    size_bytes: int = 0
    mail: dict[int, str] = field(default_factory=dict)  # number -> destination, oldest first


class _Mailbox:
    """One destination's messages, oldest first, and how much each sender and host has in it."""

    __slots__ = ("messages", "size_bytes")

    def __init__(self) -> None:
        self.messages: deque[Held] = deque()
        self.size_bytes = 0

    def add(self, held: Held, *, first: bool = False) -> None:
        if first:
            self.messages.appendleft(held)
        else:
            self.messages.append(held)
        self.size_bytes += held.size_bytes

    def pop(self) -> Held:
        held = self.messages.popleft()
        self.size_bytes -= held.size_bytes
        return held

    def remove(self, number: int) -> Held | None:
        for held in self.messages:
            if held.number == number:
                self.messages.remove(held)
                self.size_bytes -= held.size_bytes
                return held
        return None

    def shed(self) -> Held:
        """Remove the oldest message of the largest sender at the largest host."""
        hosts, senders = Counter[str](), Counter[tuple[str, str]]()
        for held in self.messages:
            hosts[held.host] += held.size_bytes
            senders[held.host, held.src] += held.size_bytes
        host = max(hosts, key=hosts.__getitem__)
        src = max((s for h, s in senders if h == host), key=lambda s: senders[host, s])
        held = next(h for h in self.messages if h.host == host and h.src == src)
        self.messages.remove(held)
        self.size_bytes -= held.size_bytes
        return held
