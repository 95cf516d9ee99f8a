"""Whether two devices use one key, in turns: a copied configuration, or the image of a disk. Pure.

Each process draws an instance when it starts, and says it in every handshake message, inside the Noise
payload. One that starts again has a new instance and never the old one. So a key whose instances come back
(A, B, A) is used by two processes that both live. Nothing else brings an old instance back: an initiation
that is sent again is refused by its counter, and a response belongs to one attempt of ours.

The device itself cannot see that; its peers tell it (record SHARED_KEY).
"""

from __future__ import annotations

from nconnect.tunnel.timers import NEVER

MAX_INSTANCES = 8  # of one key that are remembered: as many restarts of the one while the other is silent
REMEMBERED_S = 180.0  # after the last sign of it: two that take turns give one every few seconds


class SharedKey:
    """Of one peer: what we know of its key, and what it says of ours. Times are CLOCK_BOOTTIME seconds."""

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
