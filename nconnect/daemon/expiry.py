"""The end of a peer's access: what is in force after it, and the warning before it.

The warning begins a tenth of the time before, at most seven days. The configuration's file says when access
ends, not since when that is so; the daemon notes in its state folder when it first saw each `expires`, which
is at once where it runs while `peer set` is used, else when it starts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime

from nconnect.errors import HostError, NconnectError
from nconnect.io.files.state import StateStore
from nconnect.model import PeerConfig

log = logging.getLogger(__name__)

NAME = "expiries"  # of the file in the state folder: {NKN address: [expires_at, first seen at]}
LONGEST_WARNING_S = 7 * 86_400.0
WARNING_SHARE = 0.1
LOOK_AGAIN_S = 3600.0  # the wall clock may be set in the meantime


def warning_from(expires_at: float, since: float) -> float:
    """When the warning begins, for an end of access that was set at `since`."""
    return expires_at - min(LONGEST_WARNING_S, WARNING_SHARE * max(0.0, expires_at - since))


class ExpiryNotices:
    """Which peers' access ends soon. Times are seconds since the Unix epoch."""

    def __init__(self, store: StateStore, peers: Iterable[PeerConfig], wall: Callable[[], float]) -> None:
        """Reads the store, and so blocks."""
        self._store = store
        self._wall = wall
        self._peers: dict[str, PeerConfig] = {}
        self._kept = self._since = _checked(store.load(NAME))
        self._logged: set[tuple[str, float]] = set()
        self.moved = asyncio.Event()  # set when a peer has expired, or may pass again
        self.set_peers(peers)

    def set_peers(self, peers: Iterable[PeerConfig]) -> None:
        """The peers as they are from now on."""
        self.moved.set()
        now = self._wall()
        self._peers = {str(p.address): p for p in peers if p.expires_at is not None}
        since: dict[str, tuple[float, float]] = {}
        for address, peer in self._peers.items():
            assert peer.expires_at is not None
            at, seen = self._since.get(address, (0.0, 0.0))
            since[address] = (at, seen) if at == peer.expires_at else (peer.expires_at, now)
        self._since = since

    def warnings(self) -> list[str]:
        """A sentence for each peer whose access ends soon, in the file's order."""
        now = self._wall()
        return [
            _sentence(peer.name, expires_at)
            for address, peer in self._peers.items()
            for expires_at, since in [self._since[address]]
            if warning_from(expires_at, since) <= now < expires_at
        ]

    async def watch(self, follow: Callable[[], Awaitable[None]]) -> None:
        """Warn before a peer's access ends; then `follow` updates the rules and ends its connections."""
        while True:
            wait_s = self.log_new()
            try:
                async with asyncio.timeout(wait_s):
                    await self.moved.wait()
            except TimeoutError:
                continue
            self.moved.clear()
            await self.save()
            try:
                await follow()
            except NconnectError as error:
                log.error("the rules of expired peers: %s", error)

    async def save(self) -> None:
        """Store when each end of access was first seen, if that has changed."""
        if self._since != self._kept:
            self._kept = self._since
            kept = {address: list(pair) for address, pair in self._since.items()}
            try:
                await asyncio.to_thread(self._store.save, NAME, kept)
            except HostError as error:
                log.warning("%s", error)

    def log_new(self) -> float:
        """Log each warning once; returns how many seconds to wait before the next call."""
        now = self._wall()
        wait = LOOK_AGAIN_S
        for address, peer in self._peers.items():
            expires_at, since = self._since[address]
            begins = warning_from(expires_at, since)
            if now < begins:
                wait = min(wait, begins - now)
            elif now < expires_at and (address, expires_at) not in self._logged:
                self._logged.add((address, expires_at))
                log.warning("%s", _sentence(peer.name, expires_at))
        return max(0.05, wait)


def _sentence(name: str, expires_at: float) -> str:
    when = datetime.fromtimestamp(expires_at, UTC)
    return f"the access of {name} ends at {when:%Y-%m-%d %H:%M} UTC: `nconnect peer set {name} --access 30d`"


def _checked(stored: object) -> dict[str, tuple[float, float]]:
    """The stored value, without entries of the wrong form."""
    found: dict[str, tuple[float, float]] = {}
    if isinstance(stored, dict):
        for address, pair in stored.items():
            if isinstance(pair, list) and len(pair) == 2 and all(type(n) in (int, float) for n in pair):
                found[str(address)] = (float(pair[0]), float(pair[1]))
    return found
