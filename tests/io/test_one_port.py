"""A node whose RPC and websockets share one port, with and without TLS, and its own certificate."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from websockets.asyncio.client import connect

from nconnect.crypto.keys import Identity
from nconnect.errors import HostError, NconnectError
from nconnect.io.http.http_client import request
from nconnect.io.http.http_connection import Limits
from nconnect.io.net import certificate
from nconnect.io.nkn import node_server
from nconnect.io.nkn.node_server import NodeServer
from nconnect.model import NodeConfig
from nconnect.node.settings import NodeSettings
from tests.io.nkn.running import running
from tests.io.nkn.test_node_server import Client
from tests.loops import run_on_both

NODE = Identity(b"n" * 32)
ADDRESS = "a." + "ab" * 32


class Shared:
    """A node on one port of loopback, and how to reach it."""

    def __init__(self, server: NodeServer, trust: ssl.SSLContext | None) -> None:
        self.server, self.trust = server, trust
        self.port = server.port or 0
        self.place = f"localhost:{self.port}" if trust else f"127.0.0.1:{self.port}"

    async def rpc(self, method: str = "POST", body: bytes = b"", path: str = "/") -> Any:
        url = f"{'https' if self.trust else 'http'}://{self.place}{path}"
        return await request(method, url, body=body, timeout_s=5, tls=self.trust)

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        name = "localhost" if self.trust else None
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.trust, server_hostname=name)

    def websocket(self) -> connect:
        url = f"{'wss' if self.trust else 'ws'}://{self.place}"
        return connect(url, compression=None, max_size=5 << 20, proxy=None, ssl=self.trust)


@contextlib.asynccontextmanager
async def shared(
    folder: Path, tls: bool, *, config: NodeConfig | None = None, **settings: Any
) -> AsyncIterator[Shared]:
    own = folder / "tls.pem"
    config = config or NodeConfig.of("127.0.0.1", port=0, ws_port=None, rpc_port=None, tls=tls)
    server = NodeServer(config, NODE, NodeSettings(**settings), own_certificate=own)
    async with running(server):
        yield Shared(server, ssl.create_default_context(cafile=str(own)) if tls else None)


def ask(method: str) -> bytes:
    return json.dumps({"id": "7", "method": method, "params": {"address": ADDRESS}}).encode()


@pytest.mark.parametrize("tls", [False, True])
def test_rpc_and_websockets_on_one_port(tls: bool, tmp_path: Path) -> None:
    async def test() -> None:
        async with shared(tmp_path, tls) as node, node.websocket() as one, node.websocket() as other:
            alice, bob = Client(one, Identity(b"a" * 32), "alice"), Client(other, Identity(b"b" * 32), "bob")
            await alice.log_in()
            await bob.log_in()
            for size in (0, 70_000, 4_000_000):
                await alice.send(bob.address, bytes(size))
                assert len((await bob.receive()).payload) == size
            named = json.loads((await node.rpc(body=ask("getwssaddr" if tls else "getwsaddr"))).body)[
                "result"
            ]
            assert (named["addr"], named["rpcAddr"]) == (node.place, node.place)
            assert alice.answer["Result"]["node"] == {k: v for k, v in named.items() if k != "sdp"}
            refused = json.loads((await node.rpc(body=ask("getwsaddr" if tls else "getwssaddr"))).body)[
                "error"
            ]
            assert refused["code"] == -45001
            assert ("TLS only" if tls else "no certificate") in refused["data"]
            preflight = await node.rpc("OPTIONS")
            assert (preflight.status, preflight.header("access-control-allow-origin")) == (204, "*")
            for method in ("GET", "PUT", "HEAD"):
                answer = await node.rpc(method)
                assert answer.status == 405
                assert answer.header("date")  # `doctor` compares clocks by it
            batch = b"[" + b",".join([ask("getnodestate")] * 100) + b"]"
            assert len(json.loads((await node.rpc(body=batch)).body)) == 100
            assert node.server.stats()["clients"] == 2

    run_on_both(test)


@pytest.mark.parametrize("tls", [False, True])
def test_a_request_may_come_in_any_pieces_and_be_followed_by_others(tls: bool, tmp_path: Path) -> None:
    async def test() -> None:
        body = ask("getnodestate") + b" " * 40_000
        post = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        get = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        async with shared(tmp_path, tls) as node:
            reader, writer = await node.raw()
            for byte in (post[:60], *(post[i : i + 1] for i in range(60, 75)), post[75:], post, get):
                writer.write(byte)
                await writer.drain()
            answers = await reader.read(-1)
            assert [answers.count(status) for status in (b"HTTP/1.1 200", b"HTTP/1.1 405")] == [2, 1]
            writer.close()
            reader, writer = await node.raw()
            for i in range(len(get)):  # undecided until its head is whole
                writer.write(get[i : i + 1])
                await asyncio.sleep(0)
            assert b"HTTP/1.1 405" in await reader.read(-1)
            writer.close()

    run_on_both(test)


@pytest.mark.parametrize("tls", [False, True])
def test_the_bounds_of_both_servers_hold(tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = Limits(header_bytes=2048, body_bytes=4096, request_s=0.6, idle_s=0.2, connections_per_host=4)
    monkeypatch.setattr(node_server, "_rpc_limits", lambda settings: quick)
    monkeypatch.setattr("nconnect.io.net.websocket_server.UPGRADE_TIMEOUT_S", 0.3)

    async def says(node: Shared, data: bytes) -> bytes:
        reader, writer = await node.raw()
        writer.write(data)
        try:
            return (await reader.read(-1)).partition(b"\r\n")[0]
        finally:
            writer.close()

    async def test() -> None:
        async with shared(tmp_path, tls) as node:
            assert b" 408 " in await says(node, b"POST / HTTP/1.1\r\nHost: h\r\n")
            assert await says(node, b"GET / HTTP/1.1\r\nHost: h\r\n") == b""
            assert await says(node, b"") == b""
            assert b" 400 " in await says(node, b"GET / HTTP/1.1\r\nX: " + b"x" * 9000)
            assert b" 431 " in await says(node, b"POST / HTTP/1.1\r\nX: " + b"x" * 3000)
            assert b" 413 " in await says(
                node, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000
            )
            assert b" 400 " in await says(node, b"\x16\x03\x01 garbage\r\n\r\n")
            assert b" 400 " in await says(node, b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n")
            idle = [await node.raw() for _ in range(4)]
            for _, writer in idle:
                writer.write(b"POST ")
            await asyncio.sleep(0.05)
            assert b" 503 " in await says(node, b"POST / HTTP/1.1\r\n")
            for reader, writer in idle:
                assert b" 408 " in await reader.readline()
                writer.close()
            assert (await node.rpc(body=ask("getversion"))).status == 200

    run_on_both(test)


def test_one_host_has_a_rate_for_each_kind(tmp_path: Path) -> None:
    async def test() -> None:
        async with shared(tmp_path, False, rate_per_s=0.001, burst=3) as node:
            for _ in range(3):
                async with node.websocket() as websocket:
                    await websocket.recv()
            with pytest.raises(Exception, match="did not receive a valid HTTP response"):
                await node.websocket()
            # Websockets that were turned away count as connects; RPC has turns of its own.
            assert [(await node.rpc(body=ask("getversion"))).status for _ in range(2)] == [200, 200]
            assert node.server.node.stats().drops == {"rate_limited": 1}
            with pytest.raises(NconnectError):
                await node.rpc(body=ask("getversion"))
            assert node.server.node.stats().drops == {"rate_limited": 2}

    run_on_both(test)


def test_a_newcomer_displaces_one_client_and_no_more(tmp_path: Path) -> None:
    """A full node takes a place from the source with the most; it is asked for once for each connection."""

    async def test() -> None:
        async with shared(tmp_path, False, rate_per_s=None, max_connections=4) as node:
            crowd = [await node.websocket() for _ in range(4)]
            for websocket in crowd:
                await websocket.recv()
            url = f"ws://127.0.0.1:{node.port}"
            async with connect(url, proxy=None, local_addr=("127.0.0.2", 0)) as newcomer:
                await newcomer.recv()
                assert node.server.node.stats().drops == {"displaced": 1}
                assert node.server.node.stats().connections == 4
            for websocket in crowd:
                await websocket.close()

    run_on_both(test)


def test_other_ports_are_served_where_they_are_given_too(tmp_path: Path) -> None:
    async def test() -> None:
        config = NodeConfig.of("127.0.0.1", port=0, ws_port=0, rpc_port=0, tls=True)
        async with shared(tmp_path, True, config=config) as node:
            server = node.server
            assert len({server.port, server.ws_port, server.rpc_port}) == 3
            assert server.wss_port == server.https_port == server.port
            plain = await request(
                "POST", f"http://127.0.0.1:{server.rpc_port}", body=ask("getwsaddr"), timeout_s=5
            )
            assert json.loads(plain.body)["result"]["addr"] == f"127.0.0.1:{server.ws_port}"
            async with connect(f"ws://127.0.0.1:{server.ws_port}", proxy=None) as websocket:
                await Client(websocket, Identity(b"c" * 32), "carol").log_in()

    run_on_both(test)


def test_the_own_certificate_stays(tmp_path: Path) -> None:
    path = tmp_path / "tls.pem"
    seen = set()
    for hosts in (["node.example", "203.0.113.7"], ["other.example"]):
        certificate.make_unless_there(path, hosts)
        seen.add(path.read_bytes())
    assert len(seen) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    made = x509.load_pem_x509_certificate(path.read_bytes()[path.read_bytes().index(b"-----BEGIN CERT") :])
    assert made.not_valid_after_utc - datetime.now(UTC) > timedelta(days=19 * 365)
    assert made.not_valid_before_utc < datetime.now(UTC)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "node.example" in names.get_values_for_type(x509.DNSName)
    assert "203.0.113.7" in map(str, names.get_values_for_type(x509.IPAddress))
    der = ssl.PEM_cert_to_DER_cert(path.read_text()[path.read_text().index("-----BEGIN CERT") :])
    assert certificate.fingerprint(path) == hashlib.sha256(der).hexdigest()


def test_the_seed_url_pins_the_certificate(tmp_path: Path) -> None:
    config = NodeConfig.of("::1", port=0, ws_port=None, rpc_port=None, tls=True, advertise="node.example")
    server = NodeServer(config, NODE, NodeSettings(), own_certificate=tmp_path / "tls.pem")
    server.bind()
    try:
        pin = certificate.fingerprint(tmp_path / "tls.pem")
        assert server.seed_url() == f"https://node.example:{server.port}#sha256={pin}"
        assert server.seed_url(here=True) == f"https://[::1]:{server.port}#sha256={pin}"
    finally:
        asyncio.run(server.close())


def test_no_folder_for_a_certificate_is_one_line(tmp_path: Path) -> None:
    config = NodeConfig.of("127.0.0.1", port=0, ws_port=None, rpc_port=None, tls=True)
    with pytest.raises(HostError, match="give --tls-cert"):
        NodeServer(config, NODE, NodeSettings()).bind()
    server = NodeServer(config, NODE, NodeSettings(), own_certificate=tmp_path / "missing" / "tls.pem")
    with pytest.raises(HostError, match=r"cannot write .*tls\.pem"):
        server.bind()
