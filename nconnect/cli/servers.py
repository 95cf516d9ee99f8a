"""`nconnect provide server …` and `host …`: what has a name for peers, in the file and in the daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
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
hosts = group("Hosts with a name, which peers reach as NAME.PROVIDER.internal.")

ServerArgument = Annotated[str, typer.Argument(metavar="NAME", help="How peers call it: ollama.")]
HostArgument = Annotated[str, typer.Argument(metavar="NAME", help="How peers call it: nas.")]


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
    from nconnect.config.edit import add_server
    from nconnect.config.servers import parse_server

    server = parse_server(name, url, tuple(each for text in also or () for each in text.split(",")))
    _add(chosen(ctx, config), name, lambda text: add_server(text, server), dry_run=dry_run)


@hosts.command("add")
def add_named_host(
    ctx: typer.Context,
    name: HostArgument,
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="Where it is, in a provided subnet: 192.168.50.20.")
    ],
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
) -> None:
    """Give a host in a provided subnet a name. This takes effect at once.

    Peers are told, as far as they may reach it; nothing more is opened to them.
    """
    from nconnect.config.edit import add_host
    from nconnect.config.servers import parse_host

    host = parse_host(name, address)
    _add(chosen(ctx, config), name, lambda text: add_host(text, host), dry_run=dry_run)


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


@hosts.command("list")
def show_hosts(ctx: typer.Context, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the named hosts in the file."""
    from nconnect.cli.output import print_json, table
    from nconnect.config.servers import host_section
    from nconnect.io.files import config_file

    named = config_file.load(chosen(ctx, config)).provide.hosts
    if as_json:
        print_json({"hosts": [dict(host_section(host)) for host in named]})
    elif not named:
        print("no hosts: name one with `nconnect provide host add NAME ADDRESS`")
    else:
        print("\n".join(table(("NAME", "ADDRESS"), [(host.name, str(host.address)) for host in named])))


@app.command("remove")
def remove(
    ctx: typer.Context,
    name: ServerArgument,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    config: ConfigOption = None,
) -> None:
    """Stop offering a server. This takes effect at once."""
    question = f"stop offering {name}, and end the connections to it now?"
    _remove(chosen(ctx, config), "server", name, lambda: confirm(question, yes), dry_run=dry_run)


@hosts.command("remove")
def remove_host(
    ctx: typer.Context,
    name: HostArgument,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
) -> None:
    """Take a host's name back. This takes effect at once; connections to it stay."""
    _remove(chosen(ctx, config), "host", name, lambda: None, dry_run=dry_run)


def _add(path: Path, name: str, change: Callable[[str], str], *, dry_run: bool) -> None:
    from nconnect.cli.change import change_file
    from nconnect.io.files import config_file

    config_file.load(path)  # its own mistakes, with their lines
    outcome = change_file(path, change, dry_run=dry_run)
    print(f"{name} added: {outcome.value}")


def _remove(path: Path, kind: str, name: str, confirmed: Callable[[], None], *, dry_run: bool) -> None:
    from nconnect.cli.change import change_file
    from nconnect.config.edit import remove_named
    from nconnect.io.files import config_file

    config_file.load(path)
    if not dry_run:
        remove_named(config_file.read(path), kind, name)  # report that it is not there before asking
        confirmed()
    outcome = change_file(path, lambda text: remove_named(text, kind, name), dry_run=dry_run)
    print(f"{name} removed: {outcome.value}")
