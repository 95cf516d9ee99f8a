"""`nconnect provide …`: what this machine offers to its peers, in the file and in the running daemon."""

from __future__ import annotations

from typing import Annotated

import typer

from nconnect.cli.options import (
    Checks,
    ConfigOption,
    DryRunOption,
    JsonOption,
    Values,
    YesOption,
    chosen,
    confirm,
    group,
)
from nconnect.errors import UsageError

Offers = dict[str, tuple[str, ...]]

SubnetOption = Annotated[
    Values,
    typer.Option(
        "--subnet", metavar="PREFIX[=SEEN],…", help="A subnet behind this machine: 192.168.50.0/24."
    ),
]
ServiceOption = Annotated[
    Values, typer.Option("--service", metavar="PORT/PROTO,…", help="A port of this machine: 8000/tcp.")
]
ExposeOption = Annotated[
    Values, typer.Option("--expose", metavar="HOST:PORT,…", help="A loopback server here: 127.0.0.1:11434.")
]

app = group("What this machine offers to its peers.")


@app.command("show")
def show(ctx: typer.Context, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show what is offered."""
    from nconnect.cli.config import shown
    from nconnect.cli.output import print_json
    from nconnect.io.files import config_file

    offered = shown(config_file.load(chosen(ctx, config)))["provide"]
    if as_json:
        print_json(offered)
        return
    facts = {
        "subnets": ", ".join(offered["subnets"]) or "none",
        "services": ", ".join(offered["services"]) or "none",
        "expose": ", ".join(offered["expose"]) or "none",
        "servers": ", ".join(f"{s['name']} ({s['url']})" for s in offered["server"]) or "none",
        "hosts": ", ".join(f"{h['name']} ({h['address']})" for h in offered["host"]) or "none",
        "masquerade": "yes" if offered["masquerade"] else "no",
        "mtu": offered["mtu"] or "the path's own",
    }
    print("\n".join(f"{key:<11} {value}" for key, value in facts.items()))


@app.command("add")
def add(
    ctx: typer.Context,
    subnet: SubnetOption = None,
    service: ServiceOption = None,
    expose: ExposeOption = None,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
) -> None:
    """Offer more. This takes effect at once.

    Peers are told at once. Their side routes a private subnet by itself; any other waits for their
    `peer set NAME --accept-routes`.
    """
    from nconnect.cli.change import change_file
    from nconnect.config.edit import add_offers
    from nconnect.io.files import config_file

    path = chosen(ctx, config)
    offers = _read(subnet, service, expose)
    config_file.load(path)  # its own mistakes, with their lines
    outcome = change_file(path, lambda text: add_offers(text, offers), dry_run=dry_run)
    print(f"{_listed(offers)} added: {outcome.value}")


@app.command("remove")
def remove(
    ctx: typer.Context,
    subnet: SubnetOption = None,
    service: ServiceOption = None,
    expose: ExposeOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    config: ConfigOption = None,
) -> None:
    """Stop offering something. This takes effect at once."""
    from nconnect.cli.change import change_file
    from nconnect.config.edit import remove_offers
    from nconnect.io.files import config_file

    path = chosen(ctx, config)
    offers = _read(subnet, service, expose)
    config_file.load(path)
    if not dry_run:
        remove_offers(config_file.read(path), offers)  # report what is not there before asking
        confirm(f"stop offering {_listed(offers)}, and end the connections to it now?", yes)
    outcome = change_file(path, lambda text: remove_offers(text, offers), dry_run=dry_run)
    print(f"{_listed(offers)} removed: {outcome.value}")


def _read(subnet: Values, service: Values, expose: Values) -> Offers:
    """The options' values by their names in the file; raises `ConfigError` with a line for each mistake."""
    from nconnect.config import values

    checks = Checks()
    offers = {
        "subnets": checks.many("--subnet", subnet, values.parse_subnet),
        "services": checks.many("--service", service, values.parse_service),
        "expose": checks.many("--expose", expose, values.parse_expose),
    }
    checks.finish()
    if not any(offers.values()):
        raise UsageError("nothing is named: give --subnet, --service or --expose")
    return offers


def _listed(offers: Offers) -> str:
    return ", ".join(entry for entries in offers.values() for entry in entries)
