"""`nconnect invite …`: tokens, each of which admits one device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nconnect.cli.groups import ExplainedGroup
from nconnect.cli.options import Checks, ConfigOption, JsonOption, Values, chosen, group
from nconnect.cli.peer import AllowOption, QuotaOption, RateOption, read_allow, read_bounds
from nconnect.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nconnect.invite.book import Invitation
    from nconnect.model import Config, NodeConfig


_CREATE = "new"


class _NameFirst(ExplainedGroup):
    """A group whose command may be left out: `invite NAME` is `invite new NAME`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        at = 0
        while at < len(args) and args[at].startswith(("-c", "--config")):
            at += 2 if args[at] in ("-c", "--config") else 1  # -cPATH, --config=PATH
        if at < len(args) and args[at] not in self.commands and args[at] not in ("--help", "-h"):
            args = [*args[:at], _CREATE, *args[at:]]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


app = group(
    "Invite devices: `invite A B C` prints a token for each.\n\nIts options: `nconnect invite new --help`.",
    cls=_NameFirst,
)


@app.command(_CREATE)
def create(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="The peers' names: one token each.")],
    allow: AllowOption = None,
    expires: Annotated[
        str, typer.Option("--expires", metavar="WHEN", help="When the token expires: 24h, 7d, 2026-12-31.")
    ] = "24h",
    access: Annotated[
        str | None,
        typer.Option("--access", metavar="WHEN", help="When the access that it gives ends: 30d, 2026-12-31."),
    ] = None,
    rate: RateOption = None,
    quota: QuotaOption = None,
    address: Annotated[
        Values,
        typer.Option("--address", metavar="IP,…", help="Its address in the tunnel. [default: the next free]"),
    ] = None,
    seed_rpc: Annotated[
        Values,
        typer.Option("--seed-rpc", metavar="URL", help="A node's RPC, as the device can reach it."),
    ] = None,
    qr: Annotated[bool, typer.Option("--qr/--no-qr", help="Also draw QR codes.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Invite each NAME (the word `new` may be left out)."""
    import os
    import time

    from nconnect.cli.output import print_json
    from nconnect.cli.setup import own_nkn_address
    from nconnect.config import values
    from nconnect.invite import pool
    from nconnect.invite.book import Invitation
    from nconnect.invite.token import SECRET_BYTES, Token
    from nconnect.io.files import peer_table
    from nconnect.io.files.invitations import InvitationStore
    from nconnect.wire.invite import TOKEN_ID_BYTES

    checked = peer_table.load(chosen(ctx, config)).config
    now = time.time()
    checks = Checks()
    for name in names:
        checks.one("NAME", name, values.check_peer_name)
        if any(peer.name == name for peer in checked.peers):
            checks.problem(f"NAME: there is already a peer {name!r}: choose another name, or remove that one")
    rules = read_allow(checks, allow)
    ends_at = checks.one("--expires", expires, lambda text: _end(text, now))
    access_ends_at = checks.one("--access", access, lambda text: values.parse_expires(text, now=now))
    bounds = read_bounds(checks, rate, quota)
    addresses = checks.many("--address", address, pool.parse_wanted)
    if addresses and len(names) > 1:
        checks.problem("--address is for one device: invite each NAME by itself")
    given_seeds = checks.many("--seed-rpc", seed_rpc, values.parse_seed_rpc)
    seeds = _seeds(checks, checked, given_seeds)
    checks.finish()
    assert ends_at is not None
    if access_ends_at is not None:
        ends_at = min(ends_at, access_ends_at)
    provider = own_nkn_address(checked.seed, checked.identifier)
    made: list[tuple[str, str]] = []  # name, token
    with InvitationStore.of(checked.interface).issuing() as book:
        book.close_expired(now)
        pool.pick(checked, addresses, [each for open_one in book.open(now) for each in open_one.addresses])
        for name in names:
            token = Token(provider, os.urandom(TOKEN_ID_BYTES), os.urandom(SECRET_BYTES), seeds)
            invitation = Invitation.of(
                token,
                name=name,
                now=now,
                expires_at=ends_at,
                allow=rules,
                addresses=tuple(str(pool.parse_wanted(each)) for each in addresses),
                changes=_settings(access_ends_at, bounds),
            )
            book.add(invitation, now)
            made.append((name, token.encode()))
    if as_json:
        invitations = [
            {"token": token, "name": name, "expires": ends_at, "access": access_ends_at, **bounds}
            for name, token in made
        ]
        print_json(invitations[0] if len(names) == 1 else {"invitations": invitations})
        return
    _print_invitations(checked, made, ends_at, access_ends_at, qr=qr)


def _settings(access_ends_at: float | None, bounds: Mapping[str, str | None]) -> dict[str, str]:
    """The settings of the peer that an invitation makes, as the file has them."""
    from datetime import UTC, datetime

    found = {key: text for key, text in bounds.items() if text is not None}
    if access_ends_at is not None:
        found["expires"] = datetime.fromtimestamp(int(access_ends_at), UTC).isoformat()
    return found


def _print_invitations(
    config: Config,
    made: Sequence[tuple[str, str]],
    ends_at: float,
    access_ends_at: float | None,
    *,
    qr: bool,
) -> None:
    """Print what to send to each device. The line to paste comes last, where a terminal shows it."""
    from nconnect.cli.output import time_text
    from nconnect.control.client import ControlClient

    if not config.provide.offers_something:
        print("note: this device offers nothing yet: `nconnect provide add` offers servers and subnets")
    if not ControlClient(config.interface).is_running():
        print(f"{config.interface} is not up, so nobody answers `join`: start it with `sudo nconnect up -d`")
    what = (
        f"this token admits one device as {made[0][0]}" if len(made) == 1 else "each token admits one device"
    )
    print(f"{what}, until {time_text(ends_at)}; keep it secret.")
    if access_ends_at is not None:
        print(f"Access ends at {time_text(access_ends_at)}.")
    for name, token in made:
        print(f"\nOn {name}'s device:\n")
        if qr:
            _print_qr(token)
        print(f"sudo nconnect join {token}")


@app.command("list")
def list_invitations(ctx: typer.Context, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List all invitations, also those that are over."""
    import time

    from nconnect.cli import output
    from nconnect.io.files.invitations import InvitationStore

    interface = _interface(ctx, config)
    invitations = list(InvitationStore.of(interface).read())
    now = time.time()
    if as_json:
        output.print_json({"invitations": [_to_json(each, now) for each in invitations]})
    elif not invitations:
        print("there are no invitations: make one with `nconnect invite NAME`")
    else:
        rows = [
            (
                each.name,
                each.state(now).value,
                output.time_text(each.expires_at),
                output.short_keys(each.device) or "-",
            )
            for each in invitations
        ]
        header, *lines = output.table(("NAME", "STATE", "EXPIRES", "USED BY"), rows)
        print(header)
        for line, each in zip(lines, invitations, strict=True):
            print(line)
            print("\n".join(output.indented(_details(each))))


@app.command("revoke")
def revoke(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, or its id.")],
    config: ConfigOption = None,
) -> None:
    """End an invitation that nobody has used. This takes effect at once."""
    import time

    from nconnect.io.files.invitations import InvitationStore

    with InvitationStore.of(_interface(ctx, config)).issuing() as book:
        gone = book.revoke(name, time.time())
    print(f"the invitation of {gone.name} is revoked")


def _interface(ctx: typer.Context, config: Any) -> str:
    from nconnect.io.files import config_file

    return config_file.load(chosen(ctx, config)).interface


def _details(each: Invitation) -> str:
    reach = "all" if each.allow is None else ", ".join(each.allow) or "nothing"
    address = f"address {', '.join(each.addresses)}" if each.addresses else "next free address"
    access = each.changes.get("expires")
    until = f"; access until {access[:16].replace('T', ' ')} UTC" if access else ""
    bounds = "".join(f"; {key} {each.changes[key]}" for key in ("rate", "quota") if each.changes.get(key))
    return f"id {each.token_id.hex()}; {address}; may reach {reach}{until}{bounds}"


def _to_json(each: Invitation, now: float) -> dict[str, Any]:
    return {
        "id": each.token_id.hex(),
        "name": each.name,
        "state": each.state(now).value,
        "made_at": each.made_at,
        "expires": each.expires_at,
        "allow": None if each.allow is None else list(each.allow),
        "address": list(each.addresses),
        "used_by": each.device or None,
        "used_at": each.used_at,
    }


def _end(text: str, now: float) -> float:
    from nconnect.config.values import parse_expires

    at = parse_expires(text, now=now)
    if at is None:
        raise ConfigError("an invitation must expire: write 24h, 7d or a date")
    return at


def _seeds(checks: Checks, config: Config, given: Sequence[str]) -> tuple[str, ...]:
    """The RPCs by which the device finds the network; () for the public network."""
    from urllib.parse import urlsplit

    from nconnect.model import PUBLIC_SEED_RPC

    seeds = tuple(given) or config.network.seed_rpc
    if config.node is not None and not given and seeds == PUBLIC_SEED_RPC:
        host = config.node.advertise
        if host is None:
            checks.problem(
                "this tunnel uses its own node: say how the device reaches it, with --seed-rpc"
                f" {_own_seed(config.interface, config.node, 'HOST')}"
            )
            return ()
        return (_own_seed(config.interface, config.node, host),)
    if seeds == PUBLIC_SEED_RPC:
        return ()
    if all(_is_here_only(urlsplit(seed).hostname or "") for seed in seeds):
        checks.problem(
            f"the node is known here as {', '.join(seeds)}, which is useless on another device:"
            " say with --seed-rpc how that device reaches the node"
        )
    return seeds


def _own_seed(interface: str, node: NodeConfig, host: str) -> str:
    """The URL of this interface's own node at `host`; with TLS, the certificate is pinned."""
    from nconnect.io.files import paths
    from nconnect.io.files.trusted import status_of
    from nconnect.io.net import certificate
    from nconnect.model import join_addr

    port = node.port if node.port is not None else node.https_port if node.has_tls else node.rpc_port
    assert port is not None, "[node] has one port for everything, or the usual ports"
    if not node.has_tls:
        return f"http://{join_addr(host, port)}"
    own = paths.state_dir(interface) / paths.NODE_CERTIFICATE
    if node.tls_cert is None and status_of(own) is None:
        raise ConfigError("the node has no certificate yet: start it once with `nconnect up`")
    return f"https://{join_addr(host, port)}#sha256={certificate.fingerprint(node.tls_cert or own)}"


def _is_here_only(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _print_qr(text: str) -> None:
    """Print in half blocks if the output can show them; capitals make the code smaller."""
    import sys

    import segno

    try:
        "▀▄█".encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return
    segno.make(text.upper(), error="l", micro=False).terminal(out=sys.stdout, compact=True, border=2)
    print()
