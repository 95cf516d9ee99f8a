"""`nconnect provide server …`: servers that peers are told about, in the file and in the running daemon."""

from __future__ import annotations

from typing import Annotated

import typer

from nconnect.cli.options import (
    ConfigOption,
    DryRunOption,
    JsonOption,
    Values,
    YesOption,
    chosen,
    confirm,
    group,
)

app = group("Servers with a name, which peers see in `nconnect offers`.")

ServerArgument = Annotated[str, typer.Argument(metavar="NAME", help="How peers call it: ollama.")]


@app.command("add")
def add(
    ctx: typer.Context,
    name: ServerArgument,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where it is: http://127.0.0.1:11434.")],
    also: Annotated[Values, typer.Option("--also", metavar="NAME,…", help="Further names of it.")] = None,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
) -> None:
    """Offer a server by name. This takes effect at once.

    A server on this machine's loopback is reached at the tunnel address; one in a provided subnet as it is.
    """
    from nconnect.cli.change import change_file
    from nconnect.config.edit import add_server
    from nconnect.config.servers import parse_server
    from nconnect.io.files import config_file

    path = chosen(ctx, config)
    server = parse_server(name, url, tuple(each for text in also or () for each in text.split(",")))
    config_file.load(path)  # its own mistakes, with their lines
    outcome = change_file(path, lambda text: add_server(text, server), dry_run=dry_run)
    print(f"{name} added: {outcome.value}")


@app.command("list")
def show(ctx: typer.Context, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the servers in the file."""
    from nconnect.cli.output import print_json, table
    from nconnect.config.servers import as_section
    from nconnect.io.files import config_file

    servers = config_file.load(chosen(ctx, config)).provide.servers
    if as_json:
        print_json({"servers": [dict(as_section(server)) for server in servers]})
    elif not servers:
        print("no servers: add one with `nconnect provide server add NAME URL`")
    else:
        rows = [(server.name, server.url, ", ".join(server.names)) for server in servers]
        print("\n".join(table(("NAME", "URL", "ALSO"), rows)))


@app.command("remove")
def remove(
    ctx: typer.Context,
    name: ServerArgument,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    config: ConfigOption = None,
) -> None:
    """Stop offering a server. This takes effect at once."""
    from nconnect.cli.change import change_file
    from nconnect.config.edit import remove_server
    from nconnect.io.files import config_file

    path = chosen(ctx, config)
    config_file.load(path)
    if not dry_run:
        remove_server(config_file.read(path), name)  # report that it is not there before asking
        confirm(f"stop offering {name}, and end the connections to it now?", yes)
    outcome = change_file(path, lambda text: remove_server(text, name), dry_run=dry_run)
    print(f"{name} removed: {outcome.value}")
