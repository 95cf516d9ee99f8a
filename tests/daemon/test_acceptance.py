from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nconnect.daemon import acceptance as module
from nconnect.daemon.acceptance import Acceptance
from nconnect.host.facts import HostFacts
from nconnect.invite.table import PeerTable
from nconnect.io.files.state import StateStore
from nconnect.model import Prefix
from nconnect.offers.accept import Accepted
from tests.host.examples import USER

LAN = (ip_network("192.168.50.0/24"),)


@pytest.fixture
def kept(tmp_path: Path) -> Acceptance:
    return Acceptance(StateStore(tmp_path / "state"))


def test_what_is_offered_while_a_thread_decides_breaks_nothing_and_is_not_lost(
    kept: Acceptance, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = str(USER.peers[0].address)
    kept.offered("another", LAN, is_joined=True)
    decided = cast(Accepted, SimpleNamespace(config=USER, peers={}, kept={}))

    def accept(config: object, facts: object, offered: Mapping[str, tuple[Prefix, ...]], *_: Any) -> Accepted:
        for _name in offered:
            kept.offered(peer, LAN, is_joined=True)  # as the loop does
        return decided

    monkeypatch.setattr(module, "accept", accept)
    table = PeerTable(USER, {})
    kept.resolve(table, HostFacts(()))
    kept.keep(decided)
    assert not kept.offered(peer, LAN, is_joined=True), "it is remembered"
    assert kept.offered("another", LAN, is_joined=True), "a peer that is gone is forgotten"
