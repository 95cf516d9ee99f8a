"""The driver with direct TCP streams beside its links: each peer's packets go by its own stream, or none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nconnect.errors import DropReason
from nconnect.wire.nkn import InboundMessage
from tests.daemon.test_driver import FakeLink, Side, World, to_one, to_two


class FakeStream(FakeLink):
    """A `DriverStream`; its other end is `there`."""

    there: FakeStream

    def __init__(self, peer: Side) -> None:
        super().__init__()
        self.peer = str(peer.address)
        self.backlogged = False

    def is_backlogged(self) -> bool:
        return self.backlogged


class StreamWorld(World):
    def __init__(self) -> None:
        super().__init__()
        self.streams: list[FakeStream] = []

    def open(self, one: Side, other: Side) -> tuple[FakeStream, FakeStream]:
        here, there = FakeStream(other), FakeStream(one)
        here.there, there.there = there, here
        self.streams += here, there
        assert one.driver.add_stream(here)
        assert other.driver.add_stream(there)
        self.exchange()
        self.loop.advance(1.0)  # what was under way by the relay has arrived
        self.exchange()
        return here, there

    def exchange(self) -> None:
        while any(stream.sent for stream in self.streams) or any(s.link.sent for s in self.sides.values()):
            for stream in self.streams:
                sent, stream.sent = stream.sent, []
                for _, payload in sent:
                    stream.there.on_message(InboundMessage(stream.there.peer, payload))
            super().exchange()


@pytest.fixture
def world() -> Iterator[StreamWorld]:
    made = StreamWorld()
    made.connect()
    yield made
    made.close()


def test_packets_go_by_the_stream_of_their_peer_alone(world: StreamWorld) -> None:
    stream, _ = world.open(world.user, world.one)
    world.user.packets(to_one(1))
    world.user.packets(to_two(2))
    assert len(stream.sent) == 1
    assert [dest for dest, _ in world.user.data_sent()] == [str(world.two.address)]
    world.exchange()
    assert world.one.written() == [to_one(1)]
    assert world.two.written() == [to_two(2)]


def test_what_is_read_together_for_several_peers_is_not_mixed_up(world: StreamWorld) -> None:
    streams = world.open(world.user, world.one)[0], world.open(world.user, world.two)[0]
    world.loop.now += 1.0
    world.user.packets(*[record for n in range(5) for record in (to_one(n), to_two(n))])
    assert not world.user.data_sent()
    assert all(stream.sent for stream in streams)
    world.exchange()
    assert world.one.written() == [to_one(n) for n in range(5)]
    assert world.two.written() == [to_two(n) for n in range(5)]


def test_a_stream_that_is_full_holds_up_its_own_peer_alone(world: StreamWorld) -> None:
    full, _ = world.open(world.user, world.one)
    other, _ = world.open(world.user, world.two)
    full.writable = False
    world.user.packets(to_one(1), to_one(2), to_two(3))
    assert not full.sent
    assert len(other.sent) == 1
    full.writable = True
    full.on_writable()
    assert full.sent
    world.exchange()
    assert world.one.written() == [to_one(1), to_one(2)]


def test_when_a_stream_closes_its_packets_take_the_relay(world: StreamWorld) -> None:
    stream, there = world.open(world.user, world.one)
    stream.writable = False
    world.user.packets(to_one(1), to_one(2))
    stream.is_up = False
    for side, end in ((world.user, stream), (world.one, there)):
        side.driver.drop_stream(end)
        side.driver.drop_stream(end)
        side.driver.flush()
    world.user.packets(to_one(3))
    world.exchange()
    assert world.one.written() == [to_one(1), to_one(2), to_one(3)]
    assert not stream.sent


def test_what_is_to_be_said_by_a_stream_that_has_just_closed_goes_by_the_link(world: StreamWorld) -> None:
    stream, _ = world.open(world.user, world.one)
    stream.is_up = False
    assert world.user.tunnel.ping(world.user.tunnel.peers[str(world.one.address)], world.loop.now) is not None
    world.user.driver.drain()
    assert world.user.data_sent()
    assert world.user.driver.drops[DropReason.LINK_DOWN] == 0


def test_numbers_of_streams_are_used_again(world: StreamWorld) -> None:
    for _ in range(3):
        stream, there = world.open(world.user, world.one)
        lane = world.user.tunnel.peers[str(world.one.address)].relayed.lane
        assert lane.link == 8
        world.user.driver.drop_stream(stream)
        world.one.driver.drop_stream(there)


def test_who_is_no_peer_or_has_no_session_gets_no_stream(world: StreamWorld) -> None:
    stream = FakeStream(world.one)
    stream.peer = "nobody"
    assert not world.user.driver.add_stream(stream)
    stream.peer = str(world.user.address)
    assert not world.user.driver.add_stream(stream)


def test_a_ping_by_a_stream_asks_no_node_for_its_distance(world: StreamWorld) -> None:
    asked: list[int] = []
    world.one.driver._leg_s = lambda link: asked.append(link)
    world.open(world.user, world.one)
    peer = world.user.tunnel.peers[str(world.one.address)]
    world.user.pongs.clear()
    asked.clear()  # by lanes that were watched
    ping_id = world.user.tunnel.ping(peer, world.loop.now)
    world.user.driver.drain()
    world.exchange()
    assert [pong.ping_id for pong in world.user.pongs] == [ping_id]
    assert world.user.pongs[0].link == 8
    assert not asked
