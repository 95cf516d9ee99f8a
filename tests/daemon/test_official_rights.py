"""The rights of a client of the official nConnect: the real acceptor behind `OfficialClients`.

A server on 127.0.0.1 stands for a machine of the subnet behind the provider.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from nconnect.config.file import parse_config
from nconnect.crypto.keys import Identity
from nconnect.daemon import stream_acceptor
from nconnect.daemon.stream_acceptor import StreamAcceptor
from nconnect.daemon.stream_rights import StreamRights
from nconnect.errors import StreamError
from nconnect.model import Config, Endpoint
from nconnect.streams.nconnect_dialler import NconnectDialler
from tests.daemon.test_official_clients import FRIEND, SEED, Provider, client, provider
from tests.loops import run, until

HOST, PORT = "192.168.50.10", 8000
TEXT = f"""
[interface]
seed = "{SEED.hex()}"
identifier = "gpu"
address = ["10.86.0.1/24"]
[streams]
nconnect = true
[provide]
subnets = ["192.168.50.0/24"]
[[peer]]
name = "friend"
address = "{Identity(FRIEND).public_key.hex()}"
allowed_ips = ["10.86.0.2/32"]
allow = ["{HOST}:{PORT}/tcp"]
nconnect = true
"""


class World:
    """A provider whose acceptor is the real one, and a server that echoes."""

    def __init__(self, made: Provider, dialler: NconnectDialler, server_port: int) -> None:
        self.made = made
        self.dialler = dialler
        self.server_port = server_port
        self.reached = 0  # connections that the server has had
        self.limits: dict[str, int] = {}
        self.config: Config = parse_config(TEXT, interface="nc0")
        self.rights = StreamRights(
            made.in_force,
            shut=tuple,
            why_shut=lambda _: "",
            own_addresses=self._own,
            max_flows=lambda: self.limits,
        )
        sessions: Any = None  # of peers with our own program: not asked here
        made.part._serve = StreamAcceptor(self.rights, sessions).serve
        self.put(self.config)

    async def _own(self) -> set[Any]:
        return {ip_address("10.86.0.1"), ip_address("127.0.0.1"), ip_address("192.168.50.1")}

    def put(self, config: Config) -> None:
        self.made.put(config)
        self.rights.look()

    async def ends(self, host: str, port: int) -> None:
        """A stream to there ends without a byte."""
        stream = await self.dialler.open(host, port)
        stream.write(b"hello")
        with suppress(StreamError):
            assert await stream.read() == b""
        stream.abort()


@asynccontextmanager
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    connect = stream_acceptor.connected

    async def to_real(target: Endpoint) -> object:
        """The host of the subnet is the server; all others are themselves."""
        if target == Endpoint(ip_address(HOST), PORT):
            target = Endpoint(ip_address("127.0.0.1"), made.server_port)
        return await connect(target)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.reached += 1
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    monkeypatch.setattr(stream_acceptor, "connected", to_real)
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, provider() as (net, given), client(net, given) as dialler:
        made = World(given, dialler, server.sockets[0].getsockname()[1])
        yield made


def test_an_allowed_target_is_reached_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with world(monkeypatch) as here:
            stream = await here.dialler.open(HOST, PORT)
            sent = os.urandom(300_000)
            stream.write(sent)
            got = b""
            while len(got) < len(sent):
                got += await stream.read()
            assert got == sent
            (peer,) = here.config.peers
            assert dict(here.rights.count) == {str(peer.address): 1}
            await stream.close()
            await until(lambda: not here.rights.count)
            assert here.rights.opened == {"friend": 1}
            assert here.rights.refused == {}

    run(test, within_s=60.0)


def test_a_target_that_is_not_allowed_is_not_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with world(monkeypatch) as here:
            targets = [
                (HOST, PORT + 1),  # another port of an allowed host
                ("192.168.50.11", PORT),  # another host of the subnet
                ("127.0.0.1", here.server_port),  # the provider's machine itself
                ("::ffff:127.0.0.1", here.server_port),
                ("192.168.50.1", here.server_port),
            ]
            for host, port in targets:
                await here.ends(host, port)
            assert here.rights.refused == {"friend": {"refused": len(targets)}}
            await here.ends("localhost", here.server_port)  # names are resolved by nobody
            assert here.reached == 0
            assert here.rights.opened == {}
            assert not here.rights.count
            here.limits["friend"] = 0
            await here.ends(HOST, PORT)
            assert here.rights.refused["friend"]["flow_limit"] == 1
            assert here.reached == 0

    run(test, within_s=60.0)


def test_a_right_that_ends_cuts_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with world(monkeypatch) as here:
            (peer,) = here.config.peers
            without = {"paused": replace(peer, paused="holiday"), "rule": replace(peer, allow=())}
            for changed in without.values():
                here.put(here.config)
                stream = await here.dialler.open(HOST, PORT)
                stream.write(b"hello")
                assert await stream.read() == b"hello"
                here.put(replace(here.config, peers=(changed,)))
                with suppress(StreamError):
                    assert await stream.read() == b""
                await until(lambda: not here.rights.count)
                stream.abort()
                await here.ends(HOST, PORT)
            assert here.reached == len(without)

    run(test, within_s=60.0)
