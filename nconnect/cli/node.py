"""`nconnect node`: a relay of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def node(
    listen: Annotated[str, typer.Option(metavar="HOST", help="The address to listen on: 0.0.0.0, ::, …")],
    ws_port: Annotated[int, typer.Option(min=0, max=65535, help="The port of the websocket.")] = 30002,
    rpc_port: Annotated[int, typer.Option(min=0, max=65535, help="The port of the RPC.")] = 30003,
    advertise: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="The host to tell clients. [default: the one they asked by]"),
    ] = None,
    verify_signatures: Annotated[
        bool, typer.Option("--verify-signatures", help="Check every message's signature and receipt.")
    ] = False,
    seed_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the node's key here. [default: a new one]")
    ] = None,
    reorder: Annotated[bool, typer.Option("--reorder", hidden=True)] = False,
    stats_file: Annotated[Path | None, typer.Option(hidden=True)] = None,
    capture_file: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> int:
    """Run an NKN node, until Ctrl-C.

    Clients use it with --seed-rpc http://HOST:30003.
    """
    from dataclasses import replace

    from nconnect.cli.logs import log_to_stderr
    from nconnect.cli.options import Checks
    from nconnect.config import check_host
    from nconnect.daemon.node import run, settings_of
    from nconnect.errors import UsageError
    from nconnect.model import NodeConfig

    checks = Checks()
    checks.one("--listen", listen, check_host)
    if advertise is not None:
        checks.one("--advertise", advertise, check_host)
    checks.finish()
    if ws_port == rpc_port and ws_port:
        raise UsageError(f"--ws-port and --rpc-port are both {ws_port}: give each its own")
    config = NodeConfig(listen, ws_port, rpc_port, advertise, verify_signatures)
    log_to_stderr()
    return run(
        config,
        settings=replace(settings_of(config), reorder=reorder),
        seed_file=seed_file,
        stats_file=stats_file,
        capture_file=capture_file,
    )
