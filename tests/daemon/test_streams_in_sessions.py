"""A user's dialler and a provider's acceptor over one session: two cores and drivers on a real loop.

The loop hands over each message in its next turn. A server on 127.0.0.1 stands for a machine of the subnet
behind the provider.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, cast

import pytest

from nconnect.crypto.aead import CipherSuite
from nconnect.crypto.keys import Identity
from nconnect.daemon import datagram_acceptor, stream_acceptor
from nconnect.daemon.datagram_acceptor import DatagramAcceptor
from nconnect.daemon.driver import Driver
from nconnect.daemon.session_dialler import SessionDialler
from nconnect.daemon.session_streams import SessionStreams
from nconnect.daemon.settings import InForce
from nconnect.daemon.stream_acceptor import StreamAcceptor
from nconnect.daemon.stream_rights import StreamRights
from nconnect.errors import HostError, StreamError
from nconnect.invite.table import PeerTable
from nconnect.io.clock import boottime
from nconnect.io.process import descriptors
from nconnect.model import (
    AllowRule,
    Buffer,
    Config,
    Endpoint,
    MappedPrefix,
    NknAddress,
    PeerConfig,
    ProvideConfig,
    ProvidedSubnet,
    Service,
)
from nconnect.offers.statement import Statement
from nconnect.streams.dialler import RefusalCode, StreamRefused
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import DatagramCame, Output, Settings, StreamAsked, StreamMoved
from nconnect.wire.nkn import InboundMessage
from tests.daemon.test_driver import FakeLink, FakeTun

SUBNET = ip_network("192.168.50.0/24")
HOST = "192.168.50.10"


class Link(FakeLink):
    """Hands each message to the other side in the loop's next turn."""

    other: Side

    def __init__(self, source: str) -> None:
        super().__init__()
        self._source = source

    def send(self, dest: str, parts: Sequence[Buffer]) -> bool:
        message = InboundMessage(self._source, b"".join(parts))
        asyncio.get_running_loop().call_soon(lambda: self.other.link.on_message(message))
        return True


class Side:
    def __init__(self, name: str, seed: int) -> None:
        self.identity = Identity(bytes([seed]) * 32)
        self.address = NknAddress(name, self.identity.public_key)
        self.tun = FakeTun()
        self.link = Link(str(self.address))
        self.acceptor: StreamAcceptor | None = None
        self.datagrams: DatagramAcceptor | None = None
        self.rights: StreamRights | None = None

    def start(self, config: Config) -> None:
        self.in_force = InForce(PeerTable(config, {}))
        loop = asyncio.get_running_loop()
        self.tunnel = Tunnel(
            self.identity,
            self.address,
            config.peers,
            Settings(CipherSuite.AES256GCM, persistent=False),
            now=boottime(),
            rng=os.urandom,
            wall_clock_ns=time.time_ns,
        )
        self.driver = Driver(self.tun, self.tunnel, [self.link], self.told, loop)
        self.streams = SessionStreams(self.tunnel, self.driver, loop)
        self.driver.start()

    def told(self, output: Output) -> None:
        if isinstance(output, StreamMoved):
            self.streams.moved(output)
        elif isinstance(output, StreamAsked) and self.acceptor is not None:
            self.acceptor.asked(output)
        elif isinstance(output, DatagramCame):
            self.streams.datagram_came(output)
            if self.datagrams is not None:
                self.datagrams.came(output)

    def put(self, config: Config) -> None:
        """Another configuration is in force."""
        self.in_force.put(PeerTable(config, {}))
        assert self.rights is not None
        self.rights.look()


class Pair:
    """Both sides, up. `shut`: peers whose access the provider has ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shut: set[str] = set()
        self.quota = ""
        self.is_apart = False
        self.judged = 0
        self.judging = asyncio.Event()
        self.judging.set()
        self.limits: dict[str, int] = {}
        self.own = {ip_address("10.86.0.1"), ip_address("127.0.0.1"), ip_address("192.168.50.1")}
        self.real: dict[Endpoint, Endpoint] = {}  # what a target stands for on this machine
        connect = stream_acceptor.connected

        async def to_real(target: Endpoint) -> object:
            return await connect(self.real.get(target, target))

        monkeypatch.setattr(stream_acceptor, "connected", to_real)
        self.user, self.provider = user, provider = Side("user", 1), Side("gpu", 2)
        user.link.other, provider.link.other = provider, user
        laptop = PeerConfig("laptop", user.address, (ip_network("10.86.0.2/32"),))
        self.provided = Config(
            "nc7",
            bytes(32),
            "gpu",
            (ip_interface("10.86.0.1/24"),),
            provide=ProvideConfig((ProvidedSubnet(SUBNET, SUBNET),)),
            peers=(laptop,),
        )
        gpu = PeerConfig("gpu", provider.address, (ip_network("10.86.0.1/32"), SUBNET))
        self.using = Config("nc8", bytes(32), "user", (ip_interface("10.86.0.2/24"),), peers=(gpu,))

    async def start(self) -> None:
        self.provider.start(self.provided)
        self.user.start(self.using)

        async def own() -> set[object]:
            self.judged += 1
            if self.judged == 2 and not self.judging.is_set():
                self.judging.set()
                await asyncio.Event().wait()
            return self.own  # type: ignore[return-value]

        rights = self.rights = StreamRights(
            self.provider.in_force,
            shut=lambda: self.shut,
            why_shut=lambda _: self.quota,
            own_addresses=own,  # type: ignore[arg-type]
            max_flows=lambda: self.limits,
            is_apart=self.is_apart,
        )
        self.acceptor = self.provider.acceptor = StreamAcceptor(rights, self.provider.streams)
        self.datagrams = self.provider.datagrams = DatagramAcceptor(rights, self.provider.streams)
        self.provider.rights = rights
        self.dialler = SessionDialler(
            self.user.in_force, self.user.tunnel, self.user.streams, lambda: self.statements
        )
        self.statements: dict[str, Statement] = {}

    async def close(self) -> None:
        await self.acceptor.close()
        await self.datagrams.close()
        for side in (self.user, self.provider):
            side.driver.stop()
            side.tun.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write(b"end")
        writer.close()


def run(
    monkeypatch: pytest.MonkeyPatch,
    test: Callable[[Pair, int], Awaitable[None]],
    *,
    is_apart: bool = False,
) -> None:
    async def main() -> None:
        pair = Pair(monkeypatch)
        pair.is_apart = is_apart
        writers: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            await echo(reader, writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        pair.real[Endpoint(ip_address(HOST), port)] = Endpoint(ip_address("127.0.0.1"), port)
        await pair.start()
        try:
            await asyncio.wait_for(test(pair, port), 20)
        finally:
            await pair.close()
            server.close()
            for writer in writers:
                writer.transport.abort()
            await asyncio.sleep(0)  # in the next turn they are closed
            await asyncio.sleep(0)

    asyncio.run(main())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - the acceptor tells nobody
        await asyncio.sleep(0.01)


async def refused(pair: Pair, host: str, port: int) -> StreamRefused:
    with pytest.raises(StreamRefused) as caught:
        await pair.dialler.open(host, port)
    return caught.value


def test_a_stream_reaches_a_server_behind_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(pair: Pair, port: int) -> None:
        stream = await pair.dialler.open(HOST, port)
        sent = os.urandom(3_000_000)

        async def write() -> None:
            for at in range(0, len(sent), 100_000):
                stream.write(sent[at : at + 100_000])
                await stream.drain()
            stream.write_eof()

        writing = asyncio.create_task(write())
        got = bytearray()
        while data := await stream.read():
            got += data
        await writing
        assert bytes(got) == sent + b"end"
        await stream.close()
        assert pair.rights.opened["laptop"] == 1
        assert pair.provider.tunnel.peer_named("laptop").traffic.rx_bytes > 3_000_000  # type: ignore[union-attr]

    run(monkeypatch, test)


def test_what_is_not_allowed_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(pair: Pair, port: int) -> None:
        allowed = AllowRule(ip_network(f"{HOST}/32"), (port, port), "tcp")
        laptop = replace(pair.provided.peers[0], allow=(allowed,))
        pair.provider.put(replace(pair.provided, peers=(laptop,)))
        for host, other in ((HOST, port + 1), ("192.168.50.11", port), ("192.168.50.1", 22)):
            error = await refused(pair, host, other)
            assert error.code is RefusalCode.NOT_ALLOWED
            assert error.reason == f"gpu: {host}:{other} (tcp) is not among what this peer may reach"
        await (await pair.dialler.open(HOST, port)).close()
        assert pair.rights.refused["laptop"]["refused"] == 3

    run(monkeypatch, test)


def test_a_target_that_refuses_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(pair: Pair, port: int) -> None:
        nobody = Endpoint(ip_address("192.168.50.12"), 9)
        pair.real[nobody] = Endpoint(ip_address("127.0.0.1"), 1)
        error = await refused(pair, "192.168.50.12", 9)
        assert error.code is RefusalCode.CONNECTION_REFUSED
        assert "192.168.50.12" not in error.reason or "ECONNREFUSED" in error.reason

    run(monkeypatch, test)


@pytest.mark.parametrize("how", ["allow", "pause", "remove", "quota", "subnet"])
def test_a_right_that_ends_takes_its_streams_along(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(pair: Pair, port: int) -> None:
        stream = await pair.dialler.open(HOST, port)
        stream.write(b"x")
        assert await stream.read() == b"x"
        laptop = pair.provided.peers[0]
        if how == "quota":
            pair.quota = "the quota of 1G/day is used up"
            pair.rights.look()
        elif how == "subnet":
            pair.provider.put(replace(pair.provided, provide=ProvideConfig()))
        else:
            changed = {
                "allow": (replace(laptop, allow=()),),
                "pause": (replace(laptop, paused="at dinner"),),
                "remove": (),
            }[how]
            pair.provider.put(replace(pair.provided, peers=changed))
        with pytest.raises(StreamError) as caught:
            await asyncio.wait_for(stream.read(), 1)
        words = {"quota": "quota", "pause": "at dinner", "remove": "no such peer"}
        assert words.get(how, "") in str(caught.value)
        assert not pair.rights.count
        if how != "remove":
            assert (await refused(pair, HOST, port)).code is RefusalCode.NOT_ALLOWED

    run(monkeypatch, test)


def test_the_tunnels_own_address_means_this_machine_where_the_tunnel_is_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(pair: Pair, port: int) -> None:
        services = (Service((port, port), "tcp"),)
        provide = replace(pair.provided.provide, services=services)
        pair.provider.put(replace(pair.provided, provide=provide))
        stream = await pair.dialler.open("10.86.0.1", port)
        stream.write(b"x")
        assert await stream.read() == b"x"
        stream.abort()
        assert (await refused(pair, "10.86.0.1", port + 1)).code is RefusalCode.NOT_ALLOWED

    run(monkeypatch, test, is_apart=True)


def test_streams_count_against_the_bound_on_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(pair: Pair, port: int) -> None:
        pair.limits["laptop"] = 2
        first, _second = await pair.dialler.open(HOST, port), await pair.dialler.open(HOST, port)
        assert (await refused(pair, HOST, port)).code is RefusalCode.TOO_MANY
        assert pair.rights.refused["laptop"]["flow_limit"] == 1
        first.write_eof()
        while await first.read():
            pass
        await first.close()
        await until(lambda: sum(pair.rights.count.values()) == 1)
        await pair.dialler.open(HOST, port)

    run(monkeypatch, test)


def test_streams_leave_descriptors_to_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(pair: Pair, port: int) -> None:
        monkeypatch.setattr(descriptors, "limit", lambda: 8)
        first, _second = await pair.dialler.open(HOST, port), await pair.dialler.open(HOST, port)
        assert (await refused(pair, HOST, port)).code is RefusalCode.TOO_MANY, "a quarter for one peer"
        assert pair.rights.refused["laptop"]["flow_limit"] == 1
        first.abort()
        await until(lambda: sum(pair.rights.count.values()) == 1)
        await pair.dialler.open(HOST, port)

    run(monkeypatch, test)


def test_datagrams_that_wait_for_their_socket_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(pair: Pair, port: int) -> None:
        large = bytes(30_000)
        event = DatagramCame(
            pair.provider.tunnel.peers[str(pair.user.address)],
            1,
            Endpoint(ip_address(HOST), 53),
            large,
            is_ours=False,
        )
        for _ in range(10):
            pair.datagrams.came(event)
        (way,) = pair.datagrams._ways.values()
        assert len(way._waiting) == 3, "no more than a little above 64 KiB"

    run(monkeypatch, test)


def test_a_socket_that_takes_nothing_has_no_growing_buffer() -> None:
    class Full:
        def __init__(self) -> None:
            self.held = 0

        def get_write_buffer_size(self) -> int:
            return self.held

        def sendto(self, data: bytes) -> None:
            self.held += len(data)

    async def test() -> None:
        peer = cast(Any, None)
        way = datagram_acceptor._Way(cast(Any, None), peer, cast(Any, None))
        way._transport = cast(Any, Full())
        for _ in range(1000):
            way.send(bytes(1000))
        assert cast(Any, way._transport).held < 2 * datagram_acceptor.MAX_WAITING_BYTES

    asyncio.run(test())


def test_nothing_is_left_of_datagrams_whose_target_cannot_be_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(pair: Pair, port: int) -> None:
        asked = asyncio.Event()

        async def fails() -> set[object]:
            asked.set()
            raise HostError("cannot read this machine's addresses: Too many open files")

        monkeypatch.setattr(pair.rights, "_own_addresses", fails)
        channel = await pair.dialler.datagrams()
        channel.send(HOST, 53, b"x")
        await asked.wait()
        await until(lambda: not pair.datagrams._ways)
        assert not pair.rights.count

    run(monkeypatch, test)


def test_the_longest_prefix_chooses_and_mapped_addresses_are_the_peers_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(pair: Pair, port: int) -> None:
        gpu = pair.using.peers[0]
        seen = ip_network("192.168.150.0/24")
        mapped = replace(gpu, allowed_ips=(seen,), mapped=(MappedPrefix(SUBNET, seen),))
        pair.user.tunnel.set_peers([mapped], boottime())
        stream = await pair.dialler.open("192.168.150.10", port)
        stream.write(b"x")
        assert await stream.read() == b"x"
        stream.abort()
        assert (await refused(pair, HOST, port)).code is RefusalCode.NO_ROUTE

    run(monkeypatch, test)


def test_names_are_resolved_on_this_side_and_others_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(pair: Pair, port: int) -> None:
        server = Endpoint(ip_address("127.0.0.1"), port)
        pair.provided = replace(pair.provided, inbound=True)
        pair.real[Endpoint(ip_address("10.86.0.1"), port)] = server
        assert "gpu.internal" in pair.dialler.names()
        assert (await refused(pair, "other.internal", port)).code is RefusalCode.UNKNOWN_NAME
        assert (await refused(pair, "example.org", 443)).code is RefusalCode.NO_ROUTE
        assert (await refused(pair, "8.8.8.8", 443)).code is RefusalCode.NO_ROUTE

    run(monkeypatch, test)


def test_a_program_that_goes_away_ends_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(pair: Pair, port: int) -> None:
        stream = await pair.dialler.open(HOST, port)
        assert pair.rights.count
        stream.abort()
        await until(lambda: not pair.rights.count)

    run(monkeypatch, test)


class UdpEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data + b"!", addr)  # type: ignore[attr-defined]


async def udp_server() -> tuple[asyncio.BaseTransport, int]:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        UdpEcho, local_addr=("127.0.0.1", 0)
    )
    return transport, transport.get_extra_info("sockname")[1]


def test_datagrams_reach_a_server_behind_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(pair: Pair, port: int) -> None:
        server, udp = await udp_server()
        connect = datagram_acceptor._Way.connect

        async def to_real(self: datagram_acceptor._Way, target: Endpoint) -> None:
            await connect(self, Endpoint(ip_address("127.0.0.1"), target.port))

        monkeypatch.setattr(datagram_acceptor._Way, "connect", to_real)
        channel = await pair.dialler.datagrams()
        for number in range(3):
            channel.send(HOST, udp, b"%d" % number)
        assert {await channel.recv() for _ in range(3)} == {(HOST, udp, b"%d!" % n) for n in range(3)}
        assert pair.rights.count == {str(pair.user.address): 1}
        channel.send("8.8.8.8", 53, b"nowhere")
        channel.send("192.168.51.1", 53, b"behind no peer")
        laptop = replace(pair.provided.peers[0], allow=())
        pair.provider.put(replace(pair.provided, peers=(laptop,)))
        await until(lambda: not pair.rights.count)
        channel.send(HOST, udp, b"refused")
        await until(lambda: bool(pair.rights.refused))
        channel.close()
        with pytest.raises(StreamError):
            await channel.recv()
        server.close()

    run(monkeypatch, test)


def test_a_connection_is_closed_when_the_daemon_stops_before_it_is_judged_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(pair: Pair, port: int) -> None:
        closed = asyncio.Event()

        async def seen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                await reader.read()
            writer.close()
            closed.set()

        server = await asyncio.start_server(seen, "127.0.0.1", 0)
        other = server.sockets[0].getsockname()[1]
        pair.real[Endpoint(ip_address(HOST), other)] = Endpoint(ip_address("127.0.0.1"), other)
        pair.judging.clear()  # the second time nobody answers
        opening = asyncio.create_task(pair.dialler.open(HOST, other))
        await asyncio.wait_for(pair.judging.wait(), 5)
        await pair.acceptor.close()
        await asyncio.wait_for(closed.wait(), 5)
        with pytest.raises(StreamRefused, match="the provider stops"):
            await opening
        server.close()

    run(monkeypatch, test)


def test_many_streams_at_once_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(pair: Pair, port: int) -> None:
        streams = await asyncio.gather(*(pair.dialler.open(HOST, port) for _ in range(200)))
        for number, stream in enumerate(streams):
            stream.write(b"%d" % number)
        assert [await stream.read() for stream in streams] == [b"%d" % number for number in range(200)]
        for stream in streams:
            stream.abort()
        await until(lambda: not pair.rights.count)

    run(monkeypatch, test)
