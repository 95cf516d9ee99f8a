"""TCP connections through streams: between two of ours, and with nkn-tunnel, over our node."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from lab import official
from nconnect.crypto.keys import Identity
from nconnect.errors import ConfigError, HostError, StreamError
from nconnect.model import NknAddress
from nconnect.nkn import MultiClient
from nconnect.sdk import tunnel
from nconnect.sdk.stream import Stream
from nconnect.sdk.tunnel import StreamTunnel, TcpPlace, parse_source, parse_target
from nconnect.streams.joining import reset
from tests.loops import run, until
from tests.nkn.net import Net
from tests.ports import free_port

needs_nkn_tunnel = pytest.mark.skipif(
    bool(official.missing("nkn-tunnel")), reason="needs nkn-tunnel (scripts/setup --dev)"
)
SEED = b"\x07" * 32
ADDRESS = Identity(SEED).public_key.hex()
OUR_KEY = Identity(b"\x08" * 32).public_key.hex()


class Server:
    """A TCP server: the first byte of a connection says what it does."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.digests: list[bytes] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            match await reader.readexactly(1):
                case b"e":  # echo until the end
                    while data := await reader.read(1 << 16):
                        writer.write(data)
                        await writer.drain()
                case b"h":  # a digest of what came before the end
                    self.digests.append(hashlib.sha256(await reader.read()).hexdigest().encode())
                    writer.write(self.digests[-1])
                case b"d":  # so many bytes, and a close
                    writer.write(pattern(int.from_bytes(await reader.readexactly(4), "big")))
                case b"r":  # a reset in the middle
                    writer.write(b"some of it")
                    await writer.drain()
                    await reader.readexactly(1)
                    reset(writer)
                    return
            await writer.drain()
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            writer.close()


def pattern(size: int) -> bytes:
    return bytes(range(251)) * (size // 251 + 1)


@asynccontextmanager
async def tcp_server() -> AsyncIterator[Server]:
    made = Server(0)
    async with await asyncio.start_server(made.answer, "127.0.0.1", 0) as server:
        made.port = server.sockets[0].getsockname()[1]
        yield made


@asynccontextmanager
async def ours(net: Net, seed: bytes, source: Any, target: Any, accept: Any = ()) -> AsyncIterator[str]:
    """A tunnel of ours; where it listens."""
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with MultiClient(seed, seed_rpc=net.seed) as client:
        await client.wait_up(4, timeout_s=30.0)
        task = asyncio.create_task(StreamTunnel(client, source, target, accept).run(listening.set_result))
        await asyncio.wait((task, listening), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        try:
            yield await listening
        finally:
            task.cancel()
            await asyncio.wait((task,))


@asynccontextmanager
async def theirs(net: Net, *arguments: str, port: int | None = None) -> AsyncIterator[None]:
    """nkn-tunnel, once it listens (at `port`, or on NKN)."""
    process = await asyncio.create_subprocess_exec(
        str(official.program("nkn-tunnel")),
        *("-rpc", net.seed, "-v", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    if port is None:
        said = ""
        while "istening at" not in said:
            line = await process.stdout.readline()
            assert line, said
            said += line.decode()
    else:
        await until_listening(port)
    draining = asyncio.create_task(process.stdout.read())
    try:
        yield
    finally:
        process.terminate()
        await process.wait()
        await draining


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def until_listening(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            await closed(writer)
            return


async def download(port: int, size: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"d" + size.to_bytes(4, "big"))
    data = await reader.read()
    await closed(writer)
    return data


async def echo(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(b"e" + data)
    back = await reader.readexactly(len(data))
    await closed(writer)
    return back


async def upload_and_half_close(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"h" + data)
    writer.write_eof()
    answer = await reader.read()
    await closed(writer)
    return answer


def test_connections_between_two_of_ours() -> None:
    async def test() -> None:
        port = free_port()
        async with (
            Net.running() as net,
            tcp_server() as server,
            ours(net, SEED, "nkn", TcpPlace("127.0.0.1", server.port), [OUR_KEY]) as address,
            ours(net, b"\x08" * 32, TcpPlace("127.0.0.1", port), NknAddress.parse(address)),
        ):
            assert address == ADDRESS
            assert await echo(port, os.urandom(100_000))
            assert len(await download(port, 3_000_000)) == len(pattern(3_000_000))
            data = os.urandom(2_000_000)
            assert await upload_and_half_close(port, data) == hashlib.sha256(data).hexdigest().encode()
            got = await asyncio.gather(*(echo(port, bytes([n]) * 5000) for n in range(30)))
            assert got == [bytes([n]) * 5000 for n in range(30)]
            # A reset there is one here, not an end.
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"r")
            assert await reader.readexactly(10) == b"some of it"
            writer.write(b".")
            with pytest.raises(OSError, match="reset"):
                await reader.read()
            await closed(writer)

    run(test, within_s=90.0)


def test_who_is_not_accepted_or_not_there_gets_a_reset() -> None:
    async def test() -> None:
        port, nobody = free_port(), free_port()
        async with (
            Net.running() as net,
            ours(net, SEED, "nkn", TcpPlace("127.0.0.1", nobody), [OUR_KEY]) as address,
            ours(net, b"\x08" * 32, TcpPlace("127.0.0.1", port), NknAddress.parse(address)),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with pytest.raises(OSError, match="reset"):
                await reader.read()  # nobody listens at the target
            await closed(writer)
            with pytest.raises(HostError, match="cannot listen"):
                async with ours(net, b"\x09" * 32, TcpPlace("127.0.0.1", port), NknAddress.parse(address)):
                    pass

    run(test, within_s=90.0)


def test_a_key_has_at_most_as_many_streams_as_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel, "MAX_JOINED", 4)

    async def opened(client: MultiClient, address: str) -> Stream | None:
        """A stream that echoes, None for one that is refused."""
        stream = await client.dial(address)
        stream.write(b"e+")
        try:
            return stream if await stream.read() == b"+" else None
        except StreamError:
            return None

    async def test() -> None:
        async with (
            Net.running() as net,
            tcp_server() as server,
            ours(net, SEED, "nkn", TcpPlace("127.0.0.1", server.port), "all") as address,
            MultiClient(seed_rpc=net.seed, sub_clients=1) as greedy,
            MultiClient(seed_rpc=net.seed, sub_clients=1) as other,
        ):
            first, second = await opened(greedy, address), await opened(greedy, address)
            assert first is not None
            assert second is not None
            assert await opened(greedy, address) is None, "two are open, and two are free"
            assert await opened(other, address) is not None
            assert await opened(other, address) is None, "one is open, and one is free"
            await first.close()
            await until(lambda: first.at_eof)
            # What has ended counts no more.
            async with asyncio.timeout(10):
                while await opened(other, address) is None:
                    pass

    run(test, within_s=60.0)


@needs_nkn_tunnel
def test_nkn_tunnel_dials_ours() -> None:
    async def test() -> None:
        port = free_port()
        async with (
            Net.running() as net,
            tcp_server() as server,
            ours(net, SEED, "nkn", TcpPlace("127.0.0.1", server.port), "all") as address,
            theirs(net, "-from", f"127.0.0.1:{port}", "-to", address, "-s", "08" * 32, port=port),
        ):
            data = os.urandom(500_000)
            assert await echo(port, data) == data
            began = time.monotonic()
            assert await download(port, 3_000_000) == pattern(3_000_000)
            assert time.monotonic() - began < tunnel.QUIET_END_S / 2, "the server's end is told soon"

    run(test, within_s=90.0)


@pytest.mark.slow  # it waits, and nkn-tunnel cuts off what it has not sent a second after the end
@needs_nkn_tunnel
def test_ours_dials_nkn_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel, "QUIET_END_S", 4.0)

    async def test() -> None:
        port = free_port()
        async with (
            Net.running() as net,
            tcp_server() as server,
            theirs(net, "-from", "nkn", "-to", f"127.0.0.1:{server.port}", "-s", SEED.hex()),
            ours(net, b"\x08" * 32, TcpPlace("127.0.0.1", port), NknAddress.parse(ADDRESS)),
        ):
            data = os.urandom(500_000)
            assert await echo(port, data) == data
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"d" + (3_000_000).to_bytes(4, "big"))
            writer.write_eof()  # the answer comes nevertheless
            assert await reader.read() == pattern(3_000_000)
            await closed(writer)
            # A server that waits for the end gets it once nothing has come back for a while.
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"h" + data)
            writer.write_eof()
            await reader.read()
            await closed(writer)
            await until(lambda: server.digests)
            assert server.digests == [hashlib.sha256(data).hexdigest().encode()]

    run(test, within_s=90.0)


def test_places_are_read() -> None:
    assert parse_source("nkn") == "nkn"
    assert parse_source("8080") == TcpPlace("127.0.0.1", 8080)
    assert parse_source("[::1]:80") == TcpPlace("::1", 80)
    assert str(parse_target("[::1]:80")) == "[::1]:80"
    assert parse_target("x." + "ab" * 32) == NknAddress("x", b"\xab" * 32)
    for text in ("", "host", "host:", ":99999", "host:x", "1.2.3.4:-1", "host:0"):
        with pytest.raises(ConfigError):
            parse_source(text)
        with pytest.raises(ConfigError):
            parse_target(text)
