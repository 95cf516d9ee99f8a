"""`Client`: one address, one link to the node that serves it."""

from __future__ import annotations

import ssl
from collections.abc import Iterable

from nconnect.model import PUBLIC_SEED_RPC
from nconnect.sdk.endpoint import CONNECT_TIMEOUT_S, Endpoint
from nconnect.sdk.inbox import INBOX_BYTES, INBOX_MESSAGES
from nconnect.wire.jsonrpc import NodeInfo


class Client(Endpoint):
    """An NKN client: sends messages to addresses, and receives those to its own.

        async with Client(seed, identifier="alice") as client:
            reply = await client.send(bob, "hello")

    It connects when it is entered, and stays connected until it is left: a link that breaks is made again,
    with a wait that grows from a quarter of a second to ten, for as long as it takes.
    """

    def __init__(
        self,
        seed: bytes | str | None = None,
        *,
        identifier: str = "",
        seed_rpc: str | Iterable[str] = PUBLIC_SEED_RPC,
        tls: bool | ssl.SSLContext = False,
        proxy: str | None = None,
        accept_unencrypted: bool = False,
        connect_timeout_s: float | None = CONNECT_TIMEOUT_S,
        inbox_messages: int = INBOX_MESSAGES,
        inbox_bytes: int = INBOX_BYTES,
        last_node: NodeInfo | None = None,
    ) -> None:
        """`seed`: 32 bytes or 64 hex digits, the key and so the address; a new one if None.

        `identifier`: the part of the address before the key. `seed_rpc`: where to ask for a node, tried in
        parallel, a little apart. `tls`: speak wss, with this context if it is one.
        `proxy`: http://[USER:PASSWORD@]HOST:PORT, socks5://… or "none"; None: the environment's HTTPS_PROXY,
        ALL_PROXY and NO_PROXY.
        `accept_unencrypted`: let messages in the clear through, which anybody on the way can read, change
        and make. `connect_timeout_s`: for entering; None: wait for ever. `inbox_messages`, `inbox_bytes`:
        what may wait to be received; beyond it the newest is dropped. `last_node`: tried when no seed
        answers. Raises `ConfigError`.
        """
        super().__init__(
            seed,
            identifier,
            (None,),
            seed_rpc=seed_rpc,
            tls=tls,
            proxy=proxy,
            accept_unencrypted=accept_unencrypted,
            connect_timeout_s=connect_timeout_s,
            inbox_messages=inbox_messages,
            inbox_bytes=inbox_bytes,
            last_nodes=() if last_node is None else (last_node,),
        )
