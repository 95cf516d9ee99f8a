"""`nconnect offers`: the servers that the providers of this device offer to it."""

from __future__ import annotations

import typer

from nconnect.cli.options import ConfigOption, JsonOption, chosen

MODELS_SHOWN = 3  # of a server, in the table


def offers(ctx: typer.Context, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show the servers that providers offer.

    With their URLs as this device reaches them, and the models that they list themselves.
    """
    from nconnect.cli.options import interface_at
    from nconnect.cli.output import print_json, table
    from nconnect.control.client import ControlClient
    from nconnect.control.schema import to_json

    # Not by the file, which may be root's: a user whom [control] readers names may ask the daemon.
    found = ControlClient(interface_at(chosen(ctx, config))).offers()
    if as_json:
        print_json({"offers": to_json(found)})
    elif not found:
        print("no offers: no provider offers a server to this device now (`nconnect status` shows them)")
    else:
        rows = [
            (each.provider, each.server, each.url, _models(each.models), "yes" if each.allowed else "not now")
            for each in found
        ]
        print("\n".join(table(("PROVIDER", "SERVER", "URL", "MODELS", "YOU MAY"), rows)))


def _models(models: tuple[str, ...]) -> str:
    more = f" and {len(models) - MODELS_SHOWN} more" if len(models) > MODELS_SHOWN else ""
    return ", ".join(models[:MODELS_SHOWN]) + more
