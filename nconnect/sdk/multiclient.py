"""`MultiClient`: one address, several links to several nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from nconnect.errors import ConfigError
from nconnect.sdk.base_client import BaseClient, Options
from nconnect.wire.jsonrpc import NodeInfo

SUB_CLIENTS = 4  # the official SDKs' numSubClients
MAX_SUB_CLIENTS = 64  # guessed


class MultiClient(BaseClient):
    """An NKN client that is logged in several times, so that one slow or lost node causes no delay.

    Sub-client k logs in as `__k__.ADDRESS` and sends to `__k__.DEST`. A message is sent through every
    connected sub-client; receivers take the first copy and drop the others, and the first answer counts. So
    the other side must be a `MultiClient` too (of any SDK), unless this one has `original`.
    """

    def __init__(
        self,
        seed: bytes | str | None = None,
        *,
        identifier: str = "",
        sub_clients: int = SUB_CLIENTS,
        original: bool = False,
        last_nodes: Sequence[NodeInfo] = (),
        **options: Unpack[Options],
    ) -> None:
        """`sub_clients`: how many. `original`: log in with the bare address as well, so that plain clients
        can be sent to and send to this one. `last_nodes`: tried when no seed answers, one for each link.
        The rest: `Options`; entering needs one link to be up. Raises `ConfigError`.
        """
        if not 0 <= sub_clients <= MAX_SUB_CLIENTS or not (sub_clients or original):
            raise ConfigError(f"a MultiClient has 1 to {MAX_SUB_CLIENTS} sub-clients, not {sub_clients}")
        originals: list[int | None] = [None] if original else []
        super().__init__(
            seed,
            identifier,
            [*originals, *range(sub_clients)],
            last_nodes=last_nodes,
            **options,
        )
