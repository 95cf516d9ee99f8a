"""Clients over nodes with TLS: pinned seeds, an attacker in between, and the address that works."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from nconnect.config.proxy import UNPROXIED
from nconnect.crypto.keys import Identity
from nconnect.errors import NconnectError
from nconnect.io.http.http import Request, Response
from nconnect.io.http.http_server import HttpServer
from nconnect.io.net import certificate
from nconnect.io.net.certificate import server_context
from nconnect.io.nkn.node_server import NodeServer
from nconnect.io.nkn.ways import open_first
from nconnect.model import NodeConfig
from nconnect.nkn import Client
from nconnect.nkn.outputs import Connect
from nconnect.nkn.ways import PLAIN_WAY, Way
from nconnect.node.settings import NodeSettings
from nconnect.wire.jsonrpc import NodeInfo
from tests.io.serving import url_of
from tests.loops import run

SOON_S = 0.7  # for what is to fail


@contextlib.asynccontextmanager
async def node(folder: Path, name: str = "node", **ports: int) -> AsyncIterator[NodeServer]:
    """A node with a certificate of its own; without `ports` it has one port."""
    given = {"port": None, "ws_port": None, "rpc_port": None, **(ports or {"port": 0})}
    config = NodeConfig.of("127.0.0.1", tls=True, **given)  # type: ignore[arg-type]
    settings = NodeSettings(rate_per_s=None)
    server = NodeServer(
        config, Identity(name.encode().ljust(32)), settings, own_certificate=folder / f"{name}.pem"
    )
    await server.start()
    try:
        yield server
    finally:
        await server.close()
        await asyncio.sleep(0)


async def exchange(*seeds: str) -> NodeInfo:
    """Log in and send a message to ourselves; the node that we were connected to."""
    async with Client(seed_rpc=seeds, connect_timeout_s=10.0) as client:
        await client.send(client.address, b"hello", no_reply=True)
        async for message in client:
            assert message.data == b"hello"
            break
        return client.last_nodes[0]
    raise AssertionError


async def refused(*seeds: str) -> str:
    with pytest.raises(NconnectError) as told:
        async with Client(seed_rpc=seeds, connect_timeout_s=SOON_S):
            pass
    return str(told.value)


@contextlib.asynccontextmanager
async def seed_naming(
    info: Callable[[str], object], pem: Path | None = None
) -> AsyncIterator[tuple[str, list[str]]]:
    """A seed that answers what it is told to, over TLS with this certificate; URL and what it was asked."""
    asked: list[str] = []

    async def answer(ask: Request) -> Response:
        method = json.loads(ask.body)["method"]
        asked.append(method)
        found = info(method)
        if isinstance(found, NodeInfo):
            return Response.json({"id": "1", "jsonrpc": "2.0", "result": found.to_json()})
        return Response.json({"id": "1", "jsonrpc": "2.0", "error": {"code": -45001, "message": "none"}})

    if pem is None:
        async with url_of(answer) as url:
            yield url, asked
        return
    server = await HttpServer.listen_tcp("127.0.0.1", 0, answer, tls=server_context(pem, None))
    try:
        yield f"https://127.0.0.1:{server.port}#sha256={certificate.fingerprint(pem)}", asked
    finally:
        await server.close()


def test_a_pinned_seed_and_its_one_port(tmp_path: Path) -> None:
    async def test() -> None:
        async with node(tmp_path) as server:
            found = await exchange(server.seed_url())
            assert found.addr == f"127.0.0.1:{server.port}"
            assert server.node.stats().logins == 1

    run(test)


def test_a_pinned_seed_whose_websocket_has_another_port(tmp_path: Path) -> None:
    async def test() -> None:
        async with node(tmp_path, ws_port=0, rpc_port=0, wss_port=0, https_port=0) as server:
            found = await exchange(server.seed_url())
            assert found.addr == f"127.0.0.1:{server.wss_port}"

    run(test)


def test_a_pinned_seed_that_names_another_node_with_its_certificate(tmp_path: Path) -> None:
    async def test() -> None:
        pem = tmp_path / "seed.pem"
        certificate.make_unless_there(pem, ["127.0.0.1"])
        async with node(tmp_path) as server:
            told = server.node_info("127.0.0.1", secure=True)
            assert told is not None
            async with seed_naming(lambda _: told, pem) as (url, asked):
                await exchange(url)
                assert asked == ["getwssaddr"]
            lie = NodeInfo(told.addr, "", told.public_key, "", "ab" * 32)
            async with seed_naming(lambda _: lie, pem) as (url, _):
                assert "is not the one that" in await refused(url)

    run(test)


def test_somebody_in_between_is_refused(tmp_path: Path) -> None:
    """His node has another certificate, at the address that the seed URL names."""

    async def test() -> None:
        async with node(tmp_path) as honest, node(tmp_path, "mallory") as mallory:
            pin = honest.seed_url().partition("#")[2]
            why = await refused(f"https://127.0.0.1:{mallory.port}#{pin}")
            assert f"(sha256 {mallory.fingerprint}): somebody may be in between" in why
            assert mallory.node.stats().connections == mallory.node.stats().logins == 0

    run(test)


def test_somebody_before_the_websocket_alone_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with node(tmp_path) as honest, node(tmp_path, "mallory") as mallory:
            told = mallory.node_info("127.0.0.1", secure=True)
            assert told is not None
            named = NodeInfo(told.addr, "", honest.public_key.hex(), "")
            async with seed_naming(lambda _: named, tmp_path / "node.pem") as (url, _):
                assert "is not the one that" in await refused(url)
            assert mallory.node.stats().logins == 0

    run(test)


def test_tls_is_never_given_up(tmp_path: Path) -> None:
    """A pinned seed that names an address without TLS: nothing is said there in plain text."""

    async def test() -> None:
        async with node(tmp_path, ws_port=0, rpc_port=0, wss_port=0, https_port=0) as server:
            told = server.node_info("127.0.0.1")
            assert told is not None
            async with seed_naming(lambda _: told, tmp_path / "node.pem") as (url, asked):
                assert "does not speak TLS" in await refused(url)
                assert set(asked) == {"getwssaddr"}
            assert server.node.stats().logins == 0

    run(test)


@pytest.mark.parametrize("dead", ["refused", "silent"])
def test_a_plain_seed_whose_node_is_reached_by_tls_alone(dead: str, tmp_path: Path) -> None:
    """The certificate is not looked at: nobody vouches for what such a seed says anyway."""

    async def test() -> None:
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(node(tmp_path))
            secure = server.node_info("127.0.0.1", secure=True)
            assert secure is not None
            silent = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
            writers: list[asyncio.StreamWriter] = []
            stack.push_async_callback(silent.wait_closed)
            stack.callback(silent.close)
            stack.callback(lambda: [writer.close() for writer in writers])
            port = silent.sockets[0].getsockname()[1] if dead == "silent" else 1
            plain = NodeInfo(f"127.0.0.1:{port}", "", secure.public_key, "")
            seed = seed_naming(lambda method: secure if method == "getwssaddr" else plain)
            url, asked = await stack.enter_async_context(seed)
            found = await exchange(url)
            assert found.addr == secure.addr
            assert asked == ["getwsaddr", "getwssaddr"]

    run(test)


def test_a_plain_seed_whose_node_has_no_tls_is_asked_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with node(tmp_path, ws_port=0, rpc_port=0, wss_port=0, https_port=0) as server:
            told = server.node_info("127.0.0.1")
            async with seed_naming(lambda method: told if method == "getwsaddr" else None) as (url, asked):
                await exchange(url)
                assert asked == ["getwsaddr"]

    run(test)


@pytest.mark.parametrize("way", [PLAIN_WAY, Way(secure=True)])
def test_a_websocket_that_nobody_takes_is_closed(way: Way, tmp_path: Path) -> None:
    """As that of the slower of two ways is, and the one that `doctor` opens."""

    async def test() -> None:
        async with node(tmp_path, ws_port=0, rpc_port=0, wss_port=0, https_port=0) as server:
            told = server.node_info("127.0.0.1", secure=way.secure)
            assert told is not None
            opened = await open_first(
                Connect(told, 5.0, (way,)), "", tls=None, proxies=UNPROXIED, on_found=lambda _: None
            )
            opened.socket.close()
            assert opened.socket.closed

    run(test)
