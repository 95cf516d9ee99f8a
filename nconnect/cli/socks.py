"""`nconnect socks`: a SOCKS5 and HTTP proxy into the tunnel."""

from __future__ import annotations

from pathlib import Path
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


def socks(
    ctx: typer.Context,
    listen: Annotated[
        str, typer.Option("--listen", metavar="[ADDRESS:]PORT", help="Where programs connect to.")
    ] = "127.0.0.1:1080",
    token: TokenOption = None,
    listen_password: Annotated[
        Path | None,
        typer.Option(
            "--listen-password-file",
            metavar="FILE",
            help="Programs have to give the password in this file (mode 0600); any user name.",
            readable=False,
        ),
    ] = None,
    any_user: AnyUserOption = False,
    nconnect: NconnectOption = None,
    cipher: CipherOption = None,
    password_file: PasswordOption = None,
    seed_file: SeedFileOption = None,
    seed_rpc: SeedRpcOption = None,
    verbose: VerboseOption = False,
    config: ConfigOption = None,
) -> int:
    """Serve SOCKS5 and HTTP CONNECT into the tunnel, without root.

    It runs until Ctrl-C. Programs reach addresses in peers' prefixes and names below .internal, and nothing
    else: it is no exit to the internet. It uses the tunnel that runs on this machine, else it holds the
    session itself.
    """
    from nconnect.cli.carry import OfficialServer, check_system, listen_and_serve, owners, read_password
    from nconnect.streams.forward import parse_place
    from nconnect.streams.proxy import proxying

    check_system("socks")
    server = OfficialServer.of_options(nconnect, cipher, password_file, seed_file, seed_rpc, token)
    place = parse_place(listen)
    if not place.is_loopback and listen_password is None:
        raise UsageError(
            f"{place} can be reached from other machines, whose programs would reach what this one may:"
            " add --listen-password-file FILE, or listen on 127.0.0.1"
        )
    password = None if listen_password is None else read_password(listen_password)
    who = owners(place, any_user=any_user)
    return listen_and_serve(
        [(place, who, proxying(password), "")], ctx, config, token, server, verbose=verbose
    )
