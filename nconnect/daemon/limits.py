"""What bounds a peer at the moment: who is shut, why, and what the peer is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nconnect.control.schema import PausedStatus
from nconnect.daemon.usage import Usage
from nconnect.offers.statement import Rate
from nconnect.tunnel.peer import Peer


class PeerLimits:
    """One interface's."""

    def __init__(self, peers: Callable[[], Iterable[Peer]], usage: Usage) -> None:
        self.told: dict[str, str] = {}  # why a peer (NKN address) refuses what we open, as it says
        self._peers = peers
        self._usage = usage

    def shut(self) -> frozenset[str]:
        """The NKN addresses of the peers that are shut, besides those that the configuration pauses."""
        return self._usage.spent() | {peer.dest for peer in self._peers() if peer.expired}

    def paused(self, peer: Peer) -> PausedStatus | None:
        """Why connections with a peer are refused for now, for `status`."""
        if peer.config.paused is not None:
            return PausedStatus(peer.config.paused, "self")
        if why := self._usage.why_spent(peer):
            return PausedStatus(why, "quota")
        if (told := self.told.get(peer.dest)) is not None:
            return PausedStatus(told, "peer")
        return None

    def terms(self, peer: Peer) -> tuple[str | None, Rate | None]:
        """What the peer is told: why it is paused (None: it is not), and the rates that it has here."""
        why = peer.config.paused
        if why is None:
            why = self._usage.why_spent(peer) or None
        rate = peer.config.rate
        return why, None if rate is None else Rate(rate, rate)
