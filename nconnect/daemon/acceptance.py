"""What peers offer, and what of it is in force: kept over restarts, and decided anew when something changes.

`resolve` and `keep` run in a thread; the rest on the loop.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from nconnect.errors import HostError
from nconnect.host.facts import HostFacts
from nconnect.invite.table import PeerTable
from nconnect.io.files.state import StateStore
from nconnect.model import Prefix
from nconnect.offers.accept import Accepted, AcceptedPeer, Kept, accept

log = logging.getLogger(__name__)

STORED = "routes"  # the value in the state folder


class Acceptance:
    """One interface's. `peers`: what is in force now, by the peer's name."""

    def __init__(self, store: StateStore) -> None:
        """Reads the state folder. Raises `HostError` when it cannot be read."""
        self.peers: Mapping[str, AcceptedPeer] = {}
        self._store = store
        self._stored = store.load(STORED)
        self._kept, self._offered = _read(self._stored)

    def offered(self, peer: str, subnets: Iterable[Prefix]) -> bool:
        """A peer (NKN address) has said which subnets it offers; whether that is new."""
        fresh = tuple(subnets)
        is_new = self._offered.get(peer) != fresh
        self._offered[peer] = fresh
        return is_new

    def resolve(self, table: PeerTable, facts: HostFacts) -> tuple[PeerTable, Accepted]:
        """The file's table as it is to be in force."""
        found = accept(table.config, facts, self._offered, self._kept, table.invited)
        return replace(table, config=found.config), found

    def keep(self, found: Accepted) -> None:
        """This is in force: remember it. A full disk is a problem for `status`, not an error."""
        self.peers, self._kept = found.peers, found.kept
        here = {str(peer.address) for peer in found.config.peers}
        self._offered = {peer: prefixes for peer, prefixes in self._offered.items() if peer in here}
        value = _written(self._kept, self._offered)
        if value != self._stored and (value["peers"] or self._stored is not None):
            try:
                self._store.save(STORED, value)
                self._stored = value
            except HostError as error:
                log.warning("%s", error)


def _written(kept: Kept, offered: Mapping[str, tuple[Prefix, ...]]) -> dict[str, Any]:
    peers: dict[str, Any] = {}
    for peer, seen in kept.items():
        peers.setdefault(peer, {})["seen"] = {str(real): str(prefix) for real, prefix in seen.items()}
    for peer, prefixes in offered.items():
        peers.setdefault(peer, {})["offered"] = [str(prefix) for prefix in prefixes]
    return {"peers": peers}


def _read(stored: object) -> tuple[Kept, dict[str, tuple[Prefix, ...]]]:
    """What was stored; what does not have the right form is left out."""
    kept: dict[str, dict[Prefix, Prefix]] = {}
    offered: dict[str, tuple[Prefix, ...]] = {}
    peers = stored.get("peers") if isinstance(stored, dict) else None
    for peer, value in (peers if isinstance(peers, dict) else {}).items():
        try:
            seen = {ip_network(real): ip_network(prefix) for real, prefix in value.get("seen", {}).items()}
            kept[peer] = {real: prefix for real, prefix in seen.items() if _is_alike(real, prefix)}
            if "offered" in value:
                offered[peer] = tuple(map(ip_network, value["offered"]))
        except (AttributeError, TypeError, ValueError):
            continue
    return kept, offered


def _is_alike(one: Prefix, other: Prefix) -> bool:
    return one.version == other.version and one.prefixlen == other.prefixlen
