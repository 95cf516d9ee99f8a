from __future__ import annotations

import dataclasses

from nconnect.daemon.shut import all_shut, with_shut
from nconnect.model import Config
from tests.host.examples import peer

ALICE, BOB = peer("alice", 1, "10.86.0.2/32"), peer("bob", 2, "10.86.0.3/32")
CONFIG = Config("nc0", bytes(32), "gpu", (), peers=(ALICE, BOB))


def test_who_is_shut_may_reach_nothing_and_keeps_his_routes() -> None:
    assert with_shut(CONFIG, frozenset()) == CONFIG
    assert with_shut(CONFIG, frozenset({"somebody"})).peers == CONFIG.peers
    changed = with_shut(CONFIG, {str(ALICE.address)})
    assert changed.peers == (dataclasses.replace(ALICE, allow=(), paused=""), BOB)


def test_whom_the_file_pauses_is_shut_whatever_the_state_says() -> None:
    paused = dataclasses.replace(BOB, paused="back at 22:00")
    config = dataclasses.replace(CONFIG, peers=(ALICE, paused))
    assert all_shut(config, frozenset()) == {str(BOB.address)}
    assert with_shut(config, frozenset()).peers == (ALICE, dataclasses.replace(paused, allow=()))
    assert all_shut(config, {str(ALICE.address)}) == {str(ALICE.address), str(BOB.address)}
