"""One link of a `Client` or `MultiClient`: it logs in as a sub-client, or as the client itself."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass

from nconnect.config.proxy import Proxies
from nconnect.io.nkn.link import LinkRunner
from nconnect.nkn.envelope import Batch
from nconnect.nkn.link import Link
from nconnect.nkn.outputs import DownReason
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.nkn import InboundMessage


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """One link to a node, now."""

    address: str
    """The address with which it logs in: the client's, or a sub-client's."""
    state: str
    """"up", "connecting" or "down" (waiting for the next attempt)."""
    node: NodeInfo | None
    """The node to which it is connected, or tries to connect."""
    rtt_s: float | None
    """The round trip to the node in seconds; None until it has been measured."""
    reconnects: int
    """How often it was restored."""
    last_error: str
    """The last failure, one line; "" once the link is up."""


class SubLink:
    """One link, with the sub-client's prefix for its own address and for destinations."""

    def __init__(
        self,
        index: int | None,
        link: Link,
        tls: bool | ssl.SSLContext,
        *,
        proxies: Proxies,
        on_message: Callable[[SubLink, InboundMessage], None],
        on_change: Callable[[SubLink], None],
    ) -> None:
        """`index`: of the sub-client; None: the client itself. `on_message`: what it gets is borrowed until
        it returns. `on_change`: the link came up, went down, or takes data again.
        """
        self.id = "" if index is None else f"__{index}__"
        self.link = link
        context = tls if isinstance(tls, ssl.SSLContext) else None
        self.runner = LinkRunner(link, self, tls=context, proxies=proxies)
        self._index = index
        self._on_message = on_message
        self._on_change = on_change

    def send(self, batch: Batch, max_holding_s: int) -> None:
        """Send to the destinations' sub-clients with the same index; lost if the link is down."""
        index = self._index
        dests = [str(dest if index is None else dest.sub_client(index)) for dest in batch.dests]
        self.runner.send_message(dests, batch.payloads, max_holding_seconds=max_holding_s)

    def status(self) -> LinkStatus:
        link = self.link
        return LinkStatus(
            str(link.address), link.state.word, link.node, link.rtt_s, link.reconnects, link.last_error
        )

    # As the handler of its link

    def on_message(self, message: InboundMessage) -> None:
        self._on_message(self, message)

    def on_up(self, node: NodeInfo) -> None:
        self._on_change(self)

    def on_down(self, why: str, reason: DownReason) -> None:
        self._on_change(self)

    def on_writable(self) -> None:
        self._on_change(self)
