"""`nconnect leave PROVIDER`: takes back all that `join` has made."""

from __future__ import annotations

from typing import Annotated

import typer

from nconnect.cli.options import ConfigOption, YesOption, chosen, confirm
from nconnect.errors import ConfigError


def leave(
    ctx: typer.Context,
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="Its name in `nconnect peer list`.")],
    yes: YesOption = False,
    config: ConfigOption = None,
) -> None:
    """Leave a provider, and take back all that `join` has made.

    Its routes, addresses and names are gone at once, and its key is forgotten. The provider keeps this
    device in its table until it removes it.
    """
    from nconnect.cli.change import change_file
    from nconnect.config.edit import remove_peer, unknown_peer, without_addresses
    from nconnect.io.files import peer_table

    path = chosen(ctx, config)
    table = peer_table.load(path)
    names = [peer.name for peer in table.config.peers]
    if provider not in names:
        raise unknown_peer(provider, names)
    if provider in table.invited:
        raise ConfigError(
            f"{provider} came by an invitation of this device: `nconnect peer remove {provider}` removes it"
        )
    (peer,) = [peer for peer in table.config.peers if peer.name == provider]
    is_last = not table.config.address and not any(p.local_address for p in table.config.peers if p != peer)
    confirm(f"leave {provider}, and end the connections to it now?", yes)

    def change(text: str) -> str:
        return remove_peer(without_addresses(text) if is_last else text, provider)

    outcome = change_file(path, change)
    print(f"left {provider}: {outcome.value}")
