"""Whole cores on a direct path in virtual time: found, used, left, and nothing doubled or changed."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from nconnect.errors import DropReason
from nconnect.model import Endpoint
from nconnect.tunnel.outputs import Pong
from nconnect.tunnel.paths.datagrams import UDP_LINK
from nconnect.tunnel.paths.direct.outputs import PathState
from nconnect.wire.direct import decode_header, encode_header
from nconnect.wire.tunnel import RecordKind, control_batch
from tests.sim.direct import Device, DirectWorld
from tests.sim.network import packet
from tests.tunnel.paths.direct.world import End


def found(world: DirectWorld) -> None:
    world.chat(1.0)
    assert world.both_direct


def assert_none_twice(world: DirectWorld) -> None:
    for side in (world.user, world.provider):
        assert not [record for record, times in side.got.items() if times > 1]
        assert not set(side.got) - set(world.sent) - set(world.answers)


def test_a_direct_path_is_found_and_carries_and_loses_nothing() -> None:
    world = DirectWorld()
    found(world)
    relayed = len(world.sent)
    drops = [side.peer.all_drops() for side in (world.user, world.provider)]  # of crossed handshakes
    before = world.user.datagrams
    world.chat(2.0)
    world.run(0.5)
    assert world.user.datagrams - before >= len(world.sent) - relayed
    assert world.provider.order == world.sent
    assert world.user.order == world.answers
    assert [side.peer.all_drops() for side in (world.user, world.provider)] == drops


def test_a_report_rides_along_with_an_answer() -> None:
    """So that a ping costs no datagrams besides: what the last side sent is asked about once."""
    world = DirectWorld()
    found(world)
    world.run(1.0)
    before = world.user.datagrams + world.provider.datagrams
    for number in range(10):
        world.user.send(packet("10.86.0.2", "192.168.50.10", bytes([number])), "192.168.50.10")
        world.run(0.05)
        world.provider.send(packet("192.168.50.10", "10.86.0.2", bytes([number])), "10.86.0.2")
        world.run(1.0)
    assert world.both_direct
    assert world.user.datagrams + world.provider.datagrams - before <= 10 * 4 + 4


def test_a_ping_takes_the_way_that_packets_take() -> None:
    world = DirectWorld()
    world.run(0.5)
    user = world.user

    def pinged() -> Pong:
        user.pongs.clear()
        ping_id = user.tunnel.ping(user.peer, world.clock.now)
        user.drain()
        world.run(1.0)
        (pong,) = [each for each in user.pongs if each.ping_id == ping_id]
        return pong

    assert pinged().link == 0
    found(world)
    world.run(1.0)
    sent = user.datagrams
    pong = pinged()
    assert pong.link == UDP_LINK
    assert user.datagrams > sent
    assert user.peer.direct is not None
    assert pong.rtt_s == pytest.approx(user.peer.direct.rtt_s, rel=0.5)


@pytest.mark.parametrize("size", [1480, 3000, 40_000])
def test_packets_larger_than_a_datagram_cross_whole(size: int) -> None:
    world = DirectWorld()
    found(world)
    world.chat(0.5, size=size)
    world.run(0.5)
    assert world.both_direct
    assert world.provider.order == world.sent
    assert world.user.order == world.answers


@pytest.mark.parametrize("one_way", [True, False])
def test_a_path_that_dies_is_left_for_the_relay(one_way: bool) -> None:
    world = DirectWorld()
    found(world)
    died_at = world.clock.now
    world.net.drops = lambda sender, datagram: sender.name == "user" or not one_way
    world.chat(5.0)
    world.run(0.5)
    assert world.longest_pause(died_at) < 0.6
    assert world.user.state is not PathState.DIRECT
    assert any(state is PathState.SUSPECT for at, state in world.user.changes if at > died_at)
    assert_none_twice(world)
    lost = set(world.sent) - set(world.provider.got)
    assert len(lost) < 0.5 / 0.02
    # And found again, when it works again.
    world.net.drops = lambda sender, datagram: False
    world.chat(12.0)
    assert world.both_direct
    assert_none_twice(world)


def test_while_in_doubt_a_packet_comes_once_whichever_way_was_first() -> None:
    """Only what the datagrams say of themselves is lost: data passes both ways and counts once."""
    world = DirectWorld()
    found(world)
    world.run(0.5)
    for side in (world.user, world.provider):
        path = side.peer.datagrams
        assert path is not None
        path.machine._suspect(world.clock.now)
        side.tunnel._sessions.direct.settle(side.peer, world.clock.now)
        assert path.doubles
    begin = len(world.sent)
    for delay_s in (0.0, 0.1):
        world.relay_delay_s = delay_s
        world.chat(0.1, size=2000)
        world.run(0.3)
    assert set(world.sent[begin:]) <= set(world.provider.got)
    assert_none_twice(world)


def test_a_relay_that_dies_does_not_end_a_direct_path() -> None:
    world = DirectWorld()
    found(world)
    world.relay_is_up = False
    for side in (world.user, world.provider):
        side.tunnel.relay_up(False)
    begin = len(world.sent)
    world.chat(20.0)
    world.run(0.2)
    assert world.both_direct
    assert set(world.sent[begin:]) <= set(world.provider.got)
    assert set(world.answers[begin:]) <= set(world.user.got)


def test_keys_are_renewed_while_no_node_can_be_reached() -> None:
    """Ten minutes, and five new keys."""
    world = DirectWorld()
    found(world)
    keys = [world.user.peer.session.current]
    world.relay_is_up = False
    for side in (world.user, world.provider):
        side.tunnel.relay_up(False)
    begin = len(world.sent)
    for _ in range(640):
        world.chat(1.0, every_s=1.0)
        if world.user.peer.session.current is not keys[-1]:
            keys.append(world.user.peer.session.current)
        assert world.both_direct
    world.run(0.2)
    assert len(keys) >= 1 + 5
    assert world.provider.order[begin:] == world.sent[begin:]
    assert world.user.order[begin:] == world.answers[begin:]
    assert world.provider.peer.handshake.finished_at is not None
    assert world.clock.now - world.provider.peer.handshake.finished_at < 130


def test_an_idle_path_costs_nothing_after_two_minutes() -> None:
    """Neither a datagram, nor a message by the node that is about it; the first packet finds it again."""
    world = DirectWorld()
    found(world)
    world.run(125.0)
    relayed = world.relayed
    before = world.user.datagrams + world.provider.datagrams
    world.run(1800.0)
    assert world.user.datagrams + world.provider.datagrams == before
    keepalives = world.relayed - relayed
    quiet = DirectWorld()
    quiet.net.drops = lambda sender, datagram: True
    quiet.chat(1.0)
    quiet.run(125.0)
    relayed = quiet.relayed
    quiet.run(1800.0)
    assert keepalives <= quiet.relayed - relayed + 1
    since = world.clock.now
    while not world.both_direct:
        world.chat(0.1)
        assert world.clock.now < since + 1.0


@pytest.mark.parametrize("asleep_s", [20.0, 400.0])
def test_after_a_sleep_the_path_is_direct_again_at_once(asleep_s: float) -> None:
    """The NATs have forgotten it, and the peer gave it up."""
    world = DirectWorld()
    found(world)
    begin = len(world.sent)
    world.relay_is_up = False  # what is sent to somebody who sleeps is lost
    world.net.drops = lambda sender, datagram: True
    for _ in range(int(asleep_s)):  # the peer goes on
        record = packet("192.168.50.10", "10.86.0.2", b"are you there")
        world.provider.send(record, "10.86.0.2")
        world.run(1.0)
    world.relay_is_up = True
    world.net.drops = lambda sender, datagram: False
    for nat in world.user.nats:
        nat.flush(new_ports=True)
    now = world.clock.now
    world.user.around.doubt_reflexive(now)
    world.user.tunnel.network_changed(now)
    world.user.drain()
    world.chat(2.0)
    assert world.both_direct
    world.run(0.5)
    assert set(world.sent[begin:]) <= set(world.provider.got)
    # What a router maps, or an address, changes nothing about a path that works.
    assert world.user.changes[-1][0] < now + 2.0


@pytest.mark.parametrize("away_s", [2.0, 7.0])
def test_a_search_whose_list_was_lost_goes_on_when_the_relay_is_back(away_s: float) -> None:
    """After a change of networks the link to the node has to be made anew as well."""
    world = DirectWorld()
    found(world)
    world.chat(2.0)
    user = world.user
    world.relay_is_up = False
    for nat in user.nats:
        nat.flush(new_ports=True)
    user.around.doubt_reflexive(world.clock.now)
    user.tunnel.network_changed(world.clock.now)
    user.drain()
    world.chat(away_s)
    assert not world.both_direct
    world.relay_is_up = True
    for side in (user, world.provider):
        side.tunnel.link_up(world.clock.now)
        side.drain()
    world.chat(1.0)
    assert world.both_direct


def test_a_handshake_from_an_address_that_is_not_proven_is_not_read() -> None:
    world = DirectWorld()
    found(world)
    pair = world.user.peer.session.current
    assert pair is not None
    forged = control_batch((RecordKind.HANDSHAKE, b"nc" + bytes(200)))
    assert world.provider.peer.direct is not None
    remote = world.provider.peer.direct.remote
    for source, refused in ((Endpoint(IPv4Address("203.0.113.77"), 1), 0), (remote, 1)):
        assert source is not None
        before = sum(world.provider.peer.all_drops().values())
        world.provider.datagram(source, b"".join(pair.direct.seal_run((forged,))))
        assert sum(world.provider.peer.all_drops().values()) - before == refused


def test_a_peer_without_access_is_not_heard_any_more() -> None:
    world = DirectWorld()
    found(world)
    world.user.tunnel.configure(persistent=True, accept_pending=False, direct="on")
    world.provider.tunnel.set_peers([], world.clock.now)
    world.provider.drain()
    came = len(world.provider.order)
    record = packet("10.86.0.2", "192.168.50.10", b"late")
    world.user.send(record, "192.168.50.10")
    world.run(0.5)
    assert len(world.provider.order) == came
    assert world.provider.tunnel.drops[DropReason.NO_SESSION] > 0


def test_what_a_peer_may_not_send_by_the_relay_it_may_not_send_directly() -> None:
    world = DirectWorld()
    found(world)
    path = world.user.peer.datagrams
    assert path is not None
    forged = [packet("10.86.0.9", "192.168.50.10", b"x" * n) for n in (10, 3000)]
    for record in forged:
        world.user.send(record, "192.168.50.10")
    bad_header = bytes([1, 1]) + packet("10.86.0.2", "192.168.50.10", b"y")[2:]
    world.user.send(bad_header, "192.168.50.10")
    world.run(0.2)
    drops = world.provider.peer.all_drops()
    assert drops["spoofed_source"] == 2
    assert drops["bad_offload_header"] == 1
    assert_none_twice(world)


def test_a_datagram_counts_once_and_a_forged_one_never() -> None:
    world = DirectWorld()
    seen: list[tuple[End, bytes]] = []

    def tap(sender: End, datagram: bytes) -> bool:
        seen.append((sender, datagram))
        return False

    world.net.drops = tap
    found(world)
    world.net.drops = lambda sender, datagram: False
    mine = [datagram for sender, datagram in seen if sender.name == "user"]
    assert world.provider.peer.direct is not None
    source = world.provider.peer.direct.remote
    assert source is not None
    came = len(world.provider.order)
    for datagram in mine[-20:]:
        world.provider.datagram(source, datagram)
        world.provider.datagram(source, datagram[:-1] + bytes([datagram[-1] ^ 1]))
        world.provider.datagram(source, datagram[:20])
    assert len(world.provider.order) == came
    drops = world.provider.peer.all_drops()
    assert drops["replayed"] >= 30
    for datagram in mine[-20:]:
        index, counter = decode_header(datagram)
        later = encode_header(index, counter + 1000) + datagram[8:]
        world.provider.datagram(source, later)
    assert world.provider.peer.all_drops()["not_authentic"] == 20
    assert len(world.provider.order) == came
    assert (
        world.provider.tunnel.drops[next(r for r in world.provider.tunnel.drops if r.value == "malformed")]
        == 20
    )


@pytest.mark.parametrize("seed", range(8))
def test_seeds(seed: int) -> None:
    """Loss, and a path that comes and goes: nothing twice, and no long pause."""
    world = DirectWorld(seed=seed)
    found(world)
    began = world.clock.now
    for _ in range(4):
        world.net.loss = world.rng.choice([0.0, 0.02, 0.2])
        is_dead = world.rng.random() < 0.4
        world.net.drops = lambda sender, datagram, is_dead=is_dead: is_dead
        world.chat(world.rng.uniform(0.3, 3.0), size=world.rng.choice([100, 2000]))
    world.net.loss, world.net.drops = 0.0, lambda sender, datagram: False
    world.chat(1.0)
    world.run(0.5)
    assert world.longest_pause(began) < 1.5
    assert_none_twice(world)


def test_device_is_what_the_network_expects() -> None:
    attributes = {"local", "lan", "nats", "is_public", "stun_s", "name"}
    assert attributes <= set(vars(DirectWorld().user))
    assert callable(Device.datagram)
