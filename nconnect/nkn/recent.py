"""The messages of the last five minutes, bounded in number, to recognise copies.

A message arrives more than once if its sender has several links, if a node delivers held mail again, or if an
address is logged in twice. (The official SDKs also remember ids for five minutes. Here the key includes the
sender, so that nobody can make another sender's message look like an old one.)
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

KEEP_S = 300.0  # the official SDKs' msgCacheExpiration
MAX_IDS = 65_536  # about 150 bytes each; guessed: 200 messages a second are remembered for five minutes


class RecentIds:
    """A set of (who, id) that forgets what is old, and the oldest when there are too many."""

    __slots__ = ("_keep_s", "_most", "_seen_at")

    def __init__(self, *, keep_s: float = KEEP_S, most: int = MAX_IDS) -> None:
        self._keep_s = keep_s
        self._most = most
        self._seen_at: OrderedDict[bytes, float] = OrderedDict()  # oldest first

    def __len__(self) -> int:
        return len(self._seen_at)

    def add(self, who: str, id: bytes, now: float) -> bool:
        """Remember it; False if it was known already."""
        self._forget_old(now)
        key = _key(who, id)
        if key in self._seen_at:
            return False
        if len(self._seen_at) >= self._most:
            self._seen_at.popitem(last=False)
        self._seen_at[key] = now
        return True

    def has(self, who: str, id: bytes, now: float) -> bool:
        self._forget_old(now)
        return _key(who, id) in self._seen_at

    def _forget_old(self, now: float) -> None:
        seen_at = self._seen_at
        while seen_at and now - next(iter(seen_at.values())) >= self._keep_s:
            seen_at.popitem(last=False)


def _key(who: str, id: bytes) -> bytes:
    """16 bytes, however long the two are."""
    return blake2b(b"%d:%b" % (len(id), id) + who.encode(), digest_size=16).digest()
