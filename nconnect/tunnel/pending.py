"""Unknown addresses that tried to reach us, for somebody to let them in. Pure, and bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nconnect.tunnel.constants import MAX_PENDING_SENDERS

MAX_SOURCE_CHARS = 256  # of an address


@dataclass(slots=True)
class PendingSender:
    """One of them. Times are the core's."""

    address: str
    first_at: float
    last_at: float
    count: int


class PendingSenders:
    """All of them, in the order in which they came."""

    def __init__(self) -> None:
        self._senders: dict[str, PendingSender] = {}

    def __len__(self) -> int:
        return len(self._senders)

    def __iter__(self) -> Iterator[PendingSender]:
        return iter(self._senders.values())

    def tried(self, address: str, now: float) -> None:
        """Something came from this address."""
        if len(address) > MAX_SOURCE_CHARS:
            return
        sender = self._senders.get(address)
        if sender is not None:
            sender.last_at, sender.count = now, sender.count + 1
            return
        if len(self._senders) >= MAX_PENDING_SENDERS:
            # The one that tried least, and not lately: who goes on trying stays, whoever else comes.
            least = min(self, key=lambda sender: (sender.count, sender.last_at))
            del self._senders[least.address]
        self._senders[address] = PendingSender(address, now, now, 1)

    def forget(self, address: str) -> None:
        """It is a peer now."""
        self._senders.pop(address, None)
