"""A node of ours on the loop of a test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from nconnect.io.nkn.node_server import NodeServer


@contextlib.asynccontextmanager
async def running(server: NodeServer) -> AsyncIterator[NodeServer]:
    """Start it, and close it at the end; the test has 20 s."""
    await server.start()
    try:
        async with asyncio.timeout(20):
            yield server
    finally:
        await server.close()
