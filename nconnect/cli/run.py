"""`nconnect run`: a command in the network of a tunnel without root."""

from __future__ import annotations

from typing import Annotated

import typer

from nconnect.cli.options import ConfigOption, chosen


def run(
    ctx: typer.Context,
    command: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND [ARGUMENTS…]")] = None,
    config: ConfigOption = None,
) -> int:
    """Run a command in the network of a tunnel without root.

    The command sees the tunnel's addresses, routes and names, and the machine's ordinary network. Its exit
    status, signals and terminal are its own. A server in there is not reached from outside: `nconnect
    forward` leads a port in.
    """
    from nconnect.io.namespace.command import start

    return start(command or (), chosen(ctx, config))
