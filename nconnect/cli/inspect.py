"""The commands that read: `status`, `address`, `ping`, `version`."""

from __future__ import annotations

from typing import Annotated

import typer

from nconnect.cli.options import ConfigOption, JsonOption, UnusedConfigOption, asked, chosen, interface_there
from nconnect.errors import ControlError, UsageError


def status(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Show it live; press q to end.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show interface, links and peers.

    Problems come first, with what to do about them.
    """
    import time

    from nconnect.cli import output
    from nconnect.cli.render import status_text
    from nconnect.cli.watch import watch_status

    if watch and as_json:
        raise UsageError("--watch is for people, --json for programs: give only one of them")
    client = asked(ctx, config)
    if watch:
        watch_status(client)
    elif as_json:
        output.print_json(client.status().to_json())
    else:
        status, colour, width = client.status(), output.use_colour(), output.columns()
        print(status_text(status, now=time.time(), colour=colour, width=width))


def address(ctx: typer.Context, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Print this device's NKN address.

    The other side needs it for `nconnect peer add`.
    """
    from nconnect.cli.output import print_json
    from nconnect.crypto.keys import Identity
    from nconnect.io.files import config_file
    from nconnect.model import NknAddress

    checked = config_file.load(chosen(ctx, config))
    own = NknAddress(checked.identifier, Identity(checked.seed).public_key)
    if as_json:
        print_json(
            {
                "interface": checked.interface,
                "address": str(own),
                "identifier": own.identifier,
                "public_key": own.public_key.hex(),
            }
        )
    else:
        print(own)


def ping(
    ctx: typer.Context,
    peer: Annotated[
        str, typer.Argument(metavar="PEER", help="Its name, its address, or an address in its subnets.")
    ],
    count: Annotated[
        int | None,
        typer.Option(
            "--count", "-n", min=1, max=100_000, help="How many pings to send: 4, or 30 with --until-direct."
        ),
    ] = None,
    interval: Annotated[float, typer.Option(min=0, max=3600, help="Seconds between pings.")] = 1.0,
    timeout: Annotated[float, typer.Option(min=0.01, max=3600, help="Seconds to wait for each.")] = 5.0,
    until_direct: Annotated[
        bool, typer.Option("--until-direct", help="End once packets go directly; fail if they do not.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Measure the round trip to a peer, and say which way it goes.

    The peer's daemon answers, through the tunnel, also for an address in its subnets. The way between each
    side and its node is measured by itself, at other times.
    """
    import time

    from nconnect.cli import round_trip
    from nconnect.cli.named_peer import peer_of
    from nconnect.cli.output import ms_text, print_json
    from nconnect.control.client import ControlTimeout
    from nconnect.control.schema import PingReply, to_json
    from nconnect.io.files.config_file import exists

    if config is not None and str(config).isdecimal() and not exists(config):
        count, config = int(str(config)), None  # `-c 5` counts, as with the system's ping
    client = asked(ctx, config)
    replies: list[PingReply] = []
    count = count or (30 if until_direct else 4)
    sent = 0
    meant = peer_of(client.status(), peer)
    peer = meant.name
    for number in range(1, count + 1):
        sent = number
        began = time.monotonic()
        try:
            reply = client.ping(peer, timeout)
        except ControlTimeout:
            line = f"{peer}: no answer within {timeout:g} s"
        else:
            replies.append(reply)
            line = round_trip.line(reply)
        if not as_json:
            print(line, flush=True)
        if until_direct:
            meant = peer_of(client.status(), peer)
            if meant.direct.state == "up":
                break
        if number < count:
            time.sleep(max(0.0, began + interval - time.monotonic()))
    meant = peer_of(client.status(), peer)
    trips = [reply.rtt_ms for reply in replies]
    summary = {
        "peer": peer,
        "sent": sent,
        "received": len(trips),
        "rtt_ms": trips,
        "min_ms": min(trips, default=None),
        "avg_ms": sum(trips) / len(trips) if trips else None,
        "max_ms": max(trips, default=None),
        "path": meant.path,
        "why": meant.direct.why,
        **round_trip.averages(replies),
        "replies": [to_json(reply) for reply in replies],
    }
    if as_json:
        print_json(summary)
    elif trips:
        print(
            f"{len(trips)} of {sent} answered, min {ms_text(min(trips))},"
            f" avg {ms_text(sum(trips) / len(trips))}, max {ms_text(max(trips))}",
            round_trip.way(meant),
            *round_trip.beside(replies),
            sep="\n",
        )
    if not trips:
        raise ControlError(f"{peer} did not answer: see `nconnect status`")
    if until_direct and meant.direct.state != "up":
        why = f": {meant.direct.why}" if meant.direct.why else ""
        raise ControlError(f"packets to {peer} go by a node, not directly{why}")


def logs(
    ctx: typer.Context,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Show new lines until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, max=1_000_000, help="How many.")] = 50,
    config: ConfigOption = None,
) -> int:
    """Show the daemon's log.

    It is the log of `up -d`, or the journal if systemd runs the daemon.
    """
    from functools import partial

    from nconnect.cli import logs as source
    from nconnect.io.files import paths

    interface = interface_there(chosen(ctx, config))
    if source.has_unit(interface):
        return source.show_journal(interface, lines, follow=follow)
    write = partial(print, end="", flush=True)
    source.show_file(paths.log_path(interface), lines, follow=follow, write=write)
    return 0


def version(as_json: JsonOption = False, config: UnusedConfigOption = None) -> None:
    """Print the version."""
    import platform

    from nconnect import __version__
    from nconnect.cli.output import print_json

    if as_json:
        print_json(
            {"version": __version__, "python": platform.python_version(), "kernel": platform.release()}
        )
    else:
        print(f"nconnect {__version__}")
