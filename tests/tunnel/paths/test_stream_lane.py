"""A direct TCP stream as a lane: it carries all while it lives, and flows keep their order when it comes and
goes."""

from __future__ import annotations

import heapq

import pytest

from nconnect.model import PeerConfig
from nconnect.tunnel.outputs import Stated, StreamEnds
from nconnect.tunnel.paths.datagrams import DatagramPath
from nconnect.tunnel.paths.direct.outputs import PathState
from nconnect.tunnel.paths.direct.path import DirectPath
from nconnect.tunnel.paths.direct.surroundings import Surroundings
from nconnect.tunnel.paths.lanes import STREAM_NUMBER
from nconnect.tunnel.statements import PART_BYTES
from nconnect.wire.tunnel import MAX_LINKS
from tests.sim.lanes import LaneHost, LaneNet, joined
from tests.sim.network import Host, packet

LINK = MAX_LINKS  # the number that either side gives the stream
ADDRESSES = "10.86.0.2", "192.168.50.1"


class StreamNet(LaneNet):
    """And a stream, in order and at its own delay. Cut: it swallows all, and tells nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.stream_delay_s = 0.002
        self.stream_cut = False
        self.cut_for = ""  # only for what this side sends

    def send(self, source: Host, link: int, dest: str, payload: bytes) -> None:
        if link != LINK:
            super().send(source, link, dest, payload)
            return
        self.carried[source.name, LINK, 0] += len(payload)
        if self.stream_cut or source.name == self.cut_for:
            return
        lane = (source.name, LINK, 0)
        start = max(self.now, self.free_at.get(lane, 0.0))
        self.free_at[lane] = start + len(payload) / 125e6
        self._number += 1
        arrives = self.free_at[lane] + self.stream_delay_s
        heapq.heappush(self.in_flight, (arrives, self._number, str(source.address), dest, payload))


class StreamHost(LaneHost):
    """Its links include the stream."""

    def flush(self) -> None:
        sealed, now = memoryview(self.sealed), self.sim.now
        for peer in tuple(self.tunnel.backlog):
            while peer in self.tunnel.backlog:
                batch = self.tunnel.next_batch(self.arena, now, 1 << 30, LINK, peer)
                if batch is None:
                    break
                _, size, _, lane = batch
                prefix, n = self.tunnel.seal(peer, memoryview(self.arena)[:size], sealed, lane)
                self.net.send(self, lane.link, lane.dest, prefix + bytes(sealed[:n]))
                self.tunnel.sent(peer, lane, size, now)
        super().flush()


class World:
    def __init__(self, links: int = 1) -> None:
        self.net = StreamNet()
        self.user, self.provider = joined(self.net, links, links, host=StreamHost)
        self.sent = 0

    def open(self) -> None:
        for side, other in ((self.user, self.provider), (self.provider, self.user)):
            assert side.tunnel.stream_opened(str(other.address), LINK, self.net.now)
            side.drain()

    def close(self) -> None:
        for side, other in ((self.user, self.provider), (self.provider, self.user)):
            side.tunnel.stream_closed(str(other.address), LINK, self.net.now)
            side.flush()

    def stream(self) -> None:
        """A packet each millisecond, of one flow."""
        self.say()
        self.net.run(0.001)

    def say(self) -> None:
        record = packet(*ADDRESSES, self.sent.to_bytes(4, "big") + bytes(1000))
        self.user.send_packet(record, bytes([192, 168, 50, 1]))
        self.sent += 1

    def carried(self) -> tuple[int, int]:
        """Bytes that the user has sent: (by the stream, by relays)."""
        by = self.net.carried_by("user")
        return by.get((LINK, 0), 0), sum(size for (link, _), size in by.items() if link != LINK)

    def numbers(self) -> list[int]:
        """Of the packets that came, in the order in which they did."""
        return [int.from_bytes(record[-1004:-1000], "big") for record in self.provider.delivered]


@pytest.mark.parametrize("links", [1, 2])
def test_a_stream_carries_all_and_flows_keep_their_order(links: int) -> None:
    world = World(links)
    for _ in range(100):
        world.stream()
    world.open()
    relayed = world.carried()[1]
    for _ in range(200):
        world.stream()
    world.net.run(0.5)
    assert world.numbers() == list(range(300))
    by_stream, by_relays = world.carried()
    assert by_stream > 190 * 1000
    assert by_relays - relayed < 10_000, "what was under way, and questions"
    lane = world.user.peer(world.provider).relayed.lane
    assert lane.number == STREAM_NUMBER
    assert lane.rtt_s == pytest.approx(0.004, abs=0.002)


@pytest.mark.parametrize("links", [1, 2])
def test_a_stream_that_closes_leaves_its_flows_to_the_relays(links: int) -> None:
    world = World(links)
    world.open()
    for _ in range(100):
        world.stream()
    world.net.run(0.1)
    world.close()
    for _ in range(100):
        world.stream()
    world.net.run(0.5)
    assert world.numbers() == list(range(200))
    path = world.user.peer(world.provider).relayed
    assert path.lane.number != STREAM_NUMBER
    assert (path.watches, path.several) == (links > 1, links > 1)
    assert path.lanes.stream is None


@pytest.mark.parametrize("links", [1, 2])
def test_a_stream_that_goes_silent_is_left_soon(links: int) -> None:
    world = World(links)
    world.open()
    for _ in range(100):
        world.stream()
    world.net.stream_cut = True
    cut = world.sent
    for _ in range(2000):
        world.stream()
    world.net.run(0.5)
    after = [number for number in world.numbers() if number >= cut]
    assert after[0] - cut < 950, "packets are 1 ms apart: asked after 0.3 s, dead after 0.6 s"
    assert after == list(range(after[0], world.sent)), "in order, and all from then on"
    assert world.user.peer(world.provider).relayed.lanes.stream.dead  # type: ignore[union-attr]


def test_a_stream_that_goes_silent_one_way_is_left_as_soon() -> None:
    """What the other side sends, and asks, is no answer."""
    world = World()
    world.open()

    def answered() -> None:
        world.stream()
        back = packet(ADDRESSES[1], ADDRESSES[0], bytes(1000))
        world.provider.send_packet(back, bytes([10, 86, 0, 2]))

    for _ in range(100):
        answered()
    world.net.cut_for = "user"
    cut = world.sent
    for _ in range(1500):
        answered()
    world.net.run(0.1)
    after = [number for number in world.numbers() if number >= cut]
    assert after[0] - cut < 950
    assert after == list(range(after[0], world.sent))


def test_a_stream_that_comes_back_to_life_is_used_again() -> None:
    world = World()
    world.open()
    world.net.stream_cut = True
    for _ in range(1500):
        world.stream()
    assert world.user.peer(world.provider).relayed.lane.number != STREAM_NUMBER
    world.net.stream_cut = False
    for _ in range(3000):  # a dead lane is asked every 2 s
        world.stream()
    world.net.run(0.1)
    assert world.user.peer(world.provider).relayed.lane.number == STREAM_NUMBER
    numbers = world.numbers()
    assert numbers == sorted(numbers)
    assert world.sent - numbers[-1] < 30


@pytest.mark.parametrize("minutes", [2.1, pytest.param(10.0, marks=pytest.mark.slow)])
def test_relays_that_go_silent_do_not_disturb_a_stream(minutes: float) -> None:
    """The node is gone, and keys are renewed each two minutes: handshakes take the stream."""
    world = World()
    world.open()
    world.net.run(0.1)
    world.net.paths[0, 0].cut = True
    before = world.user.peer(world.provider).session.current
    for _ in range(int(60 * minutes)):
        world.say()
        world.net.run(1.0)
    assert world.numbers() == list(range(world.sent))
    assert world.user.peer(world.provider).session.current is not before


def test_a_statement_takes_the_stream_while_relays_are_silent() -> None:
    world = World()
    world.open()
    world.net.run(0.1)
    world.net.paths[0, 0].cut = True
    for document in (b"a server", bytes(PART_BYTES + 1)):
        speaker = world.provider
        speaker.tunnel.announce(speaker.peer(world.user), document, world.net.now)
        speaker.drain()
        world.net.run(0.2)
        assert [each.document for each in world.user.events if isinstance(each, Stated)][-1:] == [document]


def test_the_end_of_a_session_ends_the_stream() -> None:
    world = World()
    world.open()
    world.user.events.clear()
    world.provider.tunnel.close(world.net.now)
    world.provider.drain()
    world.net.run(0.1)
    assert [each.peer.name for each in world.user.events if isinstance(each, StreamEnds)] == ["gpu"]
    assert any(isinstance(each, StreamEnds) for each in world.provider.events)


def test_a_peer_that_is_removed_ends_its_stream_and_gets_no_other() -> None:
    world = World()
    world.open()
    world.user.tunnel.set_peers([], world.net.now)
    world.user.drain()
    assert any(isinstance(each, StreamEnds) for each in world.user.events)
    assert not world.user.tunnel.stream_opened(str(world.provider.address), LINK, world.net.now)
    assert world.user.tunnel.keys_to_dial(str(world.provider.address), world.net.now) is None


def test_who_may_open_a_stream() -> None:
    """A peer with a session, unless direct paths are off for it."""
    world = World()
    user, provider, now = world.user.tunnel, world.provider.tunnel, world.net.now
    keys = user.keys_to_dial(str(world.provider.address), now)
    assert keys is not None
    found = provider.stream_keys(keys.remote_index, now)
    assert found is not None
    assert found[0] == str(world.user.address)
    assert found[1].verify(b"what", keys.prove(b"what"))
    assert provider.stream_keys(keys.remote_index ^ 1, now) is None
    assert provider.stream_keys(keys.remote_index, now + 200) is None, "these keys are too old"
    off = [
        PeerConfig(peer.config.name, peer.config.address, peer.config.allowed_ips, direct="off")
        for peer in provider.peers.values()
    ]
    provider.set_peers(off, now)
    assert provider.stream_keys(keys.remote_index, now) is None
    assert provider.keys_to_dial(str(world.user.address), now) is None
    assert not provider.stream_opened(str(world.user.address), LINK, now)


def test_a_later_stream_takes_the_place_of_an_earlier_one() -> None:
    world = World()
    world.open()
    world.user.tunnel.stream_opened(str(world.provider.address), LINK + 1, world.net.now)
    world.user.tunnel.stream_closed(str(world.provider.address), LINK, world.net.now)
    stream = world.user.peer(world.provider).relayed.lanes.stream
    assert stream is not None
    assert stream.link == LINK + 1


def test_what_waits_when_a_stream_opens_and_closes_is_not_lost() -> None:
    world = World()
    user = world.user
    peer = user.peer(world.provider)
    user.flush = lambda: None  # type: ignore[method-assign]
    for change in (world.open, world.close, lambda: None):
        for _ in range(20):
            record = bytearray(packet(*ADDRESSES, world.sent.to_bytes(4, "big") + bytes(1000)))
            user.tunnel.enqueue(peer, record, world.net.now)
            world.sent += 1
        change()
    del user.flush
    user.flush()
    world.net.run(1.0)
    assert world.numbers() == list(range(60))


def test_a_stream_that_lives_is_preferred_to_udp() -> None:
    """TCP is quicker where it goes at all; UDP is there at once when the stream ends or dies."""
    world = World()
    peer = world.user.peer(world.provider)
    machine = DirectPath(Surroundings(41000), now=world.net.now, rng=world.net.random_bytes)
    datagrams = peer.datagrams = DatagramPath(machine, world.net.now)
    manager = world.user.tunnel._sessions.path_manager
    machine.state = PathState.DIRECT
    manager.choose_path(peer, world.net.now)
    assert peer.path is datagrams
    manager.stream_opened(peer, LINK, world.net.now)
    assert peer.path is peer.relayed
    stream = peer.relayed.lanes.stream
    assert stream is not None
    stream.dead = True
    manager.choose(peer, world.net.now)
    assert peer.path is datagrams
    manager.heard_on(peer, STREAM_NUMBER, world.net.now)
    assert peer.path is datagrams, "it may go one way alone"
    manager.answered(peer, stream, world.net.now)
    assert peer.path is peer.relayed
    manager.stream_closed(peer, world.net.now)
    assert peer.path is datagrams
