"""`python -m lab.attack.forger MESSAGE`: publish it among a cluster's nodes, 100 times, and end."""

from __future__ import annotations

import asyncio
import sys

from nconnect.io.nkn.cluster import NODES, load_nats


async def _main() -> None:
    client = await load_nats().connect("nats://127.0.0.1:4222")
    for _ in range(100):
        await client.publish(NODES, sys.argv[1].encode())
    await client.flush()
    await client.close()


if __name__ == "__main__":
    asyncio.run(_main())
