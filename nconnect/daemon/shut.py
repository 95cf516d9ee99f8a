"""Peers that are shut: nothing may be opened from there, nor to there, for a while or for good.

A peer is shut when its access has ended (`expires`), when a person paused it (`paused`), and when its quota
is used up. Its routes stay, so that what is meant for the tunnel does not leave another way. A paused peer's
session stays too: refusals reach it, and it is told why.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from nconnect.model import Config


def all_shut(config: Config, shut: Collection[str]) -> frozenset[str]:
    """The NKN addresses in `shut`, and those of the peers that the configuration pauses."""
    return frozenset(shut) | {str(peer.address) for peer in config.peers if peer.paused is not None}


def with_shut(config: Config, shut: Collection[str]) -> Config:
    """The configuration that the host's rules are made from: these peers are paused, and reach nothing."""
    shut = all_shut(config, shut)
    peers = (
        replace(p, allow=(), paused=p.paused or "") if str(p.address) in shut else p for p in config.peers
    )
    return replace(config, peers=tuple(peers)) if shut else config
