"""`nconnect peer pending` and `peer approve`: unknown addresses that tried to connect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nconnect.cli.options import Checks, ConfigOption, DryRunOption, JsonOption, chosen
from nconnect.cli.peer import (
    AllowedIpsOption,
    AllowOption,
    ExpiresOption,
    NameArgument,
    read_allow,
    read_expires,
    read_prefixes,
)
from nconnect.errors import ConfigError


def pending(ctx: typer.Context, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List unknown addresses that tried to connect."""
    import time

    from nconnect.cli import output
    from nconnect.control.client import ControlClient
    from nconnect.control.schema import to_json
    from nconnect.io.files import config_file

    checked = config_file.load(chosen(ctx, config))
    waiting = ControlClient(checked.interface).pending()
    if as_json:
        output.print_json({"pending": to_json(waiting)})
    elif waiting:
        now = time.time()
        rows = [
            (
                peer.address,
                f"{output.duration_text(now - peer.first_at)} ago",
                f"{output.duration_text(now - peer.last_at)} ago",
                str(peer.count),
            )
            for peer in waiting
        ]
        print("\n".join(output.table(("ADDRESS", "FIRST", "LAST", "MESSAGES"), rows, right=(3,))))
        print("compare the address with the device's `nconnect address`, then:")
        print("  nconnect peer approve ADDRESS NAME --allow …")
    elif checked.accept_pending:
        print("nobody has tried")
    else:
        print("nobody is remembered: to remember them, write accept_pending = true in [interface]")


def approve(
    ctx: typer.Context,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="As `peer pending` prints it.")],
    name: NameArgument,
    allow: AllowOption = None,
    allowed_ips: AllowedIpsOption = None,
    expires: ExpiresOption = None,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
) -> None:
    """Add an address that tried to connect as a peer. This takes effect at once."""
    from nconnect.cli.change import change_file
    from nconnect.config import values
    from nconnect.config.edit import add_peer
    from nconnect.control.client import ControlClient
    from nconnect.io.files import config_file

    path = chosen(ctx, config)
    checks = Checks()
    parsed = checks.one("ADDRESS", address, values.parse_peer_address)
    checks.one("NAME", name, values.check_peer_name)
    given = read_prefixes(checks, allowed_ips)
    rules = read_allow(checks, allow)
    expires_at = read_expires(checks, expires)
    checks.finish()
    checked = config_file.load(path)
    if str(parsed) not in {peer.address for peer in ControlClient(checked.interface).pending()}:
        raise ConfigError(
            f"{parsed} has not tried to connect: see `nconnect peer pending`, or use `nconnect peer add`"
        )
    chosen_ips: list[tuple[str, ...]] = []

    def change(text: str) -> str:
        chosen_ips.append(given or _from_pool(path, text, checked.interface))
        return add_peer(
            text,
            name=name,
            address=str(parsed),
            allowed_ips=chosen_ips[0],
            allow=rules,
            expires_at=expires_at,
        )

    outcome = change_file(path, change, dry_run=dry_run)
    print(f"peer {name} approved as {', '.join(chosen_ips[0])}: {outcome.value}")


def _from_pool(path: Path, text: str, interface: str) -> tuple[str, ...]:
    """The next free addresses of the tunnel's networks, except those reserved by invitations."""
    import time

    from nconnect.config.values import parse_prefix
    from nconnect.invite import pool
    from nconnect.io.files import config_file, peer_table
    from nconnect.io.files.invitations import InvitationStore

    book = InvitationStore.of(interface).current()
    kept = [address for each in book.open(time.time()) for address in each.addresses]
    checked = peer_table.of(config_file.check(path, text)).config
    return tuple(str(parse_prefix(str(a.ip))) for a in pool.pick(checked, (), kept))
