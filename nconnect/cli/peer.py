"""`nconnect peer …`: the table of peers, in the file and in the running daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from nconnect.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from nconnect.control.schema import PeerStatus
    from nconnect.invite.table import PeerTable
    from nconnect.model import AcceptRoutes, PeerConfig


NameArgument = Annotated[str, typer.Argument(metavar="NAME")]
AllowedIpsOption = Annotated[
    Values,
    typer.Option(
        "--allowed-ips", metavar="PREFIX,…", help="Its addresses: sources it may use, destinations it gets."
    ),
]
AllowOption = Annotated[
    Values,
    typer.Option(
        "--allow",
        metavar="RULE,…",
        help="What it may reach here: PREFIX[:PORT[-PORT]][/tcp|/udp|/icmp], all, or none.",
    ),
]
ExpiresOption = Annotated[
    str | None,
    typer.Option("--access", metavar="WHEN", help="When its access ends: 2026-12-31, 30d, never."),
]
MaxFlowsOption = Annotated[
    int | None,
    typer.Option(
        "--max-flows", min=0, metavar="N", help="How many connections it may have open here; 0: the default."
    ),
]
DirectOption = Annotated[
    str | None,
    typer.Option(
        "--direct",
        metavar="MODE",
        help="Direct paths to it: on, no-host (do not tell it this device's own addresses), off, or default.",
    ),
]
AcceptRoutesOption = Annotated[
    str | None,
    typer.Option(
        "--accept-routes",
        metavar="private|none|all|PREFIX,…",
        help="Which prefixes that it offers are routed to it; default: what [interface] says.",
    ),
]
MayUseOfficialOption = Annotated[
    bool | None,
    typer.Option(
        "--nconnect/--no-nconnect",
        help="Whether it may come with the official nConnect; [streams] must let such clients in too.",
    ),
]
RateOption = Annotated[
    str | None,
    typer.Option("--rate", metavar="RATE", help="Bits a second, each way: 50M, 800k, or none."),
]
QuotaOption = Annotated[
    str | None,
    typer.Option("--quota", metavar="QUOTA", help="Bytes, both ways together: 100G/month, 5G/day, or none."),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option("--preshared-key-file", metavar="FILE", help="A file with 32 bytes as hex or base64."),
]

app = group("The peers: who may connect, and what they may reach.")


@app.command("add")
def add(
    ctx: typer.Context,
    name: NameArgument,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="What its `nconnect address` prints.")],
    allowed_ips: AllowedIpsOption = None,
    allow: AllowOption = None,
    preshared_key_file: KeyFileOption = None,
    expires: ExpiresOption = None,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
) -> None:
    """Add a peer. This takes effect at once."""
    from nconnect.cli.change import change_file
    from nconnect.config import values
    from nconnect.config.edit import add_peer

    path = chosen(ctx, config)
    checks = Checks()
    checks.one("NAME", name, values.check_peer_name)
    checks.one("ADDRESS", address, values.parse_peer_address)
    prefixes = read_prefixes(checks, allowed_ips)
    if not prefixes:
        checks.problem(
            "--allowed-ips is missing: give the peer's addresses, such as 10.86.0.2/32,"
            " and for a provider also its subnets"
        )
    rules = read_allow(checks, allow)
    expires_at = read_expires(checks, expires)
    key = None if preshared_key_file is None else _read_key(checks, preshared_key_file)
    checks.finish()
    outcome = change_file(
        path,
        lambda text: add_peer(
            text,
            name=name,
            address=address.strip(),
            allowed_ips=prefixes,
            allow=rules,
            preshared_key=key,
            expires_at=expires_at,
        ),
        dry_run=dry_run,
    )
    print(f"peer {name} added: {outcome.value}")


@app.command("list")
def list_peers(ctx: typer.Context, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the peers."""
    import sys

    from nconnect.cli import output
    from nconnect.io.files import peer_table

    table = peer_table.load(chosen(ctx, config))
    checked = table.config
    seen = _statuses(checked.interface)
    for problem in table.problems:
        print(f"nconnect: {problem}", file=sys.stderr)
    if as_json:
        output.print_json({"peers": [_peer_json(peer, seen.get(peer.name), table) for peer in checked.peers]})
    elif not checked.peers:
        print("there are no peers: add one with `nconnect peer add NAME ADDRESS --allowed-ips …`")
    else:
        print("\n".join(_listed(checked.peers, seen, output.columns())))


def _listed(peers: Sequence[PeerConfig], seen: Mapping[str, PeerStatus], width: int | None) -> list[str]:
    """The table of peers. Where it is wider than the terminal, what each has and may reach is below it."""
    from nconnect.cli import output

    header = ("PEER", "STATE", "LAST HERE", "ALLOWED IPS", "MAY REACH", "EXPIRES", "ADDRESS")
    rows = [
        (
            peer.name,
            *_state_texts(seen.get(peer.name)),
            ", ".join(map(str, peer.allowed_ips)),
            _allow_text(peer),
            output.time_text(peer.expires_at),
            str(peer.address),
        )
        for peer in peers
    ]
    lines = output.table(header, rows)
    if output.fits(lines, width):
        return lines
    short = [(*row[:3], row[5], output.short_keys(row[6])) for row in rows]
    lines = output.table((*header[:3], *header[5:]), short)
    for name, _, _, has, may, *_ in rows:
        lines += output.indented(f"{name} has {has}; it may reach {may}", width or 80)
    return lines


@app.command("show")
def show(
    ctx: typer.Context, name: NameArgument, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Show one peer."""
    from nconnect.cli import output
    from nconnect.config.bounds import as_written
    from nconnect.io.files import peer_table

    table = peer_table.load(chosen(ctx, config))
    checked = table.config
    peer = _find(checked.peers, name)
    seen = _statuses(checked.interface).get(name)
    if as_json:
        output.print_json(_peer_json(peer, seen, table))
        return
    written = as_written(peer)
    facts = {
        "name": peer.name,
        "address": str(peer.address),
        "state": "not running" if seen is None else seen.state,
        "last here": _state_texts(seen)[1],
        "allowed ips": ", ".join(map(str, peer.allowed_ips)),
        "may reach": _allow_text(peer),
        "preshared key": "yes" if peer.preshared_key else "no",
        "expires": output.time_text(peer.expires_at),
        "max flows": "default" if peer.max_flows is None else str(peer.max_flows),
        "direct": peer.direct or "default",
        "accept routes": _accept_text(peer),
        "rate": written["rate"] or "no limit",
        "quota": written["quota"] or "none",
        "nconnect": "may use the official client" if peer.nconnect else "no",
        "paused": "no" if peer.paused is None else peer.paused or "yes",
        "kept in": "the state: it came by invitation" if name in table.invited else "the file",
    }
    print("\n".join(f"{key:<14} {value}" for key, value in facts.items()))


@app.command("set")
def set_values(
    ctx: typer.Context,
    name: NameArgument,
    new_name: Annotated[str | None, typer.Option("--name", help="Its new name.")] = None,
    address: Annotated[str | None, typer.Option("--address", help="Its new NKN address.")] = None,
    allowed_ips: AllowedIpsOption = None,
    allow: AllowOption = None,
    add_allow: Annotated[
        Values, typer.Option("--add-allow", metavar="RULE,…", help="Add what it may reach.")
    ] = None,
    remove_allow: Annotated[
        Values,
        typer.Option("--remove-allow", metavar="RULE,…", help="Remove from what it may reach."),
    ] = None,
    preshared_key_file: KeyFileOption = None,
    no_preshared_key: Annotated[bool, typer.Option("--no-preshared-key", help="Use none.")] = False,
    expires: ExpiresOption = None,
    max_flows: MaxFlowsOption = None,
    direct: DirectOption = None,
    accept_routes: AcceptRoutesOption = None,
    rate: RateOption = None,
    quota: QuotaOption = None,
    nconnect: MayUseOfficialOption = None,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
) -> None:
    """Change a peer. This takes effect at once; other settings stay."""
    from nconnect.cli.change import change_peer
    from nconnect.config import values
    from nconnect.config.accept_routes import parse_accept_routes
    from nconnect.config.edit import KEEP, PeerChange, set_peer

    given = (
        *(new_name, address, allowed_ips, allow, add_allow, remove_allow, preshared_key_file, expires),
        *(max_flows, direct, accept_routes, rate, quota, nconnect),
    )
    if all(value is None for value in given) and not no_preshared_key:
        raise UsageError("nothing to change: give an option, see `nconnect peer set --help`")
    if allow is not None and (add_allow is not None or remove_allow is not None):
        raise UsageError("--allow sets the whole list: give it without --add-allow and --remove-allow")
    if preshared_key_file is not None and no_preshared_key:
        raise UsageError("--preshared-key-file and --no-preshared-key contradict each other: give one")
    path = chosen(ctx, config)
    checks = Checks()
    checks.one("--name", new_name, values.check_peer_name)
    checks.one("--address", address, values.parse_peer_address)
    prefixes = read_prefixes(checks, allowed_ips)
    if allowed_ips is not None and not prefixes:
        checks.problem("--allowed-ips is empty: give a prefix, or remove the peer")
    rules = read_allow(checks, allow)
    added = checks.many("--add-allow", add_allow, values.parse_allow_rule)
    removed = checks.many("--remove-allow", remove_allow, values.parse_allow_rule)
    expires_at = read_expires(checks, expires)
    key = None if preshared_key_file is None else _read_key(checks, preshared_key_file)
    mode = None if direct == "default" else checks.one("--direct", direct, values.parse_direct)
    accepted = None
    if accept_routes not in (None, "default"):
        accepted = checks.one("--accept-routes", accept_routes, parse_accept_routes)
    most = read_bounds(checks, rate, quota)
    checks.finish()

    def change(text: str) -> str:
        merged: Any = KEEP if allow is None else rules
        if added or removed:
            merged = _merge_allow(_allow_of(text, name), added, removed)
        return set_peer(
            text,
            name,
            PeerChange(
                name=KEEP if new_name is None else new_name,
                address=KEEP if address is None else address.strip(),
                allowed_ips=KEEP if allowed_ips is None else prefixes,
                allow=merged,
                preshared_key=key if key is not None or no_preshared_key else KEEP,
                expires_at=KEEP if expires is None else expires_at,
                max_flows=KEEP if max_flows is None else max_flows or None,
                direct=KEEP if direct is None else mode,
                accept_routes=KEEP if accept_routes is None else _written(accepted),
                rate=KEEP if rate is None else most["rate"],
                quota=KEEP if quota is None else most["quota"],
                nconnect=KEEP if nconnect is None else nconnect or None,
            ),
        )

    outcome = change_peer(path, name, change, dry_run=dry_run)
    print(f"peer {new_name or name} set: {outcome.value}")


@app.command("pause")
def pause(
    ctx: typer.Context,
    name: NameArgument,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="What it is told.")] = "",
    config: ConfigOption = None,
) -> None:
    """Refuse a peer's connections, new and open ones. `peer resume` lets it in again."""
    from nconnect.config.bounds import check_why

    path = chosen(ctx, config)
    checks = Checks()
    checks.one("--why", why, check_why)
    checks.finish()
    print(f"peer {name} is paused: {_set_paused(path, name, why)}")


@app.command("resume")
def resume(ctx: typer.Context, name: NameArgument, config: ConfigOption = None) -> None:
    """Let a peer in again that was paused. A used up quota is raised by `peer set --quota`."""
    from nconnect.io.files import peer_table

    path = chosen(ctx, config)
    outcome = _set_paused(path, name, None)
    seen = _statuses(peer_table.load(path).config.interface).get(name)
    if seen is not None and seen.paused is not None and seen.paused.by == "quota":
        raise ConfigError(
            f"{name} stays paused: {seen.paused.why}; 'nconnect peer set {name} --quota …' raises it"
        )
    print(f"peer {name} may connect: {outcome}")


def _set_paused(path: Path, name: str, why: str | None) -> str:
    from nconnect.cli.change import change_peer
    from nconnect.config.edit import PeerChange, set_peer

    return change_peer(
        path, name, lambda text: set_peer(text, name, PeerChange(paused=why)), dry_run=False
    ).value


@app.command("remove")
def remove(
    ctx: typer.Context,
    name: NameArgument,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    config: ConfigOption = None,
) -> None:
    """Remove a peer. This takes effect at once."""
    from nconnect.cli.change import change_peer, is_left_out
    from nconnect.io.files import peer_table

    path = chosen(ctx, config)
    table = peer_table.load(path)
    if not is_left_out(table, name):
        _find(table.config.peers, name)
    if not dry_run:
        confirm(f"remove {name}, and end its connections now?", yes)
    outcome = change_peer(path, name, None, dry_run=dry_run)
    print(f"peer {name} removed: {outcome.value}")


def read_prefixes(checks: Checks, texts: Values) -> tuple[str, ...]:
    from nconnect.config.values import parse_prefixes

    return checks.many("--allowed-ips", texts, lambda text: parse_prefixes([text]))


def read_allow(checks: Checks, texts: Values) -> tuple[str, ...] | None:
    """The rules of `--allow`; None for `all` (also when absent), () for `none`."""
    from nconnect.config.values import parse_allow_rule, split_commas

    words = split_commas(texts or ())
    if texts is None or words == ("all",):
        return None
    if words == ("none",):
        return ()
    if not words or "all" in words or "none" in words:
        checks.problem("--allow: give rules, or the word all, or the word none")
        return None
    return checks.many("--allow", texts, parse_allow_rule)


def read_expires(checks: Checks, text: str | None) -> float | None:
    import time

    from nconnect.config.values import parse_expires

    return checks.one("--access", text, lambda t: parse_expires(t, now=time.time()))


def read_bounds(checks: Checks, rate: str | None, quota: str | None) -> dict[str, str | None]:
    """`--rate` and `--quota` as the file has them; None for `none`, and for what is not given."""
    from nconnect.config.bounds import parse_quota, parse_rate

    given = {"rate": None if rate == "none" else rate, "quota": None if quota == "none" else quota}
    checks.one("--rate", given["rate"], parse_rate)
    checks.one("--quota", given["quota"], parse_quota)
    return {name: None if text is None else text.strip() for name, text in given.items()}


def _read_key(checks: Checks, path: Path) -> str | None:
    """A preshared key as hex. The file must be as secret as the configuration."""
    from nconnect.config.values import parse_key
    from nconnect.io.files import config_file
    from nconnect.io.files.config_file import exists

    def check(name: str) -> str:
        if not exists(path):
            raise ConfigError(
                f"{path} does not exist: `(umask 077; openssl rand -hex 32 > FILE)` makes one, for both sides"
            )
        text = config_file.read(path)
        try:
            return parse_key(text).hex()
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None

    return checks.one("--preshared-key-file", str(path), check)


def _allow_of(text: str, name: str) -> tuple[str, ...] | None:
    """The `allow` of a peer in the file; raises `ConfigError` if there is no such peer."""
    import tomllib

    from nconnect.config.edit import unknown_peer

    try:
        peers = tomllib.loads(text).get("peer", [])
        found = {str(peer.get("name")): peer.get("allow") for peer in peers}
    except (ValueError, AttributeError, TypeError):
        return None  # the file itself is wrong; the check of the result reports it
    if name not in found:
        raise unknown_peer(name, found)
    allow = found[name]
    return None if allow is None else tuple(map(str, allow))


def _merge_allow(
    current: tuple[str, ...] | None, added: tuple[str, ...], removed: tuple[str, ...]
) -> tuple[str, ...]:
    from nconnect.config.values import parse_allow_rule

    if current is None:
        raise ConfigError(
            "the peer may reach everything that is provided: say with --allow what it may reach instead"
        )
    gone = {parse_allow_rule(text): text for text in removed}
    have = [parse_allow_rule(text) for text in current]
    for rule, text in gone.items():
        if rule not in have:
            raise ConfigError(
                f"--remove-allow: {text} is not in the list, which is {', '.join(current) or 'empty'}"
            )
    kept = [text for text, rule in zip(current, have, strict=True) if rule not in gone]
    kept += [text for text in added if parse_allow_rule(text) not in have]
    return tuple(kept)


def _written(accepted: AcceptRoutes | None) -> str | tuple[str, ...] | None:
    return tuple(map(str, accepted)) if isinstance(accepted, tuple) else accepted


def _find(peers: tuple[PeerConfig, ...], name: str) -> PeerConfig:
    from nconnect.config.edit import unknown_peer

    for peer in peers:
        if peer.name == name:
            return peer
    raise unknown_peer(name, (peer.name for peer in peers))


def _statuses(interface: str) -> dict[str, PeerStatus]:
    """The peers by name, if a daemon runs and we may ask it."""
    from nconnect.control.client import ControlClient
    from nconnect.errors import ControlError

    try:
        return {peer.name: peer for peer in ControlClient(interface).status().peers}
    except ControlError:
        return {}


def _state_texts(peer: PeerStatus | None) -> tuple[str, str]:
    """The state, and when it was last here."""
    import time

    from nconnect.cli.output import duration_text

    if peer is None:
        return "-", "-"
    state = "paused" if peer.paused is not None and peer.paused.by != "peer" else peer.state
    if peer.state == "up":
        return state, "now"
    seen_at = peer.last_seen_at
    return state, "never" if seen_at is None else f"{duration_text(time.time() - seen_at)} ago"


def _allow_text(peer: PeerConfig) -> str:
    from nconnect.config.values import format_allow_rule

    return "all" if peer.allow is None else ", ".join(map(format_allow_rule, peer.allow)) or "nothing"


def _accept_text(peer: PeerConfig) -> str:
    setting = peer.accept_routes
    return (
        "default"
        if setting is None
        else setting
        if isinstance(setting, str)
        else ", ".join(map(str, setting))
    )


def _peer_json(peer: PeerConfig, seen: PeerStatus | None, table: PeerTable) -> dict[str, Any]:
    from nconnect.config.bounds import as_written
    from nconnect.config.values import format_allow_rule

    return {
        "name": peer.name,
        "address": str(peer.address),
        "allowed_ips": [str(prefix) for prefix in peer.allowed_ips],
        "allow": None if peer.allow is None else [format_allow_rule(rule) for rule in peer.allow],
        "preshared_key": peer.preshared_key is not None,
        "expires": peer.expires_at,
        "max_flows": peer.max_flows,
        "direct": peer.direct,
        **as_written(peer),
        "local_address": [str(address) for address in peer.local_address],
        "accept_routes": _written(peer.accept_routes),
        "nconnect": peer.nconnect,
        "state": None if seen is None else seen.state,
        "last_seen_at": None if seen is None else seen.last_seen_at,
        "invited": peer.name in table.invited,
    }
