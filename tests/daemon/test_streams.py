"""Direct TCP streams of two sides, on loopback: who dials, which one stays, and what ends them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network

from nconnect.daemon.seams import DriverStream
from nconnect.daemon.streams import Streams
from nconnect.errors import DropReason
from nconnect.io.net import streams
from nconnect.io.net.stream_link import StreamLink
from nconnect.model import Endpoint
from nconnect.tunnel.outputs import StreamEnds
from nconnect.tunnel.paths.datagrams import DatagramPath
from nconnect.tunnel.paths.direct.candidates import Network, Route
from nconnect.tunnel.paths.direct.path import DirectPath
from nconnect.tunnel.paths.direct.surroundings import Surroundings
from nconnect.wire.direct import Candidate, CandidateKind, Candidates, NatVerdict
from nconnect.wire.stream import OPEN_BYTES
from tests.loops import run, run_on_both, until
from tests.sim.network import Host
from tests.tunnel.hostile import connected


def reachable_at(ports: list[int]) -> DatagramPath:
    """What a tunnel knows of a peer that has told these ports of 127.0.0.1, which no real peer may."""
    machine = DirectPath(Surroundings(1), now=0.0, rng=bytes)
    here = ip_address("127.0.0.1")
    found = [Candidate(CandidateKind.HOST, Endpoint(here, port)) for port in ports]
    machine._finder.theirs = Candidates(1, NatVerdict.EASY, 1472, 1, tuple(found))
    machine.reachable = lambda: found  # type: ignore[method-assign]
    return DatagramPath(machine, 0.0)


class Side:
    """A tunnel with a session, its streams, and what became of them."""

    def __init__(self, host: Host, other: Host) -> None:
        self.host = host
        self.peer = host.peer(other)
        self.listener = streams.bind(4, 0)
        self.port: int = self.listener.getsockname()[1]
        self.used: list[DriverStream] = []
        self.ever = 0
        around = self.around = Surroundings(self.port)
        self.streams = Streams(
            host.address, host.tunnel, self, around, [self.listener], clock=lambda: host.sim.now
        )

    def add_stream(self, link: DriverStream) -> bool:
        if not self.host.tunnel.stream_opened(link.peer, 8 + self.ever, self.host.sim.now):
            return False
        self.used.append(link)
        self.ever += 1
        return True

    def drop_stream(self, link: DriverStream) -> None:
        if link in self.used:
            self.used.remove(link)

    def flush(self) -> None: ...

    def knows(self, *others: Side) -> None:
        """There is traffic to the peer, which has told where it is."""
        self.peer.datagrams = reachable_at([other.port for other in others])
        self.peer.traffic.tx_packets += 1

    @property
    def link(self) -> StreamLink | None:
        return self.streams.link(self.peer)


@asynccontextmanager
async def both() -> AsyncIterator[tuple[Side, Side]]:
    _, user, provider = connected()
    sides = Side(user, provider), Side(provider, user)
    tasks = [asyncio.create_task(side.streams.run()) for side in sides]
    try:
        yield sides
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not any(side.used for side in sides), "a stream was left"


def test_a_peer_with_traffic_is_dialled_once() -> None:
    async def test() -> None:
        async with both() as (user, provider):
            user.knows(provider)
            await until(lambda: user.link and provider.link)
            assert user.link is not None
            assert user.link.remote.port == provider.port
            user.streams.look()
            user.streams.look()
            assert (user.ever, provider.ever) == (1, 1)
            assert user.used[0].send("", (b"x",))

    run_on_both(test)


def test_nobody_is_dialled_without_traffic() -> None:
    async def test() -> None:
        async with both() as (user, provider):
            user.knows(provider)
            user.streams._known.clear()
            user.peer.traffic.tx_packets = user.peer.traffic.rx_packets = 0
            user.streams.look()
            assert not user.streams._dials
            user.peer.traffic.tx_packets = 1
            user.streams.look()
            assert user.streams._dials
            await until(lambda: provider.link)

    run(test)


def test_both_sides_dial_and_keep_the_same_stream() -> None:
    async def test() -> None:
        async with both() as (user, provider):
            user.knows(provider)
            provider.knows(user)
            user.streams.look()
            provider.streams.look()
            await until(lambda: not user.streams._dials and not provider.streams._dials)
            await until(lambda: len(user.used) == len(provider.used) == 1)
            first = user if user.host.address.public_key < provider.host.address.public_key else provider
            for side in (user, provider):
                assert side.link is not None
                assert side.link.is_ours is (side is first)
            came: list[bytes] = []
            provider.used[0].on_message = lambda message: came.append(bytes(message.payload))
            assert user.used[0].send("", (b"x",))
            await until(lambda: came)

    run(test)


def test_a_session_that_ends_closes_the_stream_on_both_sides() -> None:
    async def test() -> None:
        async with both() as (user, provider):
            user.knows(provider)
            await until(lambda: user.link and provider.link)
            provider.streams.ended(StreamEnds(provider.peer))
            assert provider.link is None
            await until(lambda: user.link is None)
            assert not user.used
            assert not provider.used

    run(test)


def test_a_peer_that_is_removed_or_off_loses_its_stream() -> None:
    async def test() -> None:
        async with both() as (user, provider):
            user.knows(provider)
            await until(lambda: user.link and provider.link)
            provider.host.tunnel.settings.direct = "off"
            provider.streams.look()
            assert provider.link is None
            await until(lambda: user.link is None)

    run(test)


TUNNEL = Network(routes=(Route(ip_network("127.0.0.0/8"), is_tunnel=True),))


def test_a_stream_through_the_tunnel_itself_is_closed() -> None:
    """A peer can dial our address in the tunnel: each segment would be a packet for the stream."""

    async def test() -> None:
        async with both() as (user, provider):
            provider.around.set_network(TUNNEL)
            user.knows(provider)
            await until(lambda: user.ever)
            await until(lambda: user.link is None)
            assert not provider.ever

    run(test)


def test_a_route_of_the_tunnel_that_comes_later_ends_a_stream() -> None:
    async def test() -> None:
        async with both() as (user, provider):
            user.knows(provider)
            await until(lambda: user.link and provider.link)
            provider.around.set_network(TUNNEL)
            provider.streams.look()
            assert provider.link is None
            assert not provider.used

    run(test)


def test_a_stream_that_breaks_is_dialled_again() -> None:
    async def test() -> None:
        async with both() as (user, provider):
            user.knows(provider)
            await until(lambda: user.link and provider.link)
            first = user.link
            user.host.sim.now += 60.0
            user.peer.traffic.tx_packets += 1
            assert provider.link is not None
            provider.link.close()
            await until(lambda: user.link is None)
            user.host.sim.now += 1.0
            await until(lambda: user.link is not None)
            assert user.link is not first

    run(test)


def test_another_port_takes_the_place_of_the_old_one() -> None:
    async def test() -> None:
        async with both() as (user, provider):
            await until(lambda: provider.streams._listener)
            old = provider.port
            provider.listener = streams.bind(4, 0)
            provider.port = provider.listener.getsockname()[1]
            provider.streams.listen([provider.listener])
            user.knows(provider)
            await until(lambda: user.link and provider.link)
            with socket.socket() as late:
                assert late.connect_ex(("127.0.0.1", old)) != 0

    run(test)


def test_who_gets_no_stream_is_counted_also_once_the_port_is_another() -> None:
    async def test() -> None:
        async with both() as (_, provider):
            await until(lambda: provider.streams._listener)
            with socket.socket() as stranger:
                stranger.connect(("127.0.0.1", provider.port))
                stranger.sendall(bytes(OPEN_BYTES))
                await until(lambda: provider.streams.refused[DropReason.NO_SESSION])
            provider.listener = streams.bind(4, 0)
            provider.streams.listen([provider.listener])
            assert provider.streams.refused == {DropReason.NO_SESSION: 1}

    run(test)
