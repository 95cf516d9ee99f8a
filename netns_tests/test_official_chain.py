"""Topics on the chain of NKN's own node: a network of one node makes a block after some minutes.

lo of one namespace: nknd at 192.0.2.1 ── a client of ours
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.netns import Namespace
from lab.official import OfficialNode, missing
from nconnect.errors import ConfigError, RemoteProtocolError
from nconnect.nkn import Client
from tests.loops import run

HOST = "192.0.2.1"
TOPIC = "small-models"
BLOCKS_S = 600.0  # seen: the first block after some minutes
LOOK_S = 2.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        bool(missing("nknd", "nknc")), reason="the official node is not built: scripts/setup --dev"
    ),
]


@pytest.fixture(scope="module")
def node() -> Iterator[OfficialNode]:
    namespace = Namespace(f"ncchn{os.getpid()}")
    try:
        namespace.ip(f"address add {HOST}/32 dev lo")
        with tempfile.TemporaryDirectory() as folder:
            made = OfficialNode(namespace, Path(folder), HOST)
            made.start()
            try:
                yield made
            finally:
                made.stop()
    finally:
        namespace.remove()


def test_a_client_subscribes_and_unsubscribes(node: OfficialNode) -> None:
    async def test() -> None:
        client = Client(identifier="gpu", seed_rpc=f"http://{HOST}:30003")
        chain = client.chain
        assert await chain.subscribers(TOPIC) == {}
        assert await chain.subscription(TOPIC, client.address) is None
        assert await chain.registrant("example-name") is None
        with pytest.raises(ConfigError, match="nobody has registered"):
            await chain.resolve("gpu.example-name")
        with pytest.raises(RemoteProtocolError, match="refused"):
            await client.unsubscribe(TOPIC)

        hash = await client.subscribe(TOPIC, "8 GB, grün", duration=60_000)
        assert len(hash) == 64
        assert await chain.subscribers(TOPIC, pending=True) == {client.address: "8 GB, grün"}
        with pytest.raises(RemoteProtocolError, match="refused"):
            await client.subscribe(TOPIC, "16 GB", duration=60_000)

        async with asyncio.timeout(BLOCKS_S):
            while (found := await chain.subscription(TOPIC, client.address)) is None:  # noqa: ASYNC110 - a chain tells nobody
                await asyncio.sleep(LOOK_S)
        assert found.meta == "8 GB, grün"
        assert found.expires_at > 60_000
        assert await chain.subscribers(TOPIC) == {client.address: "8 GB, grün"}
        assert await chain.subscribers(TOPIC, offset=1) == {}
        assert await chain.subscriber_count(TOPIC) == 1

        await client.unsubscribe(TOPIC)
        async with asyncio.timeout(BLOCKS_S):
            while await chain.subscribers(TOPIC):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
        assert await chain.subscriber_count(TOPIC) == 0

    node.namespace.enter(lambda: run(test, within_s=2 * BLOCKS_S + 60))
