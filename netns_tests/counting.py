"""A node that prints what it relays: a line of JSON every 0.1 s, without acknowledgements.

`{"messages", "bytes", "largest", "drops"}`: the number of payloads of at least 512 bytes, their sum, the
longest one, and what was dropped.
"""

from __future__ import annotations

import asyncio
import json
import os

from nconnect.crypto.keys import Identity
from nconnect.io.nkn.node_server import NodeServer
from nconnect.model import Buffer, NodeConfig
from nconnect.node.settings import NodeSettings

LEAST_BYTES = 512  # an acknowledgement of NCP has at most 32 ranges and takes less


async def serve() -> None:
    server = NodeServer(NodeConfig(listen="0.0.0.0"), Identity(os.urandom(32)), NodeSettings(rate_per_s=None))
    await server.start()
    messages = total = largest = 0

    def count(payload: Buffer) -> None:
        nonlocal messages, total, largest
        size = len(payload)
        if size >= LEAST_BYTES:
            messages, total, largest = messages + 1, total + size, max(largest, size)

    server.node.relay.capture = count
    while True:
        drops = server.node.stats().drops
        line = {"messages": messages, "bytes": total, "largest": largest, "drops": drops}
        print(json.dumps(line), flush=True)
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(serve())
