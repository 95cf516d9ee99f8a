"""`nconnect peer export` and `peer import`: the table of peers as a file, to move it to another provider."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from nconnect.cli.options import ConfigOption, DryRunOption, chosen
from nconnect.errors import ConfigError, HostError

_MAX_BYTES = 16 << 20


def export(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A new file, 0600.", show_default=False)
    ] = None,
    secrets: Annotated[
        bool, typer.Option("--secrets", help="Include the preshared keys: the file is then secret.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Print the table of peers, for `peer import` on another machine."""
    from nconnect.io.errors import as_host_error
    from nconnect.io.files import peer_table
    from nconnect.io.files.trusted import create_file

    peers = peer_table.load(chosen(ctx, config)).config.peers
    text = peers_text(peers, secrets=secrets)
    if file is None:
        print(text, end="")
        return
    try:
        with as_host_error(f"cannot write {file}", passes=FileExistsError):
            fd = create_file(file)
    except FileExistsError:
        raise HostError(f"{file} exists already: name a new file") from None
    with open(fd, "w") as target:
        target.write(text)
    kept = sum(peer.preshared_key is not None for peer in peers)
    left = f"; {kept} preshared keys were left out (--secrets)" if kept and not secrets else ""
    print(f"wrote {len(peers)} peer{'' if len(peers) == 1 else 's'} to {file}{left}")


def import_peers(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `peer export` wrote; - reads stdin.")],
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite peers of the same name.")] = False,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
) -> None:
    """Add the peers of an exported table, all or none. This takes effect at once."""
    from nconnect.cli.change import change_file

    wanted = _read(file)
    names = {"added": 0, "replaced": 0, "unchanged": 0}

    path = chosen(ctx, config)
    invited = {str(peer["name"]): peer for peer in _invited(path)}

    def change(text: str) -> str:
        return merged(text, wanted, replace=replace, count=names, invited=invited)

    outcome = change_file(path, change, dry_run=dry_run)
    said = ", ".join(f"{count} {what}" for what, count in names.items() if count) or "no peers in it"
    print(f"{said}: {outcome.value}")


def peers_text(peers: Any, *, secrets: bool) -> str:
    """The `[[peer]]` sections of a configuration, in its own form."""
    from nconnect.config.accept_routes import told
    from nconnect.config.bounds import as_written
    from nconnect.config.edit import add_peer
    from nconnect.config.values import format_allow_rule

    text = "# nconnect: a table of peers, for `nconnect peer import`.\n"
    for peer in peers:
        text = add_peer(
            text,
            name=peer.name,
            address=str(peer.address),
            allowed_ips=[str(prefix) for prefix in peer.allowed_ips],
            allow=None if peer.allow is None else [format_allow_rule(rule) for rule in peer.allow],
            preshared_key=peer.preshared_key.hex() if secrets and peer.preshared_key else None,
            expires_at=peer.expires_at,
            max_flows=peer.max_flows,
            direct=peer.direct,
            **as_written(peer),
            local_address=[str(address) for address in peer.local_address] or None,
            accept_routes=None if peer.accept_routes is None else told(peer.accept_routes),
            nconnect=peer.nconnect or None,
        )
    return text


def _invited(path: Path) -> list[dict[str, Any]]:
    """The sections of the peers that came by invitation."""
    from nconnect.invite.table import content_of
    from nconnect.io.files import peer_table
    from nconnect.io.files.invitations import InvitationStore

    table = peer_table.load(path)
    if not table.invited:
        return []
    book = InvitationStore.of(table.config.interface).read()
    return [content_of(each) for each in book if each.token_id in table.invited.values()]


def merged(
    text: str,
    wanted: list[dict[str, Any]],
    *,
    replace: bool,
    count: dict[str, int],
    invited: Mapping[str, Mapping[str, Any]] = {},
) -> str:
    """The text with these peers added, except those that came by invitation and are equal.

    Raises `ConfigError` if one exists already and differs.
    """
    import tomllib

    from nconnect.config.edit import PeerChange, add_peer, set_peer

    try:
        there = {str(peer.get("name")): peer for peer in tomllib.loads(text).get("peer", [])}
    except (ValueError, AttributeError, TypeError):
        there = {}  # the check of the result reports the mistake
    for peer in wanted:
        fields = _fields(peer)
        known = there.get(fields["name"]) or invited.get(fields["name"])
        if known is None:
            text = add_peer(text, **fields)
            count["added"] += 1
        elif all(known.get(key) == value for key, value in peer.items()):
            count["unchanged"] += 1
        elif not replace:
            raise ConfigError(f"there is another peer {fields['name']!r} already: --replace overwrites it")
        elif fields["name"] not in there:
            raise ConfigError(
                f"the peer {fields['name']!r} came by invitation: change it with"
                f" `nconnect peer set {fields['name']}`"
            )
        else:
            text = set_peer(text, fields["name"], PeerChange(**fields))
            count["replaced"] += 1
    return text


def _fields(peer: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `add_peer`. Raises `ConfigError` when it is not a peer's section."""
    from nconnect.config.values import parse_expires_value

    optional = ("preshared_key", "direct", "rate", "quota", "paused")
    known = (
        *("name", "address", "allowed_ips", "allow", "expires", "max_flows", *optional),
        *("local_address", "accept_routes", "nconnect"),
    )
    unknown = [key for key in peer if key not in known]
    lists = [peer.get("allowed_ips"), peer.get("allow", []), peer.get("local_address", [])]
    texts = [peer.get("name"), peer.get("address"), *(peer.get(key, "") for key in optional)]
    accept_routes = peer.get("accept_routes", "")
    (lists if isinstance(accept_routes, list) else texts).append(accept_routes)
    max_flows = peer.get("max_flows")
    good = all(isinstance(v, list) and all(isinstance(t, str) for t in v) for v in lists)
    good = good and (max_flows is None or type(max_flows) is int)
    good = good and type(peer.get("nconnect", False)) is bool
    if unknown or not good or not all(isinstance(text, str) for text in texts):
        what = f"{unknown[0]} is unknown" if unknown else "a value is missing or wrong"
        raise ConfigError(f"peer {peer.get('name', '?')!r} of the file: {what}; write it with `peer export`")
    expires = peer.get("expires")
    return {
        "name": peer["name"],
        "address": peer["address"],
        "allowed_ips": tuple(peer["allowed_ips"]),
        "allow": tuple(peer["allow"]) if "allow" in peer else None,
        "expires_at": None if expires is None else parse_expires_value(expires),
        "max_flows": max_flows,
        **{key: peer.get(key) for key in optional},
        "local_address": tuple(peer["local_address"]) if "local_address" in peer else None,
        "accept_routes": tuple(accept_routes) if isinstance(accept_routes, list) else accept_routes or None,
        "nconnect": peer.get("nconnect") or None,
    }


def _read(file: Path) -> list[dict[str, Any]]:
    import sys
    import tomllib

    from nconnect.io.errors import reason
    from nconnect.io.files.trusted import read_file

    try:
        data = sys.stdin.buffer.read(_MAX_BYTES) if str(file) == "-" else read_file(file, _MAX_BYTES)
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist: write it with `nconnect peer export`") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {reason(error)}") from None
    try:
        content = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not a table of peers: {str(error).splitlines()[0]}") from None
    peers = content.get("peer", [])
    if set(content) - {"peer"} or not isinstance(peers, list) or not all(isinstance(p, dict) for p in peers):
        raise ConfigError(f"{file}: has more than [[peer]] sections: write it with `nconnect peer export`")
    return peers
