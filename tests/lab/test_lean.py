"""The lean shell of the bench's crowds, against a real node on loopback."""

from __future__ import annotations

import hashlib
import os

import pytest

from lab.bench import lean
from lab.bench.lean import LeanLink
from nconnect.crypto.keys import Identity
from nconnect.errors import RemoteProtocolError
from nconnect.io.clock import boottime
from nconnect.io.nkn.node_server import NodeServer
from nconnect.model import NknAddress, NodeConfig
from nconnect.nkn.link import Link
from nconnect.nkn.outputs import DownReason
from nconnect.node.settings import NodeSettings
from tests.io.nkn.handler import Handler
from tests.loops import run


class Client(Handler):
    def __init__(self, number: int, seed: str) -> None:
        super().__init__()
        key = Identity(hashlib.sha256(b"%d" % number).digest())
        self.address = NknAddress(f"c{number}", key.public_key)
        self.link = LeanLink(Link(key, self.address, (seed,), now=boottime(), rng=os.urandom), self)


def server_on(ws_port: int | None = 0, rpc_port: int | None = 0) -> NodeServer:
    config = NodeConfig(listen="127.0.0.1", ws_port=ws_port, rpc_port=rpc_port)
    return NodeServer(config, Identity(b"n" * 32), NodeSettings(rate_per_s=None))


def test_it_logs_in_sends_receives_and_comes_back() -> None:
    async def test() -> None:
        server = server_on()
        await server.start()
        seed = f"http://127.0.0.1:{server.rpc_port}"
        one, two = Client(1, seed), Client(2, seed)
        for client in (one, two):
            assert not client.link.send(str(two.address), (b"too early",))
            client.link.start()
            await client.ups.get()
        assert one.link.send(str(two.address), (b"he", b"llo"))
        assert await two.messages.get() == (str(one.address), b"hello")
        ports = server.ws_port, server.rpc_port
        await server.close()
        assert await one.downs.get() == DownReason.LOST
        assert await one.downs.get() == DownReason.NO_SEED
        server = server_on(*ports)
        await server.start()
        await one.ups.get()
        await two.ups.get()
        for client in (one, two):
            client.link.close()
        await server.close()

    run(test)


@pytest.mark.parametrize(
    ("response", "found"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Le", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", None),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
    ],
)
def test_answers_are_read_when_they_are_whole(response: bytes, found: bytes | None) -> None:
    assert lean._answer_of(response) == found


def test_another_status_is_a_failure() -> None:
    with pytest.raises(RemoteProtocolError, match="503 Service Unavailable"):
        lean._answer_of(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
    with pytest.raises(RemoteProtocolError, match="400"):
        lean._frames_after(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert lean._frames_after(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x01") == b"\x81\x01"
