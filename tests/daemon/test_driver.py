"""The hot loop, with a socket pair for the TUN's descriptor, and links and a clock that the test holds."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_network

import pytest

from nconnect.crypto.aead import CipherSuite
from nconnect.crypto.keys import Identity
from nconnect.daemon.driver import FLOOD_PACKETS, Driver
from nconnect.daemon.inflow import MAX_PACKETS, TURN_PACKETS
from nconnect.errors import DropReason
from nconnect.ip import offload
from nconnect.model import NknAddress, PeerConfig
from nconnect.tunnel.constants import BATCH_BYTES, MAX_BATCH_BYTES
from nconnect.tunnel.core import SEAL_BYTES, Tunnel
from nconnect.tunnel.outputs import CountersMoved, Output, Pong, SessionLost, SessionUp, Settings
from nconnect.wire.message import Message
from nconnect.wire.nkn import InboundMessage
from nconnect.wire.tunnel import Feature, put_record
from tests.ip.packets import apart, assert_finished, datagram, noise, tcp_super, udp_super
from tests.sim.network import packet

WALL_NS = 1_800_000_000_000_000_000


class Timer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """What the driver uses of an event loop; the test says when anything happens."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.readers: dict[int, Callable[[int], None]] = {}
        self.timers: list[Timer] = []
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def turn(self) -> None:
        """What was to be done in the next turn."""
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()

    def add_reader(self, fd: int, callback: Callable[[int], None], of: int) -> None:
        assert of == fd
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        self.readers.pop(fd, None)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        assert delay_s >= 0
        self.timers.append(Timer(self.now + delay_s, callback))
        return self.timers[-1]

    @property
    def armed(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.cancelled]

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.armed if timer.at <= end]:
            timer = min(due, key=lambda timer: timer.at)
            self.now = max(self.now, timer.at)
            self.timers.remove(timer)
            timer.callback()
        self.now = end


class FakeTun:
    """A `Device` whose other end the test holds."""

    def __init__(self) -> None:
        self.ours, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.ours, self.kernel):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.fd = self.ours.fileno()
        self.fds = [self.fd]
        self.features = Feature.ALL
        self.renewed_by: list[int] = []  # threads

    def index(self) -> int:
        return 7

    def renew(self) -> None:
        self.renewed_by.append(threading.get_ident())

    def close(self) -> None:
        self.ours.close()
        self.kernel.close()


class FakeLink:
    def __init__(self) -> None:
        self.writable = True
        self.is_up = True
        self.rate: float | None = None
        self.room = 1 << 30
        self.signs = False
        self.sent: list[tuple[str, bytes]] = []
        self.on_message: Callable[[InboundMessage], None]
        self.on_writable: Callable[[], None]

    def is_backlogged(self) -> bool:
        return False

    def is_clear(self) -> bool:
        return self.is_up and self.writable and self.rate is None

    def send(self, dest: str, parts: Sequence[bytes | bytearray | memoryview]) -> bool:
        if self.is_up:
            self.sent.append((dest, b"".join(parts)))
        return self.is_up


class Side:
    """One daemon's hot half."""

    def __init__(self, world: World, name: str, seed: int) -> None:
        self.identity = Identity(bytes([seed]) * 32)
        self.address = NknAddress(name, self.identity.public_key)
        self.world = world
        self.tun = FakeTun()
        self.link = FakeLink()
        self.ups: list[str] = []
        self.losses: list[str] = []
        self.pongs: list[Pong] = []
        self.counters_moved = 0
        self.driver: Driver
        self.tunnel: Tunnel

    def start(self, *peers: PeerConfig, features: Feature = Feature.ALL, persistent: bool = False) -> None:
        loop = self.world.loop
        self.tunnel = Tunnel(
            self.identity,
            self.address,
            peers,
            Settings(CipherSuite.AES256GCM, features=features, persistent=persistent),
            now=loop.now,
            rng=os.urandom,
            wall_clock_ns=lambda: WALL_NS + int(loop.now * 1e9),
        )
        self.driver = Driver(
            self.tun,
            self.tunnel,
            [self.link],
            self.told,
            loop,  # type: ignore[arg-type]
            clock=lambda: loop.now,
        )
        self.driver.start()

    def told(self, output: Output) -> None:
        if isinstance(output, SessionUp):
            self.ups.append(output.peer.name)
        elif isinstance(output, SessionLost):
            self.losses.append(output.why)
        elif isinstance(output, Pong):
            self.pongs.append(output)
        elif isinstance(output, CountersMoved):
            self.counters_moved += 1

    def packets(self, *records: bytes) -> None:
        """The kernel has these for the TUN, all at once."""
        for record in records:
            self.tun.kernel.send(record)
        fd = self.tun.fd
        while fd in self.world.loop.readers and select.select([fd], [], [], 0)[0]:
            self.world.loop.readers[fd](fd)

    def written(self) -> list[bytes]:
        """What the kernel was given."""
        found = []
        while True:
            try:
                found.append(self.tun.kernel.recv(1 << 17))
            except BlockingIOError:
                return found

    def data_sent(self) -> list[tuple[str, bytes]]:
        return [
            (dest, payload) for dest, payload in self.link.sent if len(Message.decode(payload).nonce) == 16
        ]


class World:
    """A user, and two providers."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.user = Side(self, "user", 1)
        self.one = Side(self, "one", 2)
        self.two = Side(self, "two", 3)
        self.sides = {str(side.address): side for side in (self.user, self.one, self.two)}

    def start(self, features: Feature = Feature.ALL) -> None:
        self.one.start(
            PeerConfig("user", self.user.address, (ip_network("10.86.0.2/32"),)), features=features
        )
        self.two.start(PeerConfig("user", self.user.address, (ip_network("10.86.0.2/32"),)))
        self.user.start(
            PeerConfig("one", self.one.address, (ip_network("192.168.50.0/24"), ip_network("fd50::/64"))),
            PeerConfig("two", self.two.address, (ip_network("192.168.60.0/24"),)),
        )

    def exchange(self) -> None:
        """Carry everything that was sent, until all is quiet."""
        while any(side.link.sent for side in self.sides.values()):
            for source, side in self.sides.items():
                sent, side.link.sent = side.link.sent, []
                for dest, payload in sent:
                    if dest in self.sides:  # else it was for a spare link
                        self.sides[dest].driver.on_message(InboundMessage(source, payload))
            self.loop.turn()

    def connect(self) -> None:
        self.start()
        self.user.packets(to_one(0), to_two(0))
        self.exchange()
        self.loop.now += 0.1
        assert self.one.written() == [to_one(0)]
        assert self.two.written() == [to_two(0)]

    def close(self) -> None:
        for side in self.sides.values():
            side.tun.close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def to_one(number: int, size: int = 4) -> bytes:
    return packet("10.86.0.2", "192.168.50.10", number.to_bytes(size))


def to_two(number: int) -> bytes:
    return packet("10.86.0.2", "192.168.60.10", number.to_bytes(4))


def test_what_is_there_goes_in_one_message(world: World) -> None:
    """But the first after a pause leaves at once, alone, without a look for more."""
    world.connect()
    sent = [to_one(n) for n in range(50)]
    world.user.packets(*sent)
    assert [dest for dest, _ in world.user.link.sent] == [str(world.one.address)] * 2
    first, rest = (len(payload) for _, payload in world.user.link.sent)
    assert first < 120 < 49 * len(sent[0]) < rest
    peer = world.user.tunnel.peer_named("one")
    assert peer is not None
    assert peer.traffic.tx_packets == 51
    assert peer.traffic.tx_bytes == sum(len(record) - 10 for record in sent) + len(to_one(0)) - 10
    world.exchange()
    assert world.one.written() == sent
    there = world.one.tunnel.peer_named("user")
    assert there is not None
    assert (there.traffic.rx_packets, there.traffic.rx_bytes) == (
        peer.traffic.tx_packets,
        peer.traffic.tx_bytes,
    )


def test_a_burst_for_two_peers_is_a_message_for_each(world: World) -> None:
    world.connect()
    ones, twos = [to_one(n) for n in range(20)], [to_two(n) for n in range(20)]
    world.user.packets(*(record for both in zip(ones, twos, strict=True) for record in both))
    one, two = str(world.one.address), str(world.two.address)
    assert [dest for dest, _ in world.user.link.sent] == [one, two, one]
    world.exchange()
    assert world.one.written() == ones
    assert world.two.written() == twos


def test_packets_wait_for_the_handshake_and_leave_in_order(world: World) -> None:
    world.start()
    sent = [to_one(n) for n in range(30)]
    world.user.packets(*sent[:10])
    assert not world.user.data_sent()
    world.user.packets(*sent[10:])
    assert len(world.user.link.sent) == 1  # one initiation
    world.exchange()
    assert world.one.written() == sent
    assert world.user.ups == ["one"]
    assert world.one.ups == ["user"]
    assert world.user.counters_moved >= 1
    assert world.one.counters_moved >= 1


def test_an_unwritable_link_makes_packets_wait_and_keeps_their_order(world: World) -> None:
    world.connect()
    world.user.link.writable = False
    sent = [to_one(n) for n in range(40)]
    for at in range(0, 40, 10):
        world.user.packets(*sent[at : at + 10])
    assert not world.user.link.sent
    world.user.driver.flush()
    assert not world.user.link.sent
    world.user.link.writable = True
    world.user.driver.flush()
    world.exchange()
    assert world.one.written() == sent
    # and what comes later does not overtake
    world.user.link.writable = False
    world.user.packets(to_one(100))
    world.user.link.writable = True
    world.user.packets(to_one(101))
    world.exchange()
    assert world.one.written() == [to_one(100), to_one(101)]


def test_a_link_that_is_busy_still_takes_handshakes(world: World) -> None:
    """Else a saturated link could not renew its keys: it is never writable for long."""
    world.connect()
    world.user.link.writable = False
    world.user.packets(to_one(1))
    world.loop.advance(16)
    peer = world.user.tunnel.peer_named("one")
    assert peer is not None
    world.user.tunnel.ping(peer, world.loop.now)
    world.user.driver.drain()
    assert world.user.link.sent
    assert world.user.driver.drops[DropReason.LINK_DOWN] == 0
    world.exchange()
    assert world.user.pongs


def test_what_is_said_while_the_link_is_down_is_counted(world: World) -> None:
    world.start()
    world.user.link.writable = world.user.link.is_up = False
    peer = world.user.tunnel.peer_named("one")
    assert peer is not None
    assert not world.user.tunnel.can_seal(peer, world.loop.now)
    world.user.driver.drain()
    assert world.user.driver.drops[DropReason.LINK_DOWN] == 1
    world.user.packets(to_one(1))
    world.user.link.writable = world.user.link.is_up = True
    world.user.driver.check_peers()
    world.exchange()
    assert world.one.written() == [to_one(1)]


def test_what_nobody_holds_is_counted_and_the_rest_goes_on(world: World) -> None:
    world.connect()
    nowhere = packet("10.86.0.2", "8.8.8.8")
    strange = bytes(10) + b"\x50" + bytes(40)
    world.user.packets(nowhere, to_one(1), strange, to_one(2), nowhere)
    assert world.user.driver.drops == {DropReason.NO_ROUTE: 2, DropReason.BAD_PACKET: 1}
    world.exchange()
    assert world.one.written() == [to_one(1), to_one(2)]
    world.user.packets(nowhere)
    assert not world.user.link.sent


def test_both_ip_versions(world: World) -> None:
    world.connect()
    one = ip_network("fd50::/64")[5].packed
    header = b"\x60\0\0\0" + (8).to_bytes(2) + b"\x3b\x40" + bytes(16) + one
    world.user.packets(bytes(10) + header + bytes(8))
    assert [dest for dest, _ in world.user.link.sent] == [str(world.one.address)]
    assert world.user.driver.drops == {}


def test_what_the_kernel_refuses_is_counted(world: World) -> None:
    world.connect()
    records = [to_one(n) for n in range(3)]
    world.user.packets(*records)
    world.one.tun.ours.shutdown(socket.SHUT_WR)
    world.exchange()
    assert world.one.driver.drops == {DropReason.TUN_REFUSED: 3}


def test_a_super_packet_crosses_whole(world: World) -> None:
    world.connect()
    record = bytes(tcp_super(60_000, 1400))
    world.user.packets(record)
    world.exchange()
    assert world.one.written() == [record]


@pytest.mark.parametrize("features", [Feature(0), Feature.CHECKSUM, Feature.CHECKSUM | Feature.TSO4])
def test_a_peer_gets_only_what_it_takes(world: World, features: Feature) -> None:
    world.start(features)
    tcp, udp = bytes(tcp_super(60_000, 1400)), bytes(udp_super(10_000, 1200))
    world.user.packets(tcp, udp, to_one(7))
    world.exchange()
    written = world.one.written()
    assert world.one.driver.drops == {}
    there = world.one.tunnel.peer_named("user")
    assert there is not None
    assert there.all_drops() == {}
    if features & Feature.TSO4:
        assert written[0] == tcp
        del written[0]
    else:
        assert len(written) > 43
    assert written[-1] == to_one(7)
    for record in written[:-1]:
        assert record[:10] == offload.PLAIN
        assert len(record) <= 1500
        assert_finished(record[10:])


def test_equal_datagrams_of_one_flow_cross_as_one(world: World) -> None:
    world.connect()
    others = [to_one(1), to_one(2)]  # the first leaves alone
    sent = [bytes(datagram(noise(1200, seed=n), number=n)) for n in range(20)]
    last = bytes(datagram(b"short", number=20))
    world.user.packets(*others, *sent, last)
    peer = world.user.tunnel.peer_named("one")
    assert peer is not None
    world.exchange()
    *written_others, joined, written_last = world.one.written()
    assert (written_others, written_last) == (others, last)
    assert apart([joined]) == apart(sent)
    there = world.one.tunnel.peer_named("user")
    assert there is not None
    assert there.all_drops() == {}
    assert (peer.traffic.tx_packets, peer.traffic.tx_bytes) == (
        there.traffic.rx_packets,
        there.traffic.rx_bytes,
    )
    assert peer.traffic.tx_packets == 5
    assert peer.traffic.tx_bytes == 3 * len(others[0]) + len(joined) + len(last) - 50


def test_a_flood_of_datagrams_is_several_messages_and_arrives_whole(world: World) -> None:
    world.connect()
    sent = [bytes(datagram(n.to_bytes(2) + noise(1398, seed=n), number=n)) for n in range(400)]
    world.user.packets(*sent)
    assert max(len(payload) for _, payload in world.user.link.sent) < BATCH_BYTES + 2000
    world.exchange()
    assert apart(world.one.written()) == apart(sent)


def test_joined_datagrams_are_cut_for_a_slow_link(world: World) -> None:
    world.connect()
    world.user.link.rate = 1e6
    sent = [bytes(datagram(noise(1200, seed=n), number=n)) for n in range(20)]
    world.user.packets(to_one(1), *sent)
    world.exchange()
    first, *written = world.one.written()
    assert first == to_one(1)
    assert len(written) > 1
    assert max(map(len, written)) <= 4000
    assert apart(written) == apart(sent)


def test_a_kernel_that_refuses_what_it_granted_gets_datagrams(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.connect()
    sent = [bytes(datagram(noise(1200, seed=n), number=n)) for n in range(20)]
    world.user.packets(to_one(1), *sent)
    whole = os.write

    def write(fd: int, record: memoryview) -> int:
        if record[1] == offload.GSO_UDP_L4:
            raise OSError(errno.EINVAL, "no such kind")
        return whole(fd, record)

    monkeypatch.setattr(os, "write", write)
    world.exchange()
    assert world.one.driver.drops == {}
    assert world.one.written()[1:] == apart(sent)


def test_a_peer_s_many_small_packets_leave_turns_for_others(world: World) -> None:
    world.connect()
    world.user.written()
    peer = world.one.tunnel.peer_named("user")
    assert peer is not None
    small = [packet("192.168.50.10", "10.86.0.2", number.to_bytes(4)) for number in range(3000)]
    arena, at = bytearray(MAX_BATCH_BYTES), 0
    for record in small:
        at = put_record(arena, at, record)
    sealed = bytearray(MAX_BATCH_BYTES + SEAL_BYTES)
    prefix, size = world.one.tunnel.seal(peer, memoryview(arena)[:at], memoryview(sealed), peer.path.lane)
    world.user.driver.on_message(InboundMessage(str(world.one.address), prefix + bytes(sealed[:size])))
    written = [world.user.written()]
    assert len(written[0]) == TURN_PACKETS, "the loop goes on to other things then"
    world.two.packets(packet("192.168.60.10", "10.86.0.2", b"a token"))
    world.exchange()
    written.append(world.user.written())
    assert [record[-7:] for record in written[1]].count(b"a token") == 1, "it waits for one turn"
    while world.loop.soon:
        world.loop.turn()
        written.append(world.user.written())
        assert len(written[-1]) <= TURN_PACKETS
    got = [record for turn in written for record in turn if record[-7:] != b"a token"]
    assert got == small, "in their order"
    assert not world.user.driver.drops


def test_what_a_peer_sends_beyond_its_queue_is_dropped_and_counted(world: World) -> None:
    """From whichever address it comes: the keys say whose it is."""
    world.connect()
    world.user.written()
    peer = world.one.tunnel.peer_named("user")
    assert peer is not None
    record = packet("192.168.50.10", "10.86.0.2", b"")
    arena = bytearray(len(record) + 4)
    batch = bytes(arena[: put_record(arena, 0, record)]) * 7000
    sealed = bytearray(MAX_BATCH_BYTES + SEAL_BYTES)
    for source in (f"__1__.{world.one.address}", str(world.one.address), f"x.{'ab' * 32}"):
        prefix, size = world.one.tunnel.seal(peer, batch, memoryview(sealed), peer.path.lane)
        message = InboundMessage(source, prefix + bytes(sealed[:size]))
        world.user.driver.on_message(message)
    assert len(world.user.written()) == TURN_PACKETS
    assert world.user.driver.drops == {DropReason.QUEUE_FULL: 3 * 7000 - TURN_PACKETS - MAX_PACKETS}
    world.user.driver.stop()
    world.loop.turn()
    assert world.user.written() == [], "the descriptor may be another file's by now"


def test_datagrams_for_two_peers_are_not_mixed_up(world: World) -> None:
    world.connect()
    ones = [bytes(datagram(bytes([n]), number=n)) for n in range(12)]
    twos = [bytes(datagram(bytes([n]), number=n, dst="192.168.60.10")) for n in range(12)]
    order = [*ones[:4], *twos[:4], ones[4], twos[4], *ones[5:], *twos[5:]]
    world.user.packets(*order)
    world.exchange()
    for side, sent in ((world.one, ones), (world.two, twos)):
        assert [made[-1] for made in apart(side.written())] == list(range(len(sent)))


@pytest.mark.parametrize("features", [Feature(0), Feature.ALL & ~Feature.USO])
def test_datagrams_are_not_joined_for_a_peer_that_cannot_cut_them(world: World, features: Feature) -> None:
    world.start(features)
    sent = [bytes(datagram(bytes([n]), number=n)) for n in range(12)]
    world.user.packets(*sent[:2])
    world.exchange()
    world.user.packets(*sent[2:])
    world.exchange()
    written = world.one.written()
    assert len(written) == len(sent)
    assert [record[-1] for record in written] == list(range(len(sent)))
    for record in written:
        assert (record[0] & offload.NEEDS_CSUM) == (features & Feature.CHECKSUM)


def test_a_device_that_fails_within_a_run_does_no_harm(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.connect()
    side = world.user
    whole = os.readv
    left = 5

    def readv(fd: int, buffers: Sequence[memoryview]) -> int:
        nonlocal left
        left -= 1
        if not left:
            raise OSError(errno.EINVAL, "no such thing")
        return whole(fd, buffers)

    monkeypatch.setattr(os, "readv", readv)
    with pytest.raises(OSError, match="no such thing"):
        side.packets(*(bytes(datagram(number=n)) for n in range(9)))
    side.packets(to_one(1))
    world.exchange()
    assert world.one.written()[-1] == to_one(1)


def test_more_than_a_batch_is_several_messages_and_all_arrive(world: World) -> None:
    world.connect()
    records = [bytes(tcp_super(60_000, 1400, seq=n)) for n in range(20)]
    for at in range(0, 20, 5):
        world.user.packets(*records[at : at + 5])
    assert max(len(payload) for _, payload in world.user.link.sent) < 400_000
    world.exchange()
    assert world.one.written() == records


def test_the_timer_is_armed_for_the_next_deadline_only(world: World) -> None:
    world.connect()
    world.user.packets(to_one(1))
    world.exchange()
    deadline = world.user.tunnel.poll_timeout()
    assert deadline is not None
    world.user.driver.drain()
    world.user.driver.drain()
    assert len(world.loop.armed) == 3  # one a driver
    assert any(timer.at == pytest.approx(deadline.at) for timer in world.loop.armed)
    world.loop.advance(1000)
    assert len(world.loop.armed) <= 3
    assert world.user.losses


def test_what_a_rate_holds_back_needs_no_other_event_to_leave(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time passes between a flush and the look for the next deadline: what was held back may go by then."""
    world.connect()
    user, loop = world.user, world.loop

    def ticking() -> float:
        loop.now += 0.0005
        return loop.now

    monkeypatch.setattr(user.driver, "_clock", ticking)
    user.tunnel.told_rate(user.tunnel.peers[str(world.one.address)], 1_000_000, loop.now)
    sent = [to_one(n, 100 + 37 * n % 1270) for n in range(200)]
    for at in range(0, len(sent), 20):
        user.packets(*sent[at : at + 20])
    seconds = 200 * 1400 * 8 / 1e6
    loop.advance(seconds + 0.1)
    assert not user.tunnel.backlog
    world.exchange()
    assert len(world.one.written()) > 100  # of the others, delays have dropped some


def test_a_device_that_was_deleted_is_made_again_in_a_thread_and_read_on(world: World) -> None:
    world.connect()
    world.loop.remove_reader(world.user.tun.fd)  # as when a read says that the device is gone
    asyncio.run(world.user.driver.renew_device())
    (thread,) = world.user.tun.renewed_by
    assert thread != threading.get_ident(), "the kernel makes devices one after another, and we may wait"
    world.user.packets(to_one(1))
    world.exchange()
    assert world.one.written() == [to_one(1)]


def test_stop_reads_no_more_and_leaves_no_timer(world: World) -> None:
    world.connect()
    side = world.user
    side.driver.stop()
    assert side.tun.fd not in world.loop.readers
    assert len(side.data_sent()) == 2  # goodbye to both
    world.exchange()
    assert world.one.losses == ["user has gone offline"]
    world.one.driver.stop()
    world.two.driver.stop()
    assert not side.link.sent
    assert not [timer for timer in world.loop.armed if timer.callback == side.driver._on_timer]


def test_link_up_asks_the_peers_that_are_up(world: World) -> None:
    world.start()
    world.user.start(PeerConfig("one", world.one.address, (ip_network("192.168.50.0/24"),)), persistent=True)
    world.loop.advance(0.01)
    world.exchange()
    assert world.user.ups == ["one"]
    world.user.driver.check_peers()
    world.exchange()
    assert [pong.peer.name for pong in world.user.pongs] == ["one"]


def test_garbage_from_the_node_is_counted_and_goes_no_further(world: World) -> None:
    world.connect()
    for payload in (b"", b"\xff", os.urandom(100)):
        world.user.driver.on_message(InboundMessage("x", payload))
        world.user.driver.on_message(InboundMessage(str(world.one.address), memoryview(payload)))
    assert not world.user.written()
    assert not world.user.link.sent


def test_a_device_that_is_down_is_no_crash(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.connect()

    def readv(fd: int, buffers: object) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "readv", readv)
        world.loop.readers[world.user.tun.fd](world.user.tun.fd)
    world.user.packets(to_one(1))
    world.exchange()
    assert world.one.written() == [to_one(1)]


@pytest.mark.parametrize("record", [to_one(1), bytes(datagram())], ids=["alone", "joined"])
def test_flows_that_are_answered_leave_a_queue_that_is_flooded(world: World, record: bytes) -> None:
    """The kernel queues their packets where what is for them was written last."""
    world.connect()
    side = world.user
    other, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with other, kernel:
        for end in (other, kernel):
            end.setblocking(False)
        side.tun.fds.append(other.fileno())
        side.packets(*[record] * (FLOOD_PACKETS - 1))
        world.one.packets(packet("192.168.50.10", "10.86.0.2", b"a"))
        world.exchange()
        assert len(side.written()) == 1, "that was no flood"
        side.packets(*[record] * FLOOD_PACKETS)
        world.one.packets(packet("192.168.50.10", "10.86.0.2", b"b"))
        world.exchange()
        assert not side.written()
        assert kernel.recv(2000).endswith(b"b")
