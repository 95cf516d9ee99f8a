"""`python -m lab.faulty_node dropped|duplicated|reordered EVERY`: a node that mistreats messages.

Every EVERYth message to each client is dropped, doubled, or sent after the next three, as relays of a network
may do. Prints a line when it listens, and one for each message that it mistreats.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from collections.abc import Sequence
from typing import Any

from lab.wire import BEHIND, HELD_S, Action
from nconnect.crypto.keys import Identity
from nconnect.io.nkn.node_server import NodeServer
from nconnect.model import NodeConfig
from nconnect.node.settings import NodeSettings


class Mistreated:
    """A client's websocket, which drops, doubles or reorders what is sent to it."""

    def __init__(self, websocket: Any, action: Action, every: int) -> None:
        self._websocket = websocket
        self._action = action
        self._every = every
        self._count = 0
        self._held: list[tuple[int, bytes]] = []  # (the count at which it leaves, message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._websocket, name)

    def send_binary(self, parts: Sequence[Any]) -> None:
        self._count += 1
        if self._count % self._every:
            self._websocket.send_binary(parts)
        else:
            print(self._action.value, flush=True)
            whole = b"".join(parts)
            if self._action is Action.DUPLICATE:
                self._websocket.send_binary((whole,))
                self._websocket.send_binary((whole,))
            elif self._action is Action.REORDER:
                self._held.append((self._count + BEHIND, whole))
                asyncio.get_running_loop().call_later(HELD_S, self._let_go, self._count + BEHIND)
        self._let_go(self._count)

    def _let_go(self, count: int) -> None:
        while self._held and self._held[0][0] <= count:
            self._websocket.send_binary((self._held.pop(0)[1],))


async def _main(action: Action, every: int) -> None:
    server = NodeServer(NodeConfig("0.0.0.0"), Identity(os.urandom(32)), NodeSettings())
    node: Any = server.node
    original = node.open

    def opened(websocket: Any, *rest: Any) -> Any:
        return original(Mistreated(websocket, action, every), *rest)

    node.open = opened
    await server.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print("listening", flush=True)
    await ended.wait()
    await server.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="lab.faulty_node", description=__doc__)
    parser.add_argument("action", type=Action)
    parser.add_argument("every", type=int)
    options = parser.parse_args()
    asyncio.run(_main(options.action, options.every))


if __name__ == "__main__":
    main()
