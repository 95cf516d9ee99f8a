"""Detects that two devices use the same key: a copied configuration, or the image of a disk. Pure.

Each process draws a random instance when it starts, and sends it in every handshake message, inside the Noise
payload. A process that restarts has a new instance, and never the old one. So if a key's instances alternate
(A, B, A), two live processes use it. Nothing else brings an old instance back: a replayed initiation is
refused by its counter, and a response belongs to one attempt of ours.

A device cannot detect this for its own key; its peers tell it (record SHARED_KEY).
"""

from __future__ import annotations

from nconnect.tunnel.timers import NEVER

MAX_INSTANCES = 8  # of one key that are remembered: as many restarts of the one while the other is silent
REMEMBERED_S = 180.0  # after the last sign of it: two that take turns give one every few seconds


class SharedKey:
    """What we know about a peer's key, and what it says about ours. Times are seconds of CLOCK_BOOTTIME."""

    __slots__ = ("_instances", "seen_at", "told_at")

    def __init__(self) -> None:
        self.seen_at = -NEVER  # when the peer's key was last seen to be used by two
        self.told_at = -NEVER  # the same of ours, as the peer says
        self._instances: tuple[bytes, ...] = ()  # the newest last

    def met(self, instance: bytes, now: float) -> None:
        """An authentic handshake message; `instance` is b"" when its sender says none."""
        if not instance or self._instances[-1:] == (instance,):
            return
        others = tuple(known for known in self._instances if known != instance)
        if len(others) < len(self._instances):
            self.seen_at = now
        self._instances = (*others, instance)[-MAX_INSTANCES:]

    def is_peers(self, now: float) -> bool:
        """Whether two devices use the peer's key."""
        return now < self.seen_at + REMEMBERED_S

    def is_ours(self, now: float) -> bool:
        """Whether the peer says that another device uses our key."""
        return now < self.told_at + REMEMBERED_S
