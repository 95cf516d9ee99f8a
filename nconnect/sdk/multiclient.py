"""`MultiClient`: one address, several links to several nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Literal, Unpack

from nconnect.errors import ConfigError, NotConnected
from nconnect.model import NknAddress
from nconnect.ncp.settings import (
    MAX_MTU_BYTES,
    MIN_WINDOW_BYTES,
    STREAM_MTU_BYTES,
    STREAM_WINDOW_BYTES,
    SessionSettings,
)
from nconnect.sdk.base_client import BaseClient, Options
from nconnect.sdk.stream import Stream
from nconnect.sdk.streaming import DIAL_TIMEOUT_S, Streaming, StreamServer
from nconnect.wire.jsonrpc import NodeInfo

SUB_CLIENTS = 4  # the official SDKs' numSubClients
MAX_SUB_CLIENTS = 64  # guessed
_ALL_LINKS_S = 1.0  # a stream uses the sub-clients that are up when it is dialled: worth a short wait


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
        mtu: int = STREAM_MTU_BYTES,
        window: int = STREAM_WINDOW_BYTES,
        **options: Unpack[Options],
    ) -> None:
        """`sub_clients`: how many. `original`: log in with the bare address as well, so that plain clients
        can be sent to and send to this one. `last_nodes`: tried when no seed answers, one for each link.
        `mtu`, `window`: of its streams, the largest packet and how much may wait to be read, in bytes; the
        smaller ones of the two sides count.
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
        if not 1 <= mtu <= MAX_MTU_BYTES:
            raise ConfigError(f"mtu is 1 to {MAX_MTU_BYTES} bytes, not {mtu}")
        if not MIN_WINDOW_BYTES <= window < 1 << 32:
            raise ConfigError(f"window is {MIN_WINDOW_BYTES} to {(1 << 32) - 1} bytes, not {window}")
        self._streams = Streaming(self._exchange, SessionSettings(mtu=mtu, window=window))
        self._streams.use(self._links)
        self._streaming = self._streams
        self._had_all_links = False

    async def dial(self, address: str, *, timeout_s: float = DIAL_TIMEOUT_S) -> Stream:
        """Open a stream to a client that listens (of any SDK). It uses the sub-clients that are up now.

        `address` may end in a registered name, as in `send`; then what `chain.resolve` raises is raised too.

        Raises `StreamError` if it does not answer within `timeout_s`, `NotConnected` if no link is up,
        `ConfigError` for an invalid address, `ClientClosed`.
        """
        self._must_be_open()
        dest = NknAddress.parse(await self._chain.resolve(address, timeout_s=timeout_s)).bare
        await self.wait_up(timeout_s=timeout_s)
        if not self._had_all_links:
            self._had_all_links = True
            with suppress(NotConnected):
                await self.wait_up(len(self._links), timeout_s=min(_ALL_LINKS_S, timeout_s))
        return await self._streams.dial(dest, timeout_s)

    def listen(
        self,
        accept: Literal["all"] | Iterable[str | bytes],
        *,
        on_refused: Callable[[str], None] | None = None,
    ) -> StreamServer:
        """Let other clients open streams to this one.

        `accept`: who may: public keys (64 hex digits or 32 bytes), addresses (then only with that
        identifier), or the word "all"; an empty list lets nobody in. `on_refused` is
        told the address of each packet from somebody else. A later call replaces this one.
        Raises `ConfigError`, `ClientClosed`.
        """
        self._must_be_open()
        return self._streams.listen(accept, on_refused)

    @property
    def stream_refusals(self) -> dict[str, int]:
        """How many packets of streams were not taken, by reason (`StreamRefusal`)."""
        return {reason.value: count for reason, count in self._streams.sessions.refusals.items()}
