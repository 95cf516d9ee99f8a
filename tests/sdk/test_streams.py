"""Streams between our clients, over our node."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from nconnect.errors import ClientClosed, ConfigError, StreamClosed, StreamError
from nconnect.nkn import MultiClient, Stream, StreamServer
from tests.loops import run, until
from tests.nkn.net import Net


@asynccontextmanager
async def two(**options: int) -> AsyncIterator[tuple[Net, MultiClient, MultiClient]]:
    async with (
        Net.running() as net,
        MultiClient(identifier="alice", seed_rpc=net.seed, **options) as alice,  # type: ignore[arg-type]
        MultiClient(identifier="bob", seed_rpc=net.seed) as bob,
    ):
        await bob.wait_up(4, timeout_s=30.0)
        yield net, alice, bob


@asynccontextmanager
async def connected(**options: int) -> AsyncIterator[tuple[Net, StreamServer, Stream, Stream]]:
    """A stream, as the one that dialled and the one that accepted have it."""
    async with two(**options) as (net, alice, bob), bob.listen([alice.public_key]) as server:
        stream = await alice.dial(bob.address)
        yield net, server, stream, await server.accept(timeout_s=30.0)


async def read_all(stream: Stream) -> bytes:
    parts = []
    while data := await stream.read():
        parts.append(data)
    return b"".join(parts)


async def write_all(stream: Stream, data: bytes) -> None:
    for at in range(0, len(data), 1 << 16):
        stream.write(data[at : at + (1 << 16)])
        await stream.drain()


def test_data_goes_both_ways_and_each_direction_ends_by_itself() -> None:
    async def test() -> None:
        async with connected() as (net, _, stream, accepted), asyncio.TaskGroup() as tasks:
            assert stream.can_end
            data, back = os.urandom(5_000_000), os.urandom(3_000_000)
            got = tasks.create_task(read_all(accepted))
            await write_all(stream, data)
            stream.write_eof()
            with pytest.raises(StreamClosed):
                stream.write(b"more")
            assert await got == data
            answer = tasks.create_task(read_all(stream))
            await write_all(accepted, back)
            await accepted.close()
            assert await answer == back
            assert stream.at_eof
            await stream.close()
            assert net.drops() == {}

    run(test, within_s=90.0)


@pytest.mark.parametrize("sub_clients", [1, 2])
def test_small_packets_over_fewer_sub_clients(sub_clients: int) -> None:
    async def test() -> None:
        async with connected(sub_clients=sub_clients, mtu=1024) as (_, _, stream, accepted):
            data = os.urandom(300_000)
            await write_all(stream, data)
            assert await accepted.readexactly(len(data), timeout_s=10.0) == data
            stream.write(b"tail")
            await stream.close()
            with pytest.raises(asyncio.IncompleteReadError) as missed:
                await accepted.readexactly(5)
            assert missed.value.partial == b"tail"

    run(test, within_s=90.0)


def test_a_time_limit_and_a_cancel_leave_the_stream_usable() -> None:
    async def test() -> None:
        async with connected() as (_, _, stream, accepted):
            with pytest.raises(TimeoutError):
                await accepted.read(timeout_s=0.02)
            reading = asyncio.create_task(accepted.read())
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
            stream.write(b"still here")
            assert await accepted.read(timeout_s=30.0) == b"still here"
            while True:
                stream.write(bytes(1 << 20))
                try:
                    await stream.drain(timeout_s=0.3)
                except TimeoutError:
                    break
            assert await accepted.read(timeout_s=30.0)

    run(test, within_s=90.0)


def test_a_stream_that_is_aborted_is_an_error_at_the_other_side() -> None:
    async def test() -> None:
        async with connected() as (_, _, stream, accepted):
            stream.write(b"half")
            assert await accepted.read() == b"half"
            with pytest.raises(RuntimeError):
                async with stream:
                    raise RuntimeError
            with pytest.raises(StreamError, match="cut"):
                await accepted.read(timeout_s=30.0)
            with pytest.raises(StreamClosed):
                await stream.read()

    run(test, within_s=90.0)


def test_writing_to_a_stream_that_the_other_side_closed_fails() -> None:
    async def test() -> None:
        async with connected() as (_, _, stream, accepted):
            await accepted.close()
            assert await stream.read(timeout_s=30.0) == b""
            await until(lambda: stream._session.is_closed)
            with pytest.raises(StreamError, match="closed"):
                stream.write(b"late")
            await stream.close()

    run(test, within_s=90.0)


def test_who_is_not_accepted_gets_no_answer() -> None:
    async def test() -> None:
        async with two() as (_, alice, bob):
            for refusing in ([], ["ff" * 32], ["other." + alice.public_key.hex()]):
                with bob_listening(bob, refusing), pytest.raises(StreamError, match="does not accept"):
                    await alice.dial(bob.address, timeout_s=0.3)
            assert set(bob.stream_refusals) == {"not_accepted"}
            with pytest.raises(StreamError, match="no answer"):
                await alice.dial(bob.address, timeout_s=0.2)
            accepting: list[list[str] | str] = [[alice.address], [alice.public_key.hex()], "all"]
            for accept in accepting:
                with bob_listening(bob, accept):
                    await (await alice.dial(bob.address)).close()

    class bob_listening:
        def __init__(self, bob: MultiClient, accept: object) -> None:
            self.server = bob.listen(accept)  # type: ignore[arg-type]

        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None:
            self.server.close()

    run(test, within_s=90.0)


def test_what_is_wrong_is_said() -> None:
    async def test() -> None:
        async with two() as (_, alice, bob):
            with pytest.raises(ConfigError, match="not an NKN address"):
                await alice.dial("bob")
            for mistaken in ("everybody", ["bob"]):
                with pytest.raises(ConfigError):
                    bob.listen(mistaken)
        with pytest.raises(ClientClosed):
            await alice.dial(bob.address)
        with pytest.raises(ClientClosed):
            bob.listen("all")
        with pytest.raises(ConfigError):
            MultiClient(mtu=0)
        with pytest.raises(ConfigError):
            MultiClient(mtu=4_000_000)
        with pytest.raises(ConfigError):
            MultiClient(window=10)

    run(test, within_s=90.0)


def test_a_client_that_leaves_ends_its_streams() -> None:
    async def test() -> None:
        async with Net.running() as net, MultiClient(seed_rpc=net.seed) as bob:
            server = bob.listen("all")
            async with MultiClient(seed_rpc=net.seed) as alice:
                stream = await alice.dial(bob.address)
                accepted = await server.accept()
                reading = asyncio.create_task(stream.read())
                await asyncio.sleep(0)
            with pytest.raises(StreamError):
                await reading
            with pytest.raises(StreamError, match="cut"):
                await accepted.read(timeout_s=30.0)
            accepting = asyncio.create_task(server.accept())
            await asyncio.sleep(0)
            bob.close()
            with pytest.raises(ClientClosed):
                await accepting

    run(test, within_s=90.0)


def test_what_is_being_closed_arrives_when_the_client_leaves() -> None:
    async def test() -> None:
        async with Net.running() as net, MultiClient(seed_rpc=net.seed) as bob, asyncio.TaskGroup() as tasks:
            server = bob.listen("all")
            async with MultiClient(seed_rpc=net.seed) as alice:
                stream = await alice.dial(bob.address)
                await write_all(stream, bytes(2_000_000))
                closing = tasks.create_task(stream.close())
                await asyncio.sleep(0)
                got = tasks.create_task(read_all(await server.accept()))
            await closing
            assert len(await got) == 2_000_000

    run(test, within_s=90.0)


def test_a_stream_outlives_its_node() -> None:
    async def test() -> None:
        async with connected() as (net, _, stream, accepted), asyncio.TaskGroup() as tasks:
            data = os.urandom(20_000_000)
            writing = tasks.create_task(write_all(stream, data))
            first = await accepted.readexactly(1_000_000)
            await net.restart()
            rest = await accepted.readexactly(len(data) - len(first), timeout_s=25.0)
            await writing
            assert first + rest == data

    run(test, within_s=90.0)


def test_many_streams_at_once_share_the_links() -> None:
    async def test() -> None:
        async with two() as (_, alice, bob), bob.listen("all") as server, asyncio.TaskGroup() as tasks:

            async def echo(stream: Stream) -> None:
                stream.write(await stream.readexactly(10_000))
                await stream.close()

            async def accept() -> None:
                for _ in range(50):
                    tasks.create_task(echo(await server.accept()))

            async def ask(number: int) -> None:
                async with await alice.dial(bob.address) as stream:
                    stream.write(bytes([number]) * 10_000)
                    assert await stream.readexactly(10_000, timeout_s=20.0) == bytes([number]) * 10_000

            tasks.create_task(accept())
            await asyncio.gather(*map(ask, range(50)))
            await until(lambda: len(bob._streams.sessions) == len(alice._streams.sessions) == 0)

    run(test, within_s=90.0)


def test_a_stream_is_quiet_once_all_was_read_and_nothing_comes() -> None:
    async def test() -> None:
        async with connected() as (_, _, stream, accepted):
            quiet = asyncio.create_task(stream.wait_quiet(0.2))
            accepted.write(b"not read yet")
            await until(lambda: stream._session.receiver.ready_bytes)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await asyncio.shield(quiet)
            await stream.read()
            await quiet
            other = asyncio.create_task(stream.wait_quiet(60.0))
            accepted.abort()
            await other  # the stream ended

    run(test, within_s=30.0)
