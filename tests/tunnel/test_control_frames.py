"""Records that are no packets: what is asked, answered, and not believed."""

from __future__ import annotations

import pytest

from nconnect.tunnel.outputs import Pong
from nconnect.wire.tunnel import RECORD_HEADER, RecordKind
from tests.sim.network import Host, Simulation
from tests.tunnel.hostile import (
    connected,
    count,
    passes,
    sealed_by,
)


def test_unanswered_pings_are_bounded() -> None:
    sim, user, provider = connected()
    provider.stopped = True
    for _ in range(100):
        assert user.tunnel.ping(user.peer(provider), sim.now) is not None
    assert len(user.peer(provider).pinged_at) <= 16


def test_the_newest_list_of_links_counts_in_whatever_order_they_come() -> None:
    sim, user, provider = connected()
    lanes = provider.peer(user).relayed.lanes
    assert dict(lanes.theirs) == {0: 0}, "who has one link says nothing of it"
    sim.in_flight.clear()
    user.tunnel.set_links({0: 5, 2: 7}, sim.now)
    user.drain()
    held = sim.sent[-1]
    sim.in_flight.clear()
    user.tunnel.set_links({0: 6}, sim.now)
    user.drain()
    sim.run(0.1)
    assert dict(lanes.theirs) == {0: 6}
    taken = count(provider, "replayed")
    sim.inject(*held)
    sim.run(0.1)
    assert count(provider, "replayed") == taken, "it is read, and is old"
    assert dict(lanes.theirs) == {0: 6}


def test_a_list_of_links_that_is_none_is_counted_and_changes_nothing() -> None:
    sim, user, provider = connected()
    lanes = dict(provider.peer(user).relayed.lanes.theirs)
    batch = RECORD_HEADER.pack(3 | RecordKind.LINKS << 24) + b"\xff" * 3
    sim.inject(str(user.address), str(provider.address), sealed_by(user, provider, batch))
    sim.run(0.001)
    assert count(provider, "bad_record") == 1
    assert dict(provider.peer(user).relayed.lanes.theirs) == lanes
    assert passes(sim, user, provider)


def test_a_pong_says_how_far_its_sender_is_from_its_node() -> None:
    sim, user, provider = connected()
    provider.leg_s = {0: 0.0125}.get
    assert ping(sim, user, provider).leg_s == 0.0125
    provider.leg_s = {0: 1e9}.get  # nonsense fits too
    assert ping(sim, user, provider).leg_s == pytest.approx(4294.967295)


def test_a_peer_that_does_not_say_how_far_its_node_is() -> None:
    sim, user, provider = connected()
    pong = ping(sim, user, provider)
    assert (pong.leg_s, pong.link) == (None, 0)
    assert pong.rtt_s == pytest.approx(0.02)


def ping(sim: Simulation, user: Host, provider: Host) -> Pong:
    before = len(user.events)
    user.tunnel.ping(user.peer(provider), sim.now)
    user.drain()
    sim.run(0.5)
    (pong,) = [event for event in user.events[before:] if isinstance(event, Pong)]
    return pong
