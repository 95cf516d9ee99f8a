"""The node on loopback, with the `websockets` library and our own HTTP client as its callers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from nconnect.crypto.keys import Identity
from nconnect.errors import HostError
from nconnect.io.http.http import Response
from nconnect.io.http.http_client import request
from nconnect.io.net.websocket import WebSocket
from nconnect.io.nkn.node_server import NodeServer, _rpc_limits
from nconnect.model import NodeConfig
from nconnect.node.settings import NodeSettings
from nconnect.wire.actions import SetClient
from nconnect.wire.nkn import InboundMessage, OutboundMessage, decode_client_message
from nconnect.wire.sigchain import login_digest
from tests.io.nkn.running import running

NODE = Identity(b"n" * 32)


@contextlib.asynccontextmanager
async def serving(
    *, listen: str = "127.0.0.1", advertise: str | None = None, capture: Path | None = None, **settings: Any
) -> AsyncIterator[NodeServer]:
    config = NodeConfig(listen, 0, 0, advertise)
    async with running(NodeServer(config, NODE, NodeSettings(**settings), capture_file=capture)) as server:
        yield server


class Client:
    """An NKN client in a few lines, on a websocket library that is not ours."""

    def __init__(self, websocket: ClientConnection, identity: Identity, name: str) -> None:
        self.websocket = websocket
        self.identity = identity
        self.address = f"{name}.{identity.public_key.hex()}"
        self.answer: dict[str, Any] = {}

    async def log_in(self) -> Client:
        challenge = bytes.fromhex(json.loads(await self.websocket.recv())["Challenge"])
        salt = os.urandom(32)
        signature = self.identity.sign(login_digest(challenge, salt))
        await self.websocket.send(SetClient(self.address, salt, signature).encode())
        self.answer = json.loads(await self.websocket.recv())
        return self

    async def send(self, dest: str, payload: bytes) -> None:
        await self.websocket.send(OutboundMessage((dest,), (payload,)).encode())

    async def receive(self) -> InboundMessage:
        message = decode_client_message(await self.websocket.recv(decode=False))
        assert isinstance(message, InboundMessage)
        return message


@contextlib.asynccontextmanager
async def client(server: NodeServer, name: str = "alice", host: str = "127.0.0.1") -> AsyncIterator[Client]:
    url = f"ws://{f'[{host}]' if ':' in host else host}:{server.ws_port}"
    async with connect(url, compression=None, max_size=5 << 20, proxy=None) as websocket:
        yield Client(websocket, Identity(name.encode().ljust(32, b"_")), name)


async def rpc(server: NodeServer, body: bytes, host: str = "127.0.0.1", method: str = "POST") -> Response:
    name = f"[{host}]" if ":" in host else host
    return await request(method, f"http://{name}:{server.rpc_port}/", body=body, timeout_s=5)


def ask(address: str) -> bytes:
    return json.dumps(
        {"id": 1, "jsonrpc": "2.0", "method": "getwsaddr", "params": {"address": address}}
    ).encode()


def test_two_clients_exchange_messages_of_any_size() -> None:
    async def run() -> None:
        async with serving() as server, client(server) as alice, client(server, "bob") as bob:
            await alice.log_in()
            await bob.log_in()
            assert alice.answer["Error"] == 0
            assert alice.answer["Result"]["node"]["addr"] == f"127.0.0.1:{server.ws_port}"
            for size in (0, 1, 125, 126, 65_535, 65_536, 1_000_000, 4_000_000):
                payload = os.urandom(size)
                await alice.send(bob.address, payload)
                message = await bob.receive()
                assert message.src == alice.address
                assert bytes(message.payload) == payload
                await bob.send(alice.address, payload[:100])
                assert bytes((await alice.receive()).payload) == payload[:100]
            stats = server.stats()
            assert (stats["clients"], stats["messages"], stats["queue_bytes"], stats["drops"]) == (
                2,
                16,
                0,
                {},
            )

    asyncio.run(run())


def test_a_receiver_that_is_slow_gets_it_in_order() -> None:
    async def run() -> None:
        async with serving() as server, client(server) as alice, client(server, "bob") as bob:
            await alice.log_in()
            await bob.log_in()
            bob.websocket.transport.pause_reading()
            for number in range(120):
                await alice.send(bob.address, number.to_bytes(4, "big") + bytes(100_000))
            await alice.send(alice.address, b"all sent")
            await alice.receive()
            assert server.stats()["queue_bytes"] > 1_000_000  # type: ignore[operator]
            bob.websocket.transport.resume_reading()
            got = [-1]
            while got[-1] != 119:
                got.append(int.from_bytes(bytes((await bob.receive()).payload[:4]), "big"))
            assert got == sorted(set(got))
            dropped = sum(server.stats()["drops"].values())  # type: ignore[attr-defined]
            assert len(got) == 121 - dropped  # CoDel may drop when this machine is slow to read
            assert server.stats()["queue_bytes"] == 0

    asyncio.run(run())


def test_a_receiver_that_never_reads_costs_others_nothing() -> None:
    async def run() -> None:
        async with (
            serving(client_queue_bytes=1 << 20) as server,
            client(server) as alice,
            client(server, "bob") as bob,
            client(server, "stuck") as stuck,
        ):
            for one in (alice, bob, stuck):
                await one.log_in()
            stuck.websocket.transport.pause_reading()
            for _ in range(300):
                await alice.send(stuck.address, bytes(100_000))
            await alice.send(bob.address, b"still here")
            assert bytes((await bob.receive()).payload) == b"still here"
            stats = server.stats()
            assert stats["queue_bytes"] <= (1 << 20) + 101_000, "its queue, and half a message"  # type: ignore[operator]
            assert stats["drops"]["queue_full"] > 0  # type: ignore[index]
            stuck.websocket.transport.abort()

    asyncio.run(run())


def test_a_wrong_login_is_answered_and_closed() -> None:
    async def run() -> None:
        async with serving() as server, client(server) as mallory:
            mallory.address = "bob." + Identity(b"b" * 32).public_key.hex()
            await mallory.log_in()
            assert mallory.answer["Error"] == 42003
            with pytest.raises(ConnectionClosed):
                await mallory.websocket.recv()
            assert server.stats()["clients"] == 0

    asyncio.run(run())


def test_who_does_not_log_in_is_closed() -> None:
    async def run() -> None:
        async with serving(login_timeout_s=0.2) as server, client(server) as silent:
            await silent.websocket.recv()  # the challenge
            with pytest.raises(ConnectionClosed):
                await silent.websocket.recv()
            assert server.stats()["drops"] == {"login_timeout": 1}

    asyncio.run(run())


def test_who_has_gone_takes_no_memory_until_cycles_are_looked_for() -> None:
    async def run() -> None:
        async with serving() as server:
            async with client(server) as alice:
                await alice.log_in()
            for _ in range(500):
                if not server.node.stats().connections:
                    break
                await asyncio.sleep(0.01)
            await asyncio.sleep(0)  # the callback that closed it returns
            assert not any(isinstance(found, WebSocket) for found in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()


def test_clients_are_pinged_and_the_silent_closed() -> None:
    async def run() -> None:
        times: dict[str, Any] = {"login_timeout_s": 0.5, "ping_interval_s": 0.2, "idle_timeout_s": 1.2}
        async with serving(**times) as server, client(server) as alice:
            await alice.log_in()
            reader, writer = await asyncio.open_connection("127.0.0.1", server.ws_port)
            writer.write(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            head = await reader.readexactly(2)
            size = head[1] if head[1] < 126 else int.from_bytes(await reader.readexactly(2), "big")
            challenge = bytes.fromhex(json.loads(await reader.readexactly(size))["Challenge"])
            bob = Identity(b"b" * 32)
            signature = bob.sign(login_digest(challenge, bytes(32)))
            text = SetClient(f"bob.{bob.public_key.hex()}", bytes(32), signature).encode().encode()
            writer.write(b"\x81\xfe" + len(text).to_bytes(2, "big") + bytes(4) + text)
            assert await reader.read(-1)  # until the node closes it, since it never answers a ping
            writer.close()
            assert server.stats()["drops"] == {"idle": 1}
            assert server.stats()["clients"] == 1

    asyncio.run(run())


def test_connects_of_one_host_are_limited() -> None:
    async def run() -> None:
        async with serving(rate_per_s=0.001, burst=2) as server:
            async with client(server), client(server):
                with pytest.raises((InvalidHandshake, OSError, EOFError)):
                    async with client(server):
                        pass
            answers = [(await rpc(server, ask("x"))).status for _ in range(3)]
            assert answers == [200, 200, 429]

    asyncio.run(run())


def test_who_asks_too_often_on_one_connection_loses_it() -> None:
    """Requests one behind the other: each answer, a refusal too, costs as much as a message."""

    async def run() -> None:
        async with serving(rate_per_s=0.001, burst=2) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.rpc_port)
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" * 10)
            answers = await reader.read()
            writer.close()
            assert answers.count(b"HTTP/1.1 200") == 2
            assert answers.count(b"HTTP/1.1 429") == 1, "and then the end"

    asyncio.run(run())


@pytest.mark.parametrize("secure", [False, True])
def test_rpc_connections_of_one_host_are_limited(secure: bool, tmp_path: Path) -> None:
    """Before a TLS handshake, which costs more than an answer."""

    async def run() -> None:
        config = NodeConfig("127.0.0.1", 0, 0, tls=secure, wss_port=0, https_port=0)
        settings = NodeSettings(rate_per_s=0.001, burst=2)
        server = NodeServer(config, NODE, settings, own_certificate=tmp_path / "node.pem")
        await server.start()
        port = server.https_port if secure else server.rpc_port
        try:
            for n in range(6):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                if n < 4:
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(reader.read(), 0.02)
                else:
                    assert await asyncio.wait_for(reader.read(), 5) == b"", "closed without a word"
                writer.close()
            assert server.stats()["drops"] == {"rate_limited": 2}
        finally:
            await server.close()

    asyncio.run(run())


def test_calls_of_all_hosts_together_are_limited() -> None:
    async def run() -> None:
        async with serving(rate_per_s=None, rpc_rate_per_s=0.001, rpc_burst=2) as server:
            answers = [(await rpc(server, ask("x"))).status for _ in range(3)]
            assert answers == [200, 200, 429]
            async with client(server) as alice:
                await alice.log_in()
                assert alice.answer["Error"] == 0, "who knows its node needs no call"

    asyncio.run(run())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_rpc_names_the_host_that_was_asked(host: str) -> None:
    async def run() -> None:
        async with serving() as server:
            answer = await rpc(server, ask("laptop." + "ab" * 32), host)
            result = json.loads(answer.body)["result"]
            assert result["addr"] == f"{host}:{server.ws_port}"
            assert result["rpcAddr"] == f"{host}:{server.rpc_port}"
            assert result["pubkey"] == NODE.public_key.hex()
            assert answer.header("access-control-allow-origin") == "*"

    asyncio.run(run())


def test_rpc_names_the_advertised_host() -> None:
    async def run() -> None:
        async with serving(advertise="node.example") as server, client(server) as alice:
            result = json.loads((await rpc(server, ask("laptop." + "ab" * 32))).body)["result"]
            assert result["addr"] == f"node.example:{server.ws_port}"
            await alice.log_in()
            assert alice.answer["Result"]["node"]["addr"] == f"node.example:{server.ws_port}"

    asyncio.run(run())


def test_ipv6() -> None:
    async def run() -> None:
        async with serving(listen="::1") as server, client(server, host="::1") as alice:
            result = json.loads((await rpc(server, ask("laptop." + "ab" * 32), "::1")).body)["result"]
            assert result["addr"] == f"[::1]:{server.ws_port}"
            await alice.log_in()
            assert alice.answer["Error"] == 0

    asyncio.run(run())


def test_browsers_may_ask() -> None:
    async def run() -> None:
        async with serving() as server:
            preflight = await rpc(server, b"", method="OPTIONS")
            assert preflight.status == 204
            assert preflight.header("access-control-allow-origin") == "*"
            assert "Content-Type" in preflight.header("access-control-allow-headers")
            assert "POST" in preflight.header("access-control-allow-methods")
            assert (await rpc(server, b"", method="GET")).status == 405

    asyncio.run(run())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 1000, b"x" * 60_000])
def test_malformed_rpc_is_answered(body: bytes) -> None:
    async def run() -> None:
        async with serving() as server:
            answer = await rpc(server, body)
            assert json.loads(answer.body)["error"]["code"] < 0

    asyncio.run(run())


def test_a_body_beyond_the_bound_is_refused() -> None:
    async def run() -> None:
        async with serving() as server:
            assert (await rpc(server, bytes(70_000))).status == 413

    asyncio.run(run())


def test_a_port_in_use_is_one_line_and_leaves_nothing_open() -> None:
    async def run() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with socket.socket() as other:
                other.bind(("127.0.0.1", 0))
                free = other.getsockname()[1]
            for ws_port, rpc_port in ((port, 0), (free, port)):
                server = NodeServer(NodeConfig("127.0.0.1", ws_port, rpc_port), NODE, NodeSettings())
                with pytest.raises(HostError, match=f"port {port}") as caught:
                    await server.start()
                assert "\n" not in str(caught.value)
            server = NodeServer(NodeConfig("127.0.0.1", free, 0), NODE, NodeSettings())
            await server.start()  # the second attempt above gave the free port back
            await server.close()
            await server.close()

    asyncio.run(run())


def test_capture_holds_what_was_passed_on(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "payloads"
        async with serving(capture=path) as server, client(server) as alice:
            await alice.log_in()
            await alice.send(alice.address, b"sealed bytes")
            await alice.receive()
            assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_bytes() == b"sealed bytes\n"

    asyncio.run(run())


def test_a_capture_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(HostError, match="cannot write"):
            async with serving(capture=tmp_path / "missing" / "file"):
                pass

    asyncio.run(run())


def test_a_disturbed_order_loses_nothing() -> None:
    async def run() -> None:
        async with serving(reorder=True) as server, client(server) as alice, client(server, "bob") as bob:
            await alice.log_in()
            await bob.log_in()
            for number in range(200):
                await alice.send(bob.address, b"%d" % number)
            got = [int(bytes((await bob.receive()).payload)) for _ in range(200)]
            assert got != sorted(got)
            assert sorted(got) == list(range(200))

    asyncio.run(run())


def test_closing_the_node_closes_its_clients() -> None:
    async def run() -> None:
        async with serving() as server, client(server) as alice:
            await alice.log_in()
            await server.close()
            with pytest.raises(ConnectionClosed):
                await alice.websocket.recv()
            assert server.stats()["connections"] == 0

    asyncio.run(run())


# --- TLS ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + built.public_bytes(pem)
    )
    return path


def with_tls(certificate: Path) -> NodeServer:
    config = NodeConfig("127.0.0.1", 0, 0, tls_cert=certificate, wss_port=0, https_port=0)
    return NodeServer(config, NODE, NodeSettings())


def test_wss_and_https(certificate: Path) -> None:
    async def run() -> None:
        server = with_tls(certificate)
        await server.start()
        trust = ssl.create_default_context(cafile=str(certificate))
        try:
            answer = await request(
                "POST",
                f"https://localhost:{server.https_port}/",
                body=ask("a." + "ab" * 32).replace(b"getwsaddr", b"getwssaddr"),
                timeout_s=5,
                tls=trust,
            )
            result = json.loads(answer.body)["result"]
            assert result["addr"] == f"localhost:{server.wss_port}"
            assert result["rpcAddr"] == f"localhost:{server.https_port}"
            url = f"wss://{result['addr']}"
            async with (
                connect(url, compression=None, max_size=5 << 20, proxy=None, ssl=trust) as websocket,
                client(server, "bob") as bob,
            ):
                alice = Client(websocket, Identity(b"a" * 32), "alice")
                await alice.log_in()
                await bob.log_in()
                assert alice.answer["Result"]["node"] == {k: v for k, v in result.items() if k != "sdp"}
                assert bob.answer["Result"]["node"]["addr"] == f"127.0.0.1:{server.ws_port}"
                for size in (0, 1, 70_000, 4_000_000):
                    payload = os.urandom(size)
                    await alice.send(bob.address, payload)
                    assert bytes((await bob.receive()).payload) == payload
                    await bob.send(alice.address, payload)
                    assert bytes((await alice.receive()).payload) == payload
        finally:
            await server.close()

    asyncio.run(run())


def test_without_a_certificate_there_is_no_wss() -> None:
    async def run() -> None:
        async with serving() as server:
            body = ask("a." + "ab" * 32).replace(b"getwsaddr", b"getwssaddr")
            error = json.loads((await rpc(server, body)).body)["error"]
            assert error["code"] == -45001
            assert (server.wss_port, server.https_port) == (None, None)

    asyncio.run(run())


def test_plain_text_on_the_tls_port_is_turned_away(certificate: Path) -> None:
    async def run() -> None:
        server = with_tls(certificate)
        await server.start()
        try:
            for port in (server.wss_port, server.https_port):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                async with asyncio.timeout(5):
                    with contextlib.suppress(ConnectionResetError):
                        assert b"HTTP" not in await reader.read(-1)
                writer.close()
            assert server.stats()["clients"] == 0
        finally:
            await server.close()

    asyncio.run(run())


@pytest.mark.parametrize("content", [None, b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_bad_certificate_is_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "cert.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HostError, match=r"cert\.pem") as caught:
        with_tls(path).bind()
    assert "\n" not in str(caught.value)


def test_a_key_that_belongs_to_another_certificate_is_one_line(certificate: Path, tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    key = tmp_path / "key.pem"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    key.write_bytes(other.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    config = NodeConfig("127.0.0.1", 0, 0, tls_cert=certificate, tls_key=key, wss_port=0, https_port=0)
    with pytest.raises(HostError, match="belong together"):
        NodeServer(config, NODE, NodeSettings()).bind()


# --- holding, limits, pings ---


def test_a_message_waits_for_its_client() -> None:
    async def run() -> None:
        async with serving() as server, client(server) as alice:
            await alice.log_in()
            bob = "bob." + Identity(b"bob".ljust(32, b"_")).public_key.hex()
            payloads = [os.urandom(300_000) for _ in range(12)]
            for payload in payloads:
                held = OutboundMessage((bob,), (payload,), max_holding_seconds=60)
                await alice.websocket.send(held.encode())
            await alice.send(alice.address, b"all sent")
            await alice.receive()
            assert server.stats()["held_messages"] == 12
            async with client(server, "bob") as other:
                await other.log_in()
                assert [bytes((await other.receive()).payload) for _ in payloads] == payloads
            assert server.stats()["held_bytes"] == 0

    asyncio.run(run())


def test_half_open_handshakes_take_up_places() -> None:
    async def run() -> None:
        async with serving(max_connections=3) as server:
            half_open = [await asyncio.open_connection("127.0.0.1", server.ws_port) for _ in range(3)]
            reader, writer = await asyncio.open_connection("127.0.0.1", server.ws_port)
            assert await reader.read(1) == b""
            writer.close()
            assert server.stats()["drops"] == {"too_many_connections": 1}
            half_open[0][1].close()
            while server._opening().total() == 3:  # noqa: ASYNC110
                await asyncio.sleep(0)
            async with client(server) as alice:
                await alice.log_in()
                assert alice.answer["Error"] == 0
            for _, writer in half_open:
                writer.close()

    asyncio.run(run())


def test_many_pings_at_once_get_one_pong() -> None:
    async def run() -> None:
        async with serving() as server, client(server) as alice:
            await alice.log_in()
            pings = b"".join(b"\x89\x82" + bytes(4) + b"%02d" % (number % 100) for number in range(5000))
            before = server.node.relay.clients[alice.address][0].transport.tx_bytes
            alice.websocket.transport.write(pings)
            await alice.send(alice.address, b"after")
            assert bytes((await alice.receive()).payload) == b"after"
            sent = server.node.relay.clients[alice.address][0].transport.tx_bytes - before
            assert sent < 1000, "a pong for each read, not for each ping"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("rate", "per_host"), [(None, 8192), (10.0, 64), (1.0, 64), (100.0, 640), (1e6, 8192)]
)
def test_rpc_connections_are_bounded_in_proportion(rate: float | None, per_host: int) -> None:
    assert _rpc_limits(NodeSettings(rate_per_s=rate)).connections_per_host == per_host
