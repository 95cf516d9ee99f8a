"""`python -m netns_tests.sender SEED_RPC SEED IDENTIFIER DEST`: an NKN client that sends what it is told.

Each line of standard input is the payload of one NKN message in hex, well-formed or not. The program ends
when it has handed all of them to the node.
"""

from __future__ import annotations

import asyncio
import os
import sys

from nconnect.crypto.keys import Identity
from nconnect.io.clock import boottime
from nconnect.io.nkn.link import LinkRunner
from nconnect.model import NknAddress
from nconnect.nkn.link import Link
from nconnect.nkn.outputs import DownReason
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.nkn import InboundMessage


class _Handler:
    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.writable = asyncio.Event()
        self.why = ""

    def on_up(self, node: NodeInfo) -> None:
        self.up.set()

    def on_down(self, why: str, reason: DownReason) -> None:
        self.why = why

    def on_message(self, message: InboundMessage) -> None: ...

    def on_writable(self) -> None:
        self.writable.set()


async def send(seed_rpc: str, seed: str, identifier: str, dest: str, payloads: list[bytes]) -> None:
    identity = Identity(bytes.fromhex(seed))
    handler = _Handler()
    address = NknAddress(identifier, identity.public_key)
    link = Link(identity, address, (seed_rpc,), now=boottime(), rng=os.urandom)
    runner = LinkRunner(link, handler)
    running = asyncio.create_task(runner.run(), name="link")
    async with asyncio.timeout(10):
        await handler.up.wait()
        for payload in payloads:
            if not runner.send(dest, (payload,)):
                sys.exit(f"sender: no link to the node: {handler.why}")
            while not runner.writable:
                handler.writable.clear()
                await handler.writable.wait()
    runner.close()
    await running


if __name__ == "__main__":
    _, seed_rpc, seed, identifier, dest = sys.argv
    asyncio.run(send(seed_rpc, seed, identifier, dest, [bytes.fromhex(line) for line in sys.stdin]))
