"""What bounds a peer at the moment: who is shut, why, and what the peer is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from nconnect.control.schema import PausedStatus
from nconnect.daemon.usage import Usage
from nconnect.model import PeerConfig
from nconnect.offers.statement import Rate, Statement
from nconnect.tunnel.peer import Peer


class PeerLimits:
    """One interface's."""

    def __init__(
        self, peers: Callable[[], Iterable[Peer]], usage: Usage, told: Callable[[str], Statement]
    ) -> None:
        """`told`: what a peer (NKN address) has told last."""
        self._peers = peers
        self._usage = usage
        self._told = told

    def shut(self) -> frozenset[str]:
        """The NKN addresses of the peers that are shut, besides those that the configuration pauses."""
        return self._usage.spent() | {peer.dest for peer in self._peers() if peer.expired}

    def paused(self, peer: Peer) -> PausedStatus | None:
        """Why connections with a peer are refused for now, for `status`."""
        if peer.config.paused is not None:
            return PausedStatus(peer.config.paused, "self")
        if why := self._usage.why_spent(peer.config):
            return PausedStatus(why, "quota")
        told = self._told(peer.dest).paused
        return None if told is None else PausedStatus(told, "peer")

    def terms(self, peer: PeerConfig) -> dict[str, Any]:
        """What the peer is told, as members of a `Statement`: why it is paused, and its rates here.

        May be called in any thread.
        """
        why = peer.paused if peer.paused is not None else self._usage.why_spent(peer) or None
        return {"paused": why, "rate": None if peer.rate is None else Rate(peer.rate, peer.rate)}
