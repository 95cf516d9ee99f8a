"""Keeps what a link tells its owner."""

from __future__ import annotations

import asyncio

from nconnect.nkn.outputs import DownReason
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.nkn import InboundMessage


class Handler:
    """A handler of a link: each thing that it was told can be waited for."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()  # source, payload
        self.ups: asyncio.Queue[NodeInfo] = asyncio.Queue()
        self.downs: asyncio.Queue[DownReason] = asyncio.Queue()
        self.up = asyncio.Event()  # set while the link is up
        self.writable = asyncio.Event()

    def on_message(self, message: InboundMessage) -> None:
        self.messages.put_nowait((message.src, bytes(message.payload)))

    def on_up(self, node: NodeInfo) -> None:
        self.up.set()
        self.ups.put_nowait(node)

    def on_down(self, why: str, reason: DownReason) -> None:
        assert "\n" not in why
        self.up.clear()
        self.downs.put_nowait(reason)

    def on_writable(self) -> None:
        self.writable.set()
