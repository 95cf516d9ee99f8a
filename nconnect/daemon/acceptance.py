"""What peers offer, and what of it is in force: kept over restarts, and decided anew when something changes.

`resolve` and `keep` run in a thread; the rest on the loop.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

from nconnect.errors import HostError
from nconnect.host.facts import HostFacts
from nconnect.invite.table import PeerTable
from nconnect.io.files.state import StateStore
from nconnect.model import Prefix
from nconnect.offers import kept
from nconnect.offers.accept import Accepted, AcceptedPeer, accept

log = logging.getLogger(__name__)


class Acceptance:
    """One interface's. `peers`: what is in force now, by the peer's name."""

    def __init__(self, store: StateStore) -> None:
        """Reads the state folder. Raises `HostError` when it cannot be read."""
        self.peers: Mapping[str, AcceptedPeer] = {}
        self._store = store
        self._stored = store.load(kept.STORED)
        kept_then, offered_then = kept.read(self._stored)
        self._kept, self._offered = kept_then, dict(offered_then)

    def offered(self, peer: str, subnets: Iterable[Prefix], *, is_joined: bool) -> bool:
        """A peer (NKN address) has said which subnets it offers; whether that is new.

        Of one that this device has joined, something is in force before it says anything: its invitation's.
        """
        fresh = tuple(subnets)
        if fresh == self._offered.get(peer, None if is_joined else ()):
            return False
        self._offered[peer] = fresh
        return True

    def resolve(self, table: PeerTable, facts: HostFacts) -> tuple[PeerTable, Accepted]:
        """The file's table as it is to be in force."""
        offered = dict(self._offered)  # the loop may add to it meanwhile
        found = accept(table.config, facts, offered, self._kept, table.invited)
        return replace(table, config=found.config), found

    def keep(self, found: Accepted) -> None:
        """This is in force: remember it. A full disk is a problem for `status`, not an error."""
        self.peers, self._kept = found.peers, found.kept
        here = {str(peer.address) for peer in found.config.peers}
        for gone in [peer for peer in list(self._offered) if peer not in here]:
            self._offered.pop(gone, None)
        value = kept.written(self._kept, dict(self._offered))
        if value != self._stored and (value["peers"] or self._stored is not None):
            try:
                self._store.save(kept.STORED, value)
                self._stored = value
            except HostError as error:
                log.warning("%s", error)
