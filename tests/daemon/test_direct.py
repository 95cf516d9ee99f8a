"""The driver with UDP sockets: two daemons' hot halves on loopback, whose relay is a pair of fake links."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from nconnect.crypto.aead import CipherSuite
from nconnect.daemon.driver import Driver
from nconnect.errors import DropReason
from nconnect.io.net.datagrams import DatagramSocket, Sent
from nconnect.ip import offload
from nconnect.model import Endpoint, PeerConfig
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import Settings
from nconnect.tunnel.paths.datagrams import DatagramPath
from nconnect.tunnel.paths.direct.candidates import LocalAddress, Network
from nconnect.tunnel.paths.direct.outputs import PathState
from nconnect.tunnel.paths.direct.surroundings import Surroundings
from nconnect.tunnel.paths.feedback import RIDE_INTERVAL_S
from tests.daemon.test_calls import Calls
from tests.daemon.test_driver import WALL_NS, Side, World, to_one
from tests.ip.packets import tcp_super
from tests.sim.network import packet

MAX_OUT, MAX_IN = 15, 19  # Python functions until the packet is the kernel's
NETWORK = Network((LocalAddress(ip_interface("127.0.0.1/8")),), ())


class Direct(World):
    """A user and a provider that have found each other's socket on loopback."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets = {side: DatagramSocket.bind(4, 0) for side in (self.user, self.one)}
        for side, peer in (
            (self.one, PeerConfig("user", self.user.address, (ip_network("10.86.0.2/32"),))),
            (self.user, PeerConfig("one", self.one.address, (ip_network("192.168.50.0/24"),))),
        ):
            self._start(side, peer)
        self.two.start()

    def _start(self, side: Side, peer: PeerConfig) -> None:
        loop, datagrams = self.loop, self.sockets[side]
        side.tunnel = Tunnel(
            side.identity,
            side.address,
            [peer],
            Settings(CipherSuite.AES256GCM, persistent=False),
            now=loop.now,
            rng=os.urandom,
            wall_clock_ns=lambda: WALL_NS + int(loop.now * 1e9),
            surroundings=Surroundings(datagrams.port, network=NETWORK),
        )
        side.driver = Driver(
            side.tun,
            side.tunnel,
            [side.link],
            side.told,
            loop,  # type: ignore[arg-type]
            clock=lambda: loop.now,
            datagrams={4: datagrams},
        )
        loop.add_reader = lambda fd, callback, of: loop.readers.__setitem__(fd, lambda _: callback(of))  # type: ignore[method-assign]
        side.driver.start()

    def pump(self, seconds: float = 0.0) -> None:
        """All that is on its way, and that time."""
        end = self.loop.now + seconds
        while True:
            self.exchange()
            fds = [fd for each in self.sockets.values() if (fd := each.fileno()) in self.loop.readers]
            if ready := select.select(fds, [], [], 0)[0]:
                for fd in ready:
                    self.loop.readers[fd](fd)
            elif self.loop.now < end:
                self.loop.advance(min(0.01, end - self.loop.now))
            elif not any(side.link.sent for side in self.sides.values()):
                return

    def close(self) -> None:
        super().close()
        for datagrams in self.sockets.values():
            datagrams.close()


@pytest.fixture
def world() -> Iterator[Direct]:
    made = Direct()
    yield made
    made.close()


def state(side: Side) -> PathState:
    (peer,) = side.tunnel.peers.values()
    assert peer.direct is not None
    return peer.direct.state


def found(world: Direct) -> None:
    """Loopback is no candidate that is told: each side is told where the other's socket is."""
    world.user.packets(to_one(0))
    world.pump(0.1)
    for side, other in ((world.user, world.one), (world.one, world.user)):
        (peer,) = side.tunnel.peers.values()
        assert peer.direct is not None
        endpoint = Endpoint(ip_address("127.0.0.1"), world.sockets[other].port)
        peer.direct._use(peer.direct._probes.pair_at(endpoint), world.loop.now)
        side.tunnel._sessions.direct.settle(peer, world.loop.now)
        side.driver.drain()
    world.pump(0.3)
    assert state(world.user) is state(world.one) is PathState.DIRECT
    world.one.written()


def test_packets_go_by_udp_and_come_in_order(world: Direct) -> None:
    found(world)
    sent = [to_one(n) for n in range(1, 100)]
    world.user.link.sent.clear()
    world.user.packets(*sent)
    assert not world.user.link.sent
    world.pump()
    assert world.one.written() == sent
    answer = packet("192.168.50.10", "10.86.0.2", b"answer")
    world.one.packets(answer)
    world.pump()
    assert world.user.written()[-1] == answer
    assert not world.user.driver.drops


def test_a_super_packet_is_one_write_at_the_other_end(world: Direct) -> None:
    found(world)
    for size in (3000, 20_000, 40_000):
        record = bytes(tcp_super(size, 1000))
        world.user.packets(record)
        world.pump()
        assert world.one.written() == [record]


def test_a_larger_one_is_cut_to_the_path_and_one_write_too(world: Direct) -> None:
    found(world)
    record = tcp_super(60_000, 1448)
    world.user.packets(bytes(record))
    world.pump()
    written = [memoryview(each) for each in world.one.written()]
    assert len(written) == 1
    payload = b"".join(piece[62:] for each in written for piece in offload.split(each))
    assert payload == record[62:]


def test_a_full_socket_drops_and_a_small_route_is_learnt(world: Direct) -> None:
    found(world)
    (peer,) = world.user.tunnel.peers.values()
    assert peer.direct is not None
    assert peer.direct.mtu is not None
    peer.direct.mtu.size = 1400
    answers = [Sent.FULL, Sent.TOO_BIG, Sent.REFUSED]
    datagrams = world.sockets[world.user]
    datagrams.send = lambda *_, **__: answers.pop(0)  # type: ignore[method-assign]
    for number in range(3):
        world.user.packets(to_one(number, 1300))
    assert (peer.drops[DropReason.QUEUE_FULL], peer.drops[DropReason.TOO_BIG]) == (1, 1)
    assert peer.drops[DropReason.LINK_DOWN] == 1
    assert peer.direct.datagram_bytes == 1200


def test_sockets_can_be_taken_away(world: Direct) -> None:
    found(world)
    world.user.driver.set_datagrams({})
    assert world.sockets[world.user].fileno() not in world.loop.readers
    world.user.packets(to_one(1))
    world.pump(3.0)  # the path is silent: the relay takes over
    assert state(world.user) is not PathState.DIRECT
    world.user.packets(to_one(2))
    world.pump()
    assert to_one(2) in world.one.written()


def test_a_packet_is_written_and_answered_before_the_books_are_kept(
    world: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(world)
    one, user = world.one, world.user
    order: list[str] = []
    answer = packet("192.168.50.10", "10.86.0.2", b"answer")
    written, sent, kept = os.write, DatagramSocket.send, type(one.tunnel._sessions).batch_received

    def write(fd: int, data: bytes) -> int:
        order.append("write")
        size = written(fd, data)
        one.tun.kernel.send(answer)  # as the kernel answers a ping, at once
        return size

    def send(*args: Any, **kwargs: Any) -> Sent:
        order.append("answer")
        return sent(*args, **kwargs)

    def keep(*args: Any) -> None:
        order.append("books")
        kept(*args)

    user.packets(to_one(1))
    select.select([world.sockets[one]], [], [], 5)
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(DatagramSocket, "send", send)
    monkeypatch.setattr(type(one.tunnel._sessions), "batch_received", keep)
    one.driver._on_datagrams(world.sockets[one])
    assert order[:3] == ["write", "answer", "books"]


def test_a_report_that_rides_along_is_acted_on_after_the_packet_is_written(
    world: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(world)
    one, user = world.one, world.user
    order: list[str] = []
    written, acted_on = os.write, DatagramPath.on_report

    def write(fd: int, data: bytes) -> int:
        order.append("write")
        return written(fd, data)

    def act(*args: Any, **kwargs: Any) -> None:
        order.append("report")
        acted_on(*args, **kwargs)

    one.packets(packet("192.168.50.10", "10.86.0.2", b"for the user to report on"))
    world.pump(RIDE_INTERVAL_S)
    user.packets(to_one(1))
    select.select([world.sockets[one]], [], [], 5)
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(DatagramPath, "on_report", act)
    one.driver._on_datagrams(world.sockets[one])
    assert order == ["write", "report"]


def test_a_lone_packet_takes_few_calls_each_way(world: Direct) -> None:
    found(world)
    one, user = world.one, world.user
    calls = Calls()
    for _ in range(3):  # a report may ride with the first
        world.loop.advance(0.002)
        user.tun.kernel.send(to_one(1))
        with calls.counting():
            user.driver._on_tun_readable(user.tun.fd)
        out = calls.names[: calls.names.index("DatagramSocket.send") + 1]
        select.select([world.sockets[one]], [], [], 5)
        with calls.counting():
            one.driver._on_datagrams(world.sockets[one])
        came = calls.names[: calls.names.index("TunWriter.write") + 1]
    assert len(out) <= MAX_OUT, "\n".join(out)
    assert len(came) <= MAX_IN, "\n".join(came)
