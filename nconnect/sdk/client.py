"""`Client`: one address, one link to the node that serves it."""

from __future__ import annotations

from typing import Unpack

from nconnect.sdk.base_client import BaseClient, Options
from nconnect.wire.jsonrpc import NodeInfo


class Client(BaseClient):
    """An NKN client: sends messages to addresses, and receives those to its own.

        async with Client(seed, identifier="alice") as client:
            reply = await client.send(bob, "hello")

    It connects when it is entered, and stays connected until it is left: a broken link is restored, with a
    wait that grows from a quarter of a second to ten seconds, for as long as it takes.
    """

    def __init__(
        self,
        seed: bytes | str | None = None,
        *,
        identifier: str = "",
        last_node: NodeInfo | None = None,
        **options: Unpack[Options],
    ) -> None:
        """`seed`: 32 bytes or 64 hex digits, the key and so the address; a new one if None.

        `identifier`: the part of the address before the key. `last_node`: tried when no seed answers.
        The rest: `Options`. Raises `ConfigError`.
        """
        super().__init__(
            seed,
            identifier,
            (None,),
            last_nodes=() if last_node is None else (last_node,),
            **options,
        )
