"""Links and this project's own node, on loopback: the node checks every login, signature and receipt."""

from __future__ import annotations

import asyncio
import os

import pytest

from nconnect.crypto.keys import Identity
from nconnect.io.clock import boottime
from nconnect.io.nkn.link import LinkRunner
from nconnect.io.nkn.node_server import NodeServer
from nconnect.model import NknAddress, NodeConfig
from nconnect.nkn.link import Link
from nconnect.nkn.outputs import DownReason
from nconnect.node.settings import NodeSettings
from tests.io.nkn.handler import Handler
from tests.loops import run


class Client(Handler):
    """A link, and what came over it."""

    def __init__(self, identifier: str, *seeds: str) -> None:
        super().__init__()
        identity = Identity(os.urandom(32))
        self.address = NknAddress(identifier, identity.public_key)
        self.link = Link(identity, self.address, seeds, now=boottime(), rng=os.urandom)
        self.runner = LinkRunner(self.link, self)


async def node(
    verify: bool, ws_port: int | None = 0, rpc_port: int | None = 0, seed: bytes = bytes(32)
) -> NodeServer:
    config = NodeConfig(listen="127.0.0.1", ws_port=ws_port, rpc_port=rpc_port)
    server = NodeServer(config, Identity(seed), NodeSettings(verify_signatures=verify))
    await server.start()
    return server


@pytest.mark.parametrize("verify", [True, False])
def test_two_clients_exchange_messages_and_come_back_when_the_node_does(verify: bool) -> None:
    async def test() -> None:
        server = await node(verify)
        seed = f"http://127.0.0.1:{server.rpc_port}"
        a, b = Client("a", seed), Client("b", seed)
        try:
            async with asyncio.TaskGroup() as tasks:
                for client in (a, b):
                    tasks.create_task(client.runner.run(), name=f"link {client.address.identifier}")
                for size in (0, 1, 1400, 70_000, 3_900_000):
                    await a.up.wait()
                    await b.up.wait()
                    payload = os.urandom(size)
                    assert a.runner.send(str(b.address), (payload[: size // 2], payload[size // 2 :]))
                    assert await b.messages.get() == (str(a.address), payload)
                    assert b.runner.send(str(a.address), (payload,))
                    assert await a.messages.get() == (str(b.address), payload)
                if verify:
                    assert b.link.counters.receipts > 0

                ports = server.ws_port, server.rpc_port
                await server.close()
                assert {await client.downs.get() for client in (a, b)} == {DownReason.LOST}
                server = await node(verify, *ports, seed=os.urandom(32))  # with another key, even
                await a.up.wait()
                await b.up.wait()
                assert a.runner.send(str(b.address), (b"again",))
                assert await b.messages.get() == (str(a.address), b"again")
                assert a.link.reconnects == 1
                assert a.link.counters.bad_frames == b.link.counters.bad_frames == 0
                a.runner.close()
                b.runner.close()
        finally:
            await server.close()

    run(test)
