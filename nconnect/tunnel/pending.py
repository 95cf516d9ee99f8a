"""The list of unknown addresses that tried to reach us, for a person to admit. Pure, and bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nconnect.tunnel.constants import MAX_PENDING_SENDERS, PENDING_SILENT_S

MAX_SOURCE_CHARS = 256  # of an address


@dataclass(slots=True)
class PendingSender:
    """One of them. Times are the core's."""

    address: str
    first_at: float
    last_at: float
    count: int


class PendingSenders:
    """All of them, in the order of their latest tries."""

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
        sender = self._senders.pop(address, None)
        if sender is not None:
            sender.last_at, sender.count = now, sender.count + 1
            self._senders[address] = sender
            return
        if len(self._senders) >= MAX_PENDING_SENDERS:
            # Keys cost nothing: a newcomer replaces one that has given up, never one that still tries.
            silent = next(iter(self))
            if now - silent.last_at < PENDING_SILENT_S:
                return
            del self._senders[silent.address]
        self._senders[address] = PendingSender(address, now, now, 1)

    def forget(self, address: str) -> None:
        """It is a peer now."""
        self._senders.pop(address, None)
