"""A node whose RPC names another node, which nobody can reach, for every address that is no sub-client's.

`python -m netns_tests.naming DEAD_HOST`. After SIGUSR1 it names itself for all addresses.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from nconnect.crypto.keys import Identity
from nconnect.io.nkn.node_server import NodeServer
from nconnect.model import NodeConfig
from nconnect.node.rpc import node_info
from nconnect.node.settings import NodeSettings
from nconnect.wire.jsonrpc import NodeInfo


async def serve(dead_host: str) -> None:
    server = NodeServer(NodeConfig(listen="0.0.0.0"), Identity(os.urandom(32)), NodeSettings(rate_per_s=None))
    await server.start()
    assert server.ws_port is not None
    dead = node_info(dead_host, server.ws_port, server.rpc_port, os.urandom(32))

    def assign(address: str, secure: bool) -> NodeInfo | None:
        return None if address.startswith("__") else dead

    server.assign = assign
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, setattr, server, "assign", None)
    print("serving", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
