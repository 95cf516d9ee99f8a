"""The node's STUN ports on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest

from nconnect.crypto.keys import Identity
from nconnect.errors import HostError
from nconnect.io.http.http_client import request
from nconnect.io.nkn import node_server, stun_server
from nconnect.io.nkn.node_server import NodeServer
from nconnect.model import NodeConfig
from nconnect.node.settings import NodeSettings
from nconnect.wire import stun
from nconnect.wire.jsonrpc import NodeInfo, encode_request, parse_response
from tests.io.nkn.running import running

NODE = Identity(b"n" * 32)
ID = b"transaction!"
PADDED = stun.encode_request(ID, size=44)
FREE = (0, 0)  # two ports that are free


@contextlib.asynccontextmanager
async def serving(
    listen: str = "127.0.0.1", stun_ports: tuple[int, ...] | None = FREE
) -> AsyncIterator[NodeServer]:
    config = NodeConfig(listen, 0, 0, stun_ports=stun_ports)
    async with running(NodeServer(config, NODE, NodeSettings())) as server:
        yield server


class Asker:
    """A client's UDP socket."""

    def __init__(self, host: str) -> None:
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind((host, 0))

    async def ask(self, data: bytes, place: tuple[str, int]) -> tuple[bytes, tuple[str, int]]:
        """The answer, and from where it came."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendto(self.socket, data, place)
        return await loop.sock_recvfrom(self.socket, 2000)


async def told(server: NodeServer) -> NodeInfo:
    body = encode_request("getwsaddr", {"address": "ab" * 32})
    answer = await request(
        "POST", f"http://127.0.0.1:{server.rpc_port}", body=body, timeout_s=5, max_body_bytes=1 << 16
    )
    return NodeInfo.from_json(parse_response(answer.body))


@pytest.mark.parametrize(
    ("listen", "asked", "client"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.77", "127.0.0.9"),  # an address that the kernel would not choose by itself
        ("::", "::1", "::1"),
        ("::", "127.0.0.77", "127.0.0.9"),
    ],
)
def test_both_ports_tell_the_clients_address(listen: str, asked: str, client: str) -> None:
    async def run() -> None:
        async with serving(listen) as server:
            asker = Asker(client)
            with asker.socket:
                own = asker.socket.getsockname()
                assert len(set(server.stun_ports)) == 2
                for port in server.stun_ports:
                    answer, source = await asker.ask(PADDED, (asked, port))
                    assert source[:2] == (asked, port)
                    assert stun.mapped_address(stun.decode(answer)) == (ip_address(client), own[1])
            assert server.stun is not None
            assert server.stun.status() == {"ports": list(server.stun_ports), "answers": 2, "drops": {}}

    asyncio.run(run())


def test_clients_are_told_of_the_ports() -> None:
    async def run() -> None:
        async with serving() as server:
            assert (await told(server)).stun_ports == server.stun_ports
        async with serving(stun_ports=()) as server:
            assert (await told(server)).stun_ports == ()
            info = server.node_info("192.0.2.1")
            assert info is not None
            assert "stunPorts" not in info.to_json()

    asyncio.run(run())


def test_after_a_flood_it_answers_again() -> None:
    """More than is read at once: the loop goes on in between, and nothing is answered twice."""

    async def run() -> None:
        async with serving() as server:
            assert server.stun is not None
            asker = Asker("127.0.0.1")
            with asker.socket:
                place = ("127.0.0.1", server.stun_ports[0])
                for _ in range(3 * stun_server.READ_AT_ONCE):
                    asker.socket.sendto(b"no STUN", place)
                answer, _ = await asker.ask(PADDED, place)
                assert stun.decode(answer).transaction == ID
            status = server.stun.status()
            assert (status["answers"], status["drops"]) == (1, {"malformed": 3 * stun_server.READ_AT_ONCE})

    asyncio.run(run())


def test_a_flood_takes_no_more_than_its_share_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the pause lasts nothing more is read, however much there is."""
    monkeypatch.setattr(stun_server, "_PAUSE_S", 3600.0)

    async def run() -> None:
        async with serving() as server:
            assert server.stun is not None
            asker = Asker("127.0.0.1")
            with asker.socket:
                for _ in range(2 * stun_server.READ_AT_ONCE):
                    asker.socket.sendto(b"no STUN", ("127.0.0.1", server.stun_ports[0]))
                answer, _ = await asker.ask(PADDED, ("127.0.0.1", server.stun_ports[1]))
                assert stun.decode(answer).transaction == ID  # the other port is not paused
            assert server.stun.status()["drops"] == {"malformed": stun_server.READ_AT_ONCE}

    asyncio.run(run())


def test_a_port_that_is_taken() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        server = NodeServer(NodeConfig("127.0.0.1", 0, 0, stun_ports=(0, port)), NODE, NodeSettings())
        with pytest.raises(HostError, match=rf"cannot listen on 127\.0\.0\.1 UDP port {port}: address"):
            server.bind()


def test_official_ports_that_are_taken_are_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody asked for them by number: a node that ran before there was STUN still starts."""

    async def run() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            monkeypatch.setattr(node_server, "STUN_PORTS", (0, taken.getsockname()[1]))
            async with serving(stun_ports=None) as server:
                assert server.stun_ports == ()
                assert (await told(server)).stun_ports == ()
        monkeypatch.setattr(node_server, "STUN_PORTS", FREE)
        async with serving(stun_ports=None) as server:
            assert len(server.stun_ports) == 2

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert [r.message.partition(":")[0] for r in caplog.records] == ["this node answers no STUN"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a raw socket needs root")
def test_answers_to_nowhere_are_counted() -> None:
    """A datagram from port 0, which only a raw socket can send, has no way back."""

    async def run() -> None:
        async with serving() as server:
            assert server.stun is not None
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
                head = (
                    b"\0\0" + server.stun_ports[0].to_bytes(2, "big") + (8 + len(PADDED)).to_bytes(2, "big")
                )
                raw.sendto(head + b"\0\0" + PADDED, ("127.0.0.1", 0))
            asker = Asker("127.0.0.1")
            with asker.socket:
                await asker.ask(PADDED, ("127.0.0.1", server.stun_ports[0]))
            status = server.stun.status()
            assert (status["answers"], status["drops"]) == (1, {"unsent": 1})

    asyncio.run(run())
