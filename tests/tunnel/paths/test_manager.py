"""Which lane is taken when links go, or fall silent, and come back."""

from __future__ import annotations

import pytest

from nconnect.tunnel.paths.manager import PathManager
from nconnect.tunnel.timer_heap import TimerHeap
from nconnect.tunnel.timers import NEVER, Timer
from nconnect.wire.tunnel import MAX_LINKS
from tests.sim.lanes import LaneNet, joined
from tests.sim.load import HEADER, RATE, Load, shaped


def test_a_silent_lane_hands_its_flows_over_without_a_handshake() -> None:
    net = shaped(2)
    user, provider = joined(net, 2, 2)
    load = Load(user, provider, 8)
    load.run(net, 3)
    sessions = user.peer(provider).session.current
    net.paths[0, 0].cut = True
    load.run(net, 2)
    before = len(provider.delivered)
    assert load.run(net, 1) > 0.8 * RATE
    assert {int.from_bytes(r[HEADER : HEADER + 2]) for r in provider.delivered[before:]} == set(range(8))
    assert user.peer(provider).session.current is sessions
    assert not user.lost()
    dead = [lane for lane in user.peer(provider).relayed.lanes.used if lane.dead]
    assert [lane.link for lane in dead] == [0]


def test_flows_are_handed_over_within_a_second_of_the_lane_being_found_dead() -> None:
    net = shaped(4)
    user, provider = joined(net, 4, 4)
    load = Load(user, provider, 12, 60_000)
    load.run(net, 2)
    cut_at, lane = net.now, user.peer(provider).relayed.lanes.used[2]
    net.paths[2, 2].cut = True
    while not lane.dead:
        load.run(net, 0.02)
        assert net.now - cut_at < 1.5
    before = len(provider.delivered)
    load.run(net, 1)
    assert {int.from_bytes(r[HEADER : HEADER + 2]) for r in provider.delivered[before:]} == set(range(12))
    assert not lane.queue
    assert not user.lost()


def test_one_link_costs_nothing_more() -> None:
    """No lane is watched, nothing is spread, and no list of links is sent."""
    net = shaped(1)
    user, provider = joined(net, 1, 1)
    load = Load(user, provider, 8)
    peer = user.peer(provider)
    for _ in range(20):
        load.run(net, 0.1)
        assert peer.path.scheduler is None
        assert not peer.timers.is_set(Timer.LANES)
    assert [(lane.link, lane.number) for lane in peer.relayed.lanes.all] == [(0, 0)]
    assert peer.relayed.stripe_number == 0
    assert provider.peer(user).relayed.links_revision == -1
    assert not provider.peer(user).relayed.lane_arrivals


def test_a_dead_lane_that_lives_again_is_used_again() -> None:
    net = shaped(2)
    user, provider = joined(net, 2, 2)
    load = Load(user, provider, 8)
    load.run(net, 2)
    net.paths[0, 0].cut = True
    load.run(net, 2)
    net.paths[0, 0].cut = False
    load.run(net, 5)
    assert not any(lane.dead for lane in user.peer(provider).relayed.lanes.used)
    assert load.run(net, 2) > 1.5 * RATE


def test_a_link_that_goes_down_takes_nothing_with_it() -> None:
    net = shaped(2)
    user, provider = joined(net, 2, 2)
    load = Load(user, provider, 4)
    load.run(net, 2)
    net.paths[0, 0].cut = True
    user.tunnel.set_links({1: 2}, net.now)
    user.drain()
    net.run(0.3)
    assert [lane.link for lane in user.peer(provider).relayed.lanes.used] == [1, 1]
    assert {lane.number for lane in provider.peer(user).relayed.lanes.used} == {1, 9}
    before = len(provider.delivered)
    assert load.run(net, 1.5) > 0.7 * RATE
    assert {int.from_bytes(r[HEADER : HEADER + 2]) for r in provider.delivered[before:]} == set(range(4))


def test_each_link_is_tried_in_turn_and_none_is_forgotten_while_all_are_down() -> None:
    path_manager = PathManager(TimerHeap(), bytes)
    assert [path_manager.link_to_try(n) for n in range(3)] == [0, 0, 0]
    assert path_manager.set_links({3: 1, 1: 2})
    assert [path_manager.link_to_try(n) for n in range(4)] == [1, 3, 1, 3]
    assert not path_manager.set_links({1: 2, 3: 1}), "the same in another order is no news"
    assert not path_manager.set_links({})
    assert path_manager.links == {1: 2, 3: 1}
    assert path_manager.revision == 1


def test_an_idle_peer_s_lanes_are_not_looked_at() -> None:
    """Silence with nothing asked wakes nobody; one batch is looked after, and then it is quiet again."""
    net = shaped(2)
    user, provider = joined(net, 2, 2)
    peer = user.peer(provider)
    net.run(5)
    assert not peer.timers.is_set(Timer.LANES)
    user.tunnel.ping(peer, net.now)
    user.drain()
    net.run(5)
    assert not peer.timers.is_set(Timer.LANES)
    assert user.tunnel.next_at() != NEVER


@pytest.mark.parametrize("user_link", [0, 1])
@pytest.mark.parametrize("provider_link", [0, 1, 2])
def test_a_peer_whose_only_link_is_a_spare_one_is_found(user_link: int, provider_link: int) -> None:
    """Nobody told the user: its second or third attempt goes there too."""
    net = LaneNet()
    started = net.now
    links = (user_link, provider_link)
    for path in ((a, b) for a in range(3) for b in range(3) if (a, b) != links):
        net.paths[path].cut = True
    user, provider = joined(net, *links, only=True)
    assert user.peer(provider).session.current is not None
    assert net.now - started < 3.5
    assert {lane.number for lane in provider.peer(user).relayed.lanes.used} == {
        provider_link * MAX_LINKS + user_link
    }


def test_a_peer_learns_that_the_spare_link_has_gone_and_another_is_back() -> None:
    net = LaneNet()
    user, provider = joined(net, 1, 1, only=True)
    user.tunnel.set_links({0: 1, 1: 2}, net.now)
    user.drain()
    assert net.run(1, lambda: provider.peer(user).relayed.lanes.theirs == {0: 1, 1: 2})
    user.tunnel.set_links({0: 1}, net.now)
    user.drain()
    assert net.run(1, lambda: provider.peer(user).relayed.lanes.theirs == {0: 1})
    assert not user.lost()
