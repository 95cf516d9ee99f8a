"""`nconnect config check`, `config show`, and `reload`: the file, and the daemon that reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nconnect.cli.options import ConfigOption, JsonOption, chosen, group

if TYPE_CHECKING:
    from nconnect.model import Config, Proxy

app = group("Check or show the configuration file.")

HIDDEN = "(hidden)"


@app.command("check")
def check(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Another file.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> int:
    """Check the file and report every mistake with its line. Changes nothing."""
    from nconnect.cli.output import print_json
    from nconnect.errors import ConfigError
    from nconnect.io.files import peer_table

    path = file or chosen(ctx, config)
    try:
        table = peer_table.load(path)
    except ConfigError as error:
        if not as_json:
            raise
        print_json({"file": str(path), "ok": False, "problems": list(error.problems), "left_out": []})
        return error.exit_status
    if as_json:
        print_json({"file": str(path), "ok": True, "problems": [], "left_out": list(table.problems)})
    else:
        checked, count = table.config, len(table.config.peers)
        print(f"{path} is valid: interface {checked.interface}, {count} peer{'' if count == 1 else 's'}")
        for problem in table.problems:
            print(f"note: {problem}")
    return 0


@app.command("show")
def show(ctx: typer.Context, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show the configuration with all defaults.

    Peers that came by invitation are included; secrets are hidden.
    """
    from nconnect.cli.output import print_json
    from nconnect.io.files import peer_table

    path = chosen(ctx, config)
    content = shown(peer_table.load(path).config)
    if as_json:
        print_json(content)
    else:
        print(f"# {path}, with every default; secrets are hidden")
        print(_toml(content))


def reload(ctx: typer.Context, config: ConfigOption = None) -> None:
    """Have the daemon read its file again; sessions stay.

    A file with mistakes changes nothing. Changes that need a new device or identity are refused: use `down`
    and `up`.
    """
    from nconnect.control.client import ControlClient
    from nconnect.io.files import config_file

    checked = config_file.load(chosen(ctx, config))  # reports its mistakes with their lines
    ControlClient(checked.interface).reload()
    print(f"{checked.interface} has read its file again; sessions continue")


def shown(config: Config) -> dict[str, Any]:
    """A configuration as the file's tables, with all defaults, and with secrets hidden."""
    from nconnect.config.accept_routes import told
    from nconnect.config.bounds import as_written
    from nconnect.config.servers import as_section, host_section
    from nconnect.config.values import format_allow_rule
    from nconnect.model import STUN_PORTS, Proxy, join_addr

    content: dict[str, Any] = {
        "interface": {
            "seed": HIDDEN,
            "identifier": config.identifier,
            "address": [str(a) for a in config.address],
            "mtu": config.mtu,
            "cipher": config.cipher,
            "inbound": config.inbound,
            "fail_closed": config.fail_closed,
            "accept_pending": config.accept_pending,
            "accept_routes": told(config.accept_routes),
            "names": config.names,
        },
        "network": {
            "seed_rpc": list(config.network.seed_rpc),
            "links": config.network.links,
            "proxy": _proxy(config.network.proxy),
            "stun": [join_addr(host, port) for host, port in config.network.stun],
            "direct": config.network.direct or ("off" if isinstance(config.network.proxy, Proxy) else "on"),
            "direct_port": config.network.direct_port,
            "port_mapping": config.network.port_mapping,
        },
    }
    if config.node is not None:
        content["node"] = {
            "listen": config.node.listen,
            **config.node.ports(),
            "advertise": config.node.advertise,
            "verify_signatures": config.node.verify_signatures,
            "tls": config.node.has_tls,
            "tls_cert": config.node.tls_cert and str(config.node.tls_cert),
            "tls_key": config.node.tls_key and str(config.node.tls_key),
            "connections_per_address": config.node.connections_per_address,
            "queue_mb": config.node.queue_mb,
            "mail_mb": config.node.mail_mb,
            "stun_ports": list(STUN_PORTS if (ports := config.node.stun_ports) is None else ports),
        }
    provide = config.provide
    subnets = [str(s.real) if s.real == s.seen else f"{s.real}={s.seen}" for s in provide.subnets]
    content["provide"] = {
        "subnets": subnets,
        "services": [f"{_ports(s.ports)}/{s.protocol}" for s in provide.services],
        "expose": [join_addr(e.host, e.port) for e in provide.expose],
        "masquerade": provide.masquerade,
        "mtu": provide.mtu,
        "server": [dict(as_section(server)) for server in provide.servers],
        "host": [dict(host_section(host)) for host in provide.hosts],
    }
    if config.streams.nconnect:
        content["streams"] = {"nconnect": True}
    if config.readers:
        content["control"] = {"readers": list(config.readers)}
    if config.metrics is not None:
        content["metrics"] = {"listen": join_addr(config.metrics.host, config.metrics.port)}
    content["peer"] = [
        {
            "name": peer.name,
            "address": str(peer.address),
            "allowed_ips": [str(p) for p in peer.allowed_ips],
            "allow": None if peer.allow is None else [format_allow_rule(rule) for rule in peer.allow],
            "preshared_key": HIDDEN if peer.preshared_key else None,
            "expires": _time(peer.expires_at),
            "max_flows": peer.max_flows,
            "direct": peer.direct,
            **as_written(peer),
            "local_address": [str(a) for a in peer.local_address],
            "accept_routes": None if peer.accept_routes is None else told(peer.accept_routes),
            "nconnect": peer.nconnect or None,
        }
        for peer in config.peers
    ]
    return content


def _proxy(proxy: Proxy | str | None) -> str | None:
    if proxy is None or isinstance(proxy, str):
        return proxy
    return f"{proxy.scheme}://{f'{HIDDEN}@' if proxy.username else ''}{proxy}"


def _ports(ports: tuple[int, int]) -> str:
    return str(ports[0]) if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"


def _time(at: float | None) -> str | None:
    from datetime import UTC, datetime

    return None if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _toml(content: dict[str, Any]) -> str:
    import json

    lines = []
    for name, table in content.items():
        for part in table if isinstance(table, list) else [table]:
            lines += ["", f"[[{name}]]" if isinstance(table, list) else f"[{name}]"]
            for key, item in part.items():
                if key in ("server", "host"):  # sections of a section
                    lines += ["", _toml({f"{name}.{key}": item})] if item else []
                elif item is not None:
                    # JSON writes texts, numbers, booleans and lists as TOML does.
                    value = item if key == "expires" else json.dumps(item, ensure_ascii=False)
                    lines.append(f"{key} = {value}")
    return "\n".join(lines[1:])
