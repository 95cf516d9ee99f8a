"""`nconnect node`: run your own relay; `nconnect node status`: show its status."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nconnect.cli.options import JsonOption, UnusedConfigOption
from nconnect.model import HTTPS_PORT, MAX_MB, MIN_QUEUE_MB, RPC_PORT, WS_PORT, WSS_PORT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nconnect.control.node import NodeStatus

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None, add_completion=False)


def _port(what: str, default: int) -> Any:
    help = f"The port of the {what}. [default: {default}; none with --port]"
    return typer.Option(min=0, max=65535, help=help)


@app.callback()
def node(
    ctx: typer.Context,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST", help="The address to listen on: 0.0.0.0, ::, …")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="One port for everything, such as 443, instead of the others."),
    ] = None,
    tls: Annotated[
        bool,
        typer.Option("--tls", help="Serve TLS, with its own certificate if none is given."),
    ] = False,
    ws_port: Annotated[int | None, _port("websocket", WS_PORT)] = None,
    rpc_port: Annotated[int | None, _port("RPC", RPC_PORT)] = None,
    advertise: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="The host to tell clients. [default: the one they asked by]"),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A certificate (PEM, with its chain): serve TLS with it."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its key (PEM). [default: in the same file]")
    ] = None,
    wss_port: Annotated[int | None, _port("TLS websocket", WSS_PORT)] = None,
    https_port: Annotated[int | None, _port("TLS RPC", HTTPS_PORT)] = None,
    rate_limit: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Connections, and RPC calls, that one IP address may make in a second; 0: any number."
            " [default: 10, and 100 at once]",
        ),
    ] = None,
    connections_per_address: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Clients, and RPC connections, that may be open from one IPv4 address or IPv6 /64."
            " [default: a sixteenth of all clients, 64 RPC connections]",
        ),
    ] = None,
    queue_mb: Annotated[
        int | None,
        typer.Option(
            metavar="MIB",
            min=MIN_QUEUE_MB,
            max=MAX_MB,
            help="Memory for messages to clients that read slowly; one may use a third. [default: 24]",
        ),
    ] = None,
    mail_mb: Annotated[
        int | None,
        typer.Option(
            metavar="MIB",
            min=0,
            max=MAX_MB,
            help="Memory for messages to clients that are offline; one may use a third; 0: keep none."
            " [default: 12]",
        ),
    ] = None,
    stun_ports: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Two UDP ports that tell clients their own address (STUN); 0: none."
            " [default: 30006,30007; none with --port, --ws-port or --rpc-port]",
        ),
    ] = None,
    verify_signatures: Annotated[
        bool, typer.Option("--verify-signatures", help="Check every message's signature and receipt.")
    ] = False,
    require_signatures: Annotated[
        bool,
        typer.Option(
            "--require-signatures",
            help="Do not tell clients to leave signatures out, but check none, as official nodes do.",
        ),
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="NCONNECT_CLUSTER",
            help="Be one of several nodes that share their clients, over a NATS server: nats://HOST:4222.",
        ),
    ] = None,
    cluster_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A secret that only the cluster's nodes have: openssl rand -hex 32 > FILE.",
        ),
    ] = None,
    seed_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the node's key here. [default: its state folder]"),
    ] = None,
    reorder: Annotated[bool, typer.Option("--reorder", hidden=True)] = False,
    stats_file: Annotated[Path | None, typer.Option(hidden=True)] = None,
    capture_file: Annotated[Path | None, typer.Option(hidden=True)] = None,
    _config: UnusedConfigOption = None,
) -> int:
    """Run an NKN node until Ctrl-C.

    It prints the URL for clients' --seed-rpc, such as http://HOST:30003.
    """
    if ctx.invoked_subcommand is not None:
        return 0

    from dataclasses import replace

    from nconnect.cli.logs import log_to_stderr
    from nconnect.cli.options import Checks
    from nconnect.config.values import check_host
    from nconnect.daemon.node import run as run_node
    from nconnect.daemon.node import settings_of
    from nconnect.errors import UsageError
    from nconnect.model import NodeConfig

    if listen is None:
        raise UsageError(
            "missing option '--listen', the address to listen on: nconnect node --listen 0.0.0.0"
        )
    checks = Checks()
    checks.one("--listen", listen, check_host)
    checks.one("--advertise", advertise, check_host)
    stun = checks.one("--stun-ports", stun_ports, _read_stun_ports)
    checks.finish()
    if tls_key is not None and tls_cert is None:
        raise UsageError("--tls-key without --tls-cert: give the certificate too")
    secret = None
    if cluster_key is not None and cluster is None:
        raise UsageError("--cluster-key without --cluster: give the NATS server's URL too")
    if cluster is not None:
        from nconnect.io.nkn.cluster import check_url, read_key

        check_url(cluster, has_key=cluster_key is not None)
        secret = read_key(cluster_key) if cluster_key is not None else None
        if advertise is None and listen in ("0.0.0.0", "::"):
            raise UsageError(
                "--cluster needs --advertise HOST: the other nodes tell clients where this one is"
            )
    config = NodeConfig.of(
        listen,
        port=port,
        ws_port=ws_port,
        rpc_port=rpc_port,
        wss_port=wss_port,
        https_port=https_port,
        advertise=advertise,
        verify_signatures=verify_signatures,
        tls=tls,
        tls_cert=tls_cert,
        tls_key=tls_key,
        connections_per_address=connections_per_address,
        queue_mb=queue_mb,
        mail_mb=mail_mb,
        stun_ports=stun,
    )
    _refuse_equal({f"--{name.replace('_', '-')}": number for name, number in config.ports().items()})
    for option, given in (("--wss-port", wss_port), ("--https-port", https_port)):
        if given is not None and not config.has_tls:
            raise UsageError(f"{option} without TLS: give --tls or --tls-cert too")
    settings = replace(settings_of(config), reorder=reorder, waive_signatures=not require_signatures)
    if rate_limit is not None:
        settings = settings.with_rate(rate_limit)
    log_to_stderr()
    return run_node(
        config,
        settings=settings,
        seed_file=seed_file,
        stats_file=stats_file,
        capture_file=capture_file,
        cluster=cluster,
        cluster_key=secret,
        keep_state=True,
    )


@app.command("status")
def status(
    rpc_port: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="The node that takes RPC at this port, when several run here."),
    ] = None,
    as_json: JsonOption = False,
    config: UnusedConfigOption = None,
) -> None:
    """Show the status of the node that runs on this machine."""
    from nconnect.cli.output import print_json
    from nconnect.control.node_client import running_nodes
    from nconnect.control.schema import to_json
    from nconnect.errors import ControlError

    nodes = [n for n in running_nodes() if rpc_port is None or rpc_port in n.rpc_ports]
    if not nodes:
        with_port = f" with RPC port {rpc_port}" if rpc_port is not None else ""
        raise ControlError(f"no node{with_port} runs here: start one with `nconnect node --listen 0.0.0.0`")
    if len(nodes) > 1:
        ports = ", ".join(str(n.rpc_ports[0]) for n in nodes if n.rpc_ports)
        raise ControlError(f"several nodes run here, with RPC ports {ports}: choose one with --rpc-port")
    if as_json:
        print_json(to_json(nodes[0]))
    else:
        print(node_status_text(nodes[0]))


def node_status_text(node: NodeStatus) -> str:
    """A node's status for a person."""
    from nconnect.cli.output import bytes_text, duration_text

    named = {"ws": node.ws_port, "rpc": node.rpc_port, "wss": node.wss_port, "https": node.https_port}
    names: dict[int, list[str]] = {}
    for name, port in named.items():
        if port is not None:
            names.setdefault(port, []).append(name)
    ports = ", ".join(f"{port} ({', '.join(which)})" for port, which in names.items())
    facts = {
        "listens": f"{node.listen} port{'s' if len(names) > 1 else ''} {ports}",
        "seed": node.seed_url,
        "public key": node.public_key,
        "clients": f"{node.clients} ({node.connections} connections, {node.logins} logins so far)",
        "relayed": f"{node.messages} messages, {bytes_text(node.bytes)}",
        "held": f"{node.held_messages} messages, {bytes_text(node.held_bytes)}, for clients that are offline",
        "queued": f"{bytes_text(node.queue_bytes)}, {node.queue_drops} messages dropped so far",
        "stun": _stun_text(node.stun) if node.stun is not None else "",
        "dropped": ", ".join(f"{why} {count}" for why, count in sorted(node.drops.items())) or "nothing",
    }
    if node.cluster is not None:
        known = node.cluster
        facts["cluster"] = (
            f"{len(known['nodes'])} nodes, {known['sent']} messages to the others,"
            f" {known['received']} from them"
            if known["connected"]
            else "not connected: this node is alone until NATS is back"
        )
    headline = f"node {node.pid} is running for {duration_text(node.uptime_s)}"
    return "\n".join([headline, *(f"{name:<11} {value}" for name, value in facts.items() if value)])


def _stun_text(stun: Mapping[str, Any]) -> str:
    ports = " and ".join(map(str, stun["ports"]))
    refused = sum(stun["drops"].values())
    return f"UDP ports {ports}: {stun['answers']} answers, {refused} datagrams refused"


def _read_stun_ports(text: str) -> tuple[int, ...]:
    from nconnect.config.values import parse_stun_ports

    numbers = [int(part) if part.isdecimal() else part for part in text.split(",")]
    return parse_stun_ports(0 if numbers == [0] else numbers)


def _refuse_equal(ports: dict[str, int]) -> None:
    from nconnect.errors import UsageError

    seen: dict[int, str] = {}
    for option, port in ports.items():
        if port and port in seen:
            raise UsageError(f"{seen[port]} and {option} are both {port}: give each its own")
        seen[port] = option
