"""What a peer offers, as this device may use it: for `status` and `nconnect offers`. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nconnect.offers.name_codec import ZONE, Names
from nconnect.offers.names import Provider, label, url_here
from nconnect.offers.statement import Statement


@dataclass(frozen=True, slots=True)
class ShownServer:
    """A server of a peer. `url`: as this device reaches it; as its provider calls it where it may not."""

    name: str
    url: str
    names: tuple[str, ...]  # that resolve here
    models: tuple[str, ...]
    allowed: bool  # it is in force here, and the peer does not refuse


def servers_of(
    provider: Provider, peer_label: str, said: Statement, known: Names, *, refused: bool
) -> Iterator[ShownServer]:
    """`known`: the names that resolve here. `refused`: nothing of the peer can be reached for now."""
    for server in said.servers:
        url = url_here(provider, server.name, server.url, peer_label, known)
        names = (f"{label(name)}.{peer_label}.{ZONE}" for name in (server.name, *server.names))
        yield ShownServer(
            server.name,
            url or server.url,
            tuple(name for name in names if url and name in known),
            server.models,
            bool(url) and not refused,
        )
