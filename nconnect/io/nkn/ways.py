"""Opening a node's websocket by the first of several ways that gets through (`nconnect.nkn.ways`)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nconnect.config.proxy import Proxies
from nconnect.config.seed_url import pinned
from nconnect.errors import NconnectError
from nconnect.io.net import websocket_client
from nconnect.io.net.websocket import WebSocket
from nconnect.io.nkn import rpc
from nconnect.nkn.outputs import Connect
from nconnect.nkn.ways import STAGGER_S, Way
from nconnect.wire.jsonrpc import NodeInfo


@dataclass(frozen=True, slots=True)
class OpenedSocket:
    """A websocket, the node that it leads to, and the way that got there."""

    socket: WebSocket
    node: NodeInfo
    way: Way


def url_of(node: NodeInfo, way: Way) -> str:
    """The URL of a node's websocket by one way, with its pin; errors about it begin with that."""
    return pinned(f"{'wss' if way.secure else 'ws'}://{node.addr}", way.pin)


async def open_first(
    to: Connect,
    address: str,
    *,
    tls: ssl.SSLContext | None,
    proxies: Proxies,
    on_found: Callable[[NodeInfo], None],
) -> OpenedSocket:
    """Open a websocket for the client `address`; raises `NconnectError`, that of the first way.

    `tls` is used in place of our own context where a certificate is verified. `on_found` is told of a node
    before it is connected to, where a seed had to be asked for it.
    """

    async def open_by(way: Way) -> OpenedSocket:
        node = to.node
        if way.ask is not None:
            node = await rpc.ask_node(
                way.ask, address, timeout_s=to.timeout_s, tls=way.secure, proxies=proxies
            )
            on_found(node)
        socket = await websocket_client.connect(
            url_of(node, way),
            timeout_s=to.timeout_s,
            tls=tls if way.verify else None,
            verify=way.verify,
            proxies=proxies,
        )
        return OpenedSocket(socket, node, way)

    return await _first([partial(open_by, way) for way in to.ways])


async def _first(attempts: Sequence[Callable[[], Coroutine[Any, Any, OpenedSocket]]]) -> OpenedSocket:
    """The first that succeeds; each begins `STAGGER_S` after the one before, or as soon as that fails."""
    tasks: list[asyncio.Task[OpenedSocket]] = []
    won: asyncio.Task[OpenedSocket] | None = None
    try:
        for begun, attempt in enumerate(attempts, 1):
            tasks.append(asyncio.create_task(attempt(), name="open a websocket"))
            won = await _next(tasks, STAGGER_S if begun < len(attempts) else None)
            if won is not None:
                return won.result()
        while any(not task.done() for task in tasks):
            won = await _next(tasks, None)
            if won is not None:
                return won.result()
        return tasks[0].result()  # raises
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, OpenedSocket) and (won is None or result is not won.result()):
                result.socket.close(1000, "another way was faster")


async def _next(
    tasks: Sequence[asyncio.Task[OpenedSocket]], timeout_s: float | None
) -> asyncio.Task[OpenedSocket] | None:
    """Wait until one more is done: the one that succeeded, if any has."""
    open_ones = [task for task in tasks if not task.done()]
    if open_ones:
        await asyncio.wait(open_ones, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done() and not isinstance(task.exception(), NconnectError):
            return task  # also one that failed in a way that none should: its result raises
    return None
