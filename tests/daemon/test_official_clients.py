"""Clients of the official nConnect at a provider: who is let in, and what becomes of their streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from nconnect.config.file import parse_config
from nconnect.crypto.keys import Identity
from nconnect.crypto.shadowsocks import ShadowCipher
from nconnect.daemon import official_clients
from nconnect.daemon.official_clients import OfficialClients, address_of, let_in
from nconnect.daemon.settings import InForce
from nconnect.errors import ConfigError, NoReply, StreamError
from nconnect.invite.table import PeerTable
from nconnect.model import Config
from nconnect.nkn import MultiClient
from nconnect.streams.dialler import Stream, StreamRefused
from nconnect.streams.nconnect_dialler import NconnectDialler
from nconnect.wire import official_nconnect as official
from tests.loops import run, until
from tests.nkn.net import Net

SEED, FRIEND, OTHER = b"\x07" * 32, b"\x08" * 32, b"\x09" * 32
TEXT = """
[interface]
seed = "{seed}"
identifier = "gpu"
address = ["10.86.0.1/24", "fd86::1/64"]
{streams}
[[peer]]
name = "friend"
address = "{friend}"
allowed_ips = ["10.86.0.2/32"]
{flag}
[[peer]]
name = "other"
address = "{other}"
allowed_ips = ["10.86.0.3/32"]
"""


def config(streams: str = "[streams]\nnconnect = true", flag: str = "nconnect = true") -> Config:
    keys = {name: Identity(seed).public_key.hex() for name, seed in (("friend", FRIEND), ("other", OTHER))}
    return parse_config(TEXT.format(seed=SEED.hex(), streams=streams, flag=flag, **keys), interface="nc0")


class Provider:
    """The part, with a client on a node of ours, and an acceptor that echoes."""

    def __init__(self, net: Net) -> None:
        self.in_force = InForce(PeerTable(config(), {}))
        self.served: list[tuple[bytes, str, int]] = []
        self.ended: list[str] = []
        self.part = OfficialClients(
            self.in_force,
            self.serve,
            lambda identifier: MultiClient(SEED, identifier=identifier, seed_rpc=net.seed, sub_clients=2),
        )
        self.address = str(address_of(self.in_force.config, Identity(SEED).public_key))

    async def serve(self, key: bytes, host: str, port: int, stream: Stream) -> None:
        self.served.append((key, host, port))
        if port == 1:
            raise StreamRefused("not allowed")
        try:
            while data := await stream.read():
                stream.write(data)
                await stream.drain()
            await stream.close()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise

    def put(self, changed: Config) -> None:
        self.in_force.put(PeerTable(changed, {}))
        self.part.config_changed()


@asynccontextmanager
async def provider() -> AsyncIterator[tuple[Net, Provider]]:
    async with Net.running() as net:
        made = Provider(net)
        task = asyncio.create_task(made.part.run())
        try:
            await net.has_clients(2)
            yield net, made
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def client(net: Net, made: Provider, seed: bytes = FRIEND) -> AsyncIterator[NconnectDialler]:
    async with MultiClient(seed, identifier="any", seed_rpc=net.seed, sub_clients=2) as near:
        yield NconnectDialler(near, made.address, cipher=ShadowCipher.CHACHA20, password="")


def test_both_flags_are_needed() -> None:
    friend = Identity(FRIEND).public_key
    assert let_in(config()) == {friend}
    assert let_in(config(flag="")) == set()
    assert let_in(config(streams="")) == set()
    assert let_in(config(streams="[streams]")) == set()
    with pytest.raises(ConfigError, match="nconnect"):
        config(streams="[streams]\nnconnect = 1")
    with pytest.raises(ConfigError, match="nconect"):
        config(streams="[streams]\nnconect = true")


def test_a_stream_is_served_with_the_key_and_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with provider() as (net, made), client(net, made) as dialler:
            await dialler.check()  # refused, which the client sees at once
            stream = await dialler.open("192.168.50.10", 80)
            stream.write(b"hello")
            assert await stream.read() == b"hello"
            await stream.close()
            friend = Identity(FRIEND).public_key
            assert made.served == [(friend, "127.0.0.1", 1), (friend, "192.168.50.10", 80)]
            info = await dialler._client.send(made.address, official.info_request())
            assert info is not None
            assert info.data is not None
            assert str(official.read_info(info.data).address) == made.address
            assert official.read_info(info.data).local_ips == ("10.86.0.1",)
            seed = await dialler._client.send(made.address, '{"id":"nConnect","method":"getSeed"}')
            assert seed is not None
            assert "permission denied" in str(seed.data)

    run(test, within_s=60.0)


def test_a_key_that_is_not_let_in_gets_no_answer() -> None:
    async def test() -> None:
        async with provider() as (net, made), client(net, made, OTHER) as dialler:
            near = dialler._client
            with pytest.raises(NoReply):
                await near.send(made.address, official.info_request(), reply_timeout_s=0.5)
            with pytest.raises(StreamError):
                await (await near.dial(made.address, timeout_s=1.0)).read()
            assert made.served == []

    run(test, within_s=60.0)


def test_a_right_that_ends_ends_the_streams_and_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with provider() as (net, made), client(net, made) as dialler:
            stream = await dialler.open("192.168.50.10", 80)
            stream.write(b"hello")
            assert await stream.read() == b"hello"
            made.put(replace(made.in_force.config, peers=made.in_force.config.peers[1:]))
            await until(lambda: made.ended == ["cancelled"])
            with pytest.raises(StreamError):
                await stream.read()
            await net.has_clients(2)  # the dialler's alone
            made.put(config())
            await net.has_clients(4)
            await dialler.check()

    run(test, within_s=60.0)


def test_streams_without_a_target_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official_clients, "MAX_STREAMS_OF_A_KEY", 3)
    monkeypatch.setattr(official_clients, "TARGET_S", 0.5)

    async def test() -> None:
        async with provider() as (net, made), client(net, made) as dialler:
            near = dialler._client
            silent: list[Any] = [await near.dial(made.address) for _ in range(3)]
            with pytest.raises(StreamError):
                await (await near.dial(made.address)).read()
            for stream in silent:
                with pytest.raises(StreamError):
                    await stream.read()  # it named no target in time
            noise = await near.dial(made.address)
            noise.write(bytes(100))  # not authentic
            with pytest.raises(StreamError):
                await noise.read()
            assert made.served == []
            await dialler.check()

    run(test, within_s=60.0)
