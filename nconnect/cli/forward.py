"""`nconnect forward`: TCP ports of this machine are targets behind peers."""

from __future__ import annotations

from typing import Annotated

import typer

from nconnect.cli.carry import (
    AnyUserOption,
    CipherOption,
    NconnectOption,
    PasswordOption,
    SeedFileOption,
    SeedRpcOption,
    TokenOption,
    VerboseOption,
)
from nconnect.cli.options import ConfigOption
from nconnect.errors import UsageError


def forward(
    ctx: typer.Context,
    forwards: Annotated[
        list[str],
        typer.Argument(metavar="[BIND:]PORT:HOST:PORT…", help="A port here, and what it leads to: TCP."),
    ],
    token: TokenOption = None,
    any_user: AnyUserOption = False,
    nconnect: NconnectOption = None,
    cipher: CipherOption = None,
    password_file: PasswordOption = None,
    seed_file: SeedFileOption = None,
    seed_rpc: SeedRpcOption = None,
    verbose: VerboseOption = False,
    config: ConfigOption = None,
) -> int:
    """Forward TCP ports to hosts behind peers, without root.

    It runs until Ctrl-C. HOST is an address in a peer's prefixes, or a name below .internal. It uses the
    tunnel that runs on this machine, else it holds the session itself. BIND is 127.0.0.1 unless given.
    """
    from nconnect.cli.carry import OfficialServer, check_system, listen_and_serve, owners
    from nconnect.streams.forward import Forward, forwarding

    check_system("forward")
    server = OfficialServer.of_options(nconnect, cipher, password_file, seed_file, seed_rpc, token)
    parsed = [Forward.parse(text, all_names=server is not None) for text in forwards]
    for each in parsed:
        if not each.place.is_loopback and not any_user:
            raise UsageError(
                f"{each.place} lets everybody who reaches it reach {each.target}, and asks for no password:"
                " listen on 127.0.0.1, or add --any-user"
            )
    listening = [
        (each.place, owners(each.place, any_user=any_user), forwarding(each.target), f" for {each.target}")
        for each in parsed
    ]
    return listen_and_serve(listening, ctx, config, token, server, verbose=verbose)
