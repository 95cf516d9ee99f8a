"""A node of ours on loopback, as strict as an official one, and clients on it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from nconnect.crypto.keys import Identity
from nconnect.io.nkn.node_server import NodeServer
from nconnect.model import NodeConfig
from nconnect.nkn import Client, Message, MultiClient
from nconnect.node.settings import NodeSettings


class Net:
    """A node that checks every signature and asks for receipts; it can be restarted on the same ports."""

    def __init__(self, settings: NodeSettings | None = None, tls_cert: Path | None = None) -> None:
        self._tls_cert = tls_cert
        self._settings = settings or NodeSettings(verify_signatures=True, rate_per_s=None)
        self.server = self._make(0, 0, b"n" * 32)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, settings: NodeSettings | None = None, *, tls_cert: Path | None = None
    ) -> AsyncIterator[Net]:
        """`tls_cert` holds the key too: wss and https are served as well."""
        net = cls(settings, tls_cert)
        await net.server.start()
        try:
            yield net
        finally:
            await net.server.close()
            await asyncio.sleep(0)

    @property
    def seed(self) -> str:
        return f"http://127.0.0.1:{self.server.rpc_port}"

    async def restart(self) -> None:
        """The node goes away, and another with another key comes to its place."""
        ports = self.server.ws_port, self.server.rpc_port
        await self.server.close()
        self.server = self._make(*ports, b"m" * 32)
        await self.server.start()

    async def has_clients(self, number: int) -> None:
        """Wait until so many are connected."""
        while self.server.node.stats().clients != number:  # noqa: ASYNC110 - the node sees it in its own time
            await asyncio.sleep(0.005)

    def drops(self) -> dict[str, int]:
        """What the node did not deliver, by reason."""
        return self.server.node.stats().drops

    def _make(self, ws_port: int | None, rpc_port: int | None, seed: bytes) -> NodeServer:
        config = NodeConfig(
            listen="127.0.0.1",
            ws_port=ws_port,
            rpc_port=rpc_port,
            tls_cert=self._tls_cert,
            wss_port=0,
            https_port=0,
        )
        return NodeServer(config, Identity(seed), self._settings)


@contextlib.asynccontextmanager
async def answering(client: Client | MultiClient) -> AsyncIterator[list[Message]]:
    """Let a client answer as the script's clients do; what it got so far."""
    got: list[Message] = []

    async def loop() -> None:
        async for message in client:
            got.append(message)
            data = message.data
            if data == "only acknowledge":
                continue
            await message.reply(f"python got {data}" if isinstance(data, str) else data)

    task = asyncio.create_task(loop(), name="answering")
    try:
        yield got
    finally:
        task.cancel()
        await asyncio.wait([task])
