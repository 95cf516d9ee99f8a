"""`nconnect usage`: what each peer used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nconnect.cli.options import Checks, ConfigOption, JsonOption, chosen
from nconnect.errors import ConfigError

if TYPE_CHECKING:
    from nconnect.control.schema import PeerUsage, UsageReport

_PERIODS = ("hour", "day")


def usage(
    ctx: typer.Context,
    since: Annotated[
        str,
        typer.Option("--since", metavar="WHEN", help="From when on: 24h, 7d, 2026-11-01, month (this one)."),
    ] = "month",
    by: Annotated[
        str | None, typer.Option("--by", metavar="hour|day", help="A line for each hour or day (UTC).")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show what each peer used.

    Bytes each way, connections that either side opened, and how long it was connected.
    """
    import time

    from nconnect.cli.output import print_json
    from nconnect.control.schema import to_json
    from nconnect.io.files import config_file

    interface = config_file.load(chosen(ctx, config)).interface
    now = time.time()
    checks = Checks()
    at = checks.one("--since", since, lambda text: parse_since(text, now))
    checks.one("--by", by, _check_period)
    checks.finish()
    assert at is not None
    report = _report(interface, at, now)
    if as_json:
        print_json(to_json(report))
        return
    print("\n".join(_by_period(report, by) if by else _totals(report, now)))


def parse_since(text: str, now: float) -> float:
    """A time in the past, as seconds since the Unix epoch. Raises `ConfigError`."""
    import re
    from datetime import UTC, datetime

    text = text.strip()
    today = datetime.fromtimestamp(now, UTC)
    if text == "month":
        return datetime(today.year, today.month, 1, tzinfo=UTC).timestamp()
    if found := re.fullmatch(r"([0-9]{1,6})([hdw])", text):
        return max(0.0, now - int(found[1]) * {"h": 3600, "d": 86_400, "w": 604_800}[found[2]])
    try:
        moment = datetime.fromisoformat(text)
        at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        at = -1.0
    if not 0 <= at <= now:
        raise ConfigError(f"{text!r} is not a time in the past: write 24h, 7d, 2026-11-01, or month")
    return at


def _check_period(text: str) -> str:
    if text not in _PERIODS:
        raise ConfigError(f"{text!r} is unknown: write hour or day")
    return text


def _report(interface: str, since: float, now: float) -> UsageReport:
    """The daemon's answer; where it is not up, what it has stored."""
    from nconnect.control.client import ControlClient, NotRunning
    from nconnect.control.schema import UsageReport
    from nconnect.daemon.usage import report_of
    from nconnect.io.errors import as_host_error
    from nconnect.io.files import paths
    from nconnect.io.files.trusted import Folder
    from nconnect.io.files.usage_store import stored_in
    from nconnect.io.files.user import acting_as

    try:
        return ControlClient(interface).used(since)
    except NotRunning:
        pass
    folder = paths.state_dir(interface)
    try:
        with as_host_error(f"cannot read {folder}", passes=FileNotFoundError):
            with Folder.open(folder) as opened:
                user = opened.user
            with acting_as(user):  # its owner could have put a link there
                store = stored_in(folder)
                if store is not None:
                    try:
                        return report_of(store, interface, since, now)
                    finally:
                        store.close()
    except FileNotFoundError:
        pass
    return UsageReport(interface, since, ())


def _totals(report: UsageReport, now: float) -> list[str]:
    from nconnect.cli.output import bytes_text, duration_text, table, time_text

    if not report.peers:
        return ["nothing has been counted yet"]
    rows = [
        (
            peer.name,
            bytes_text(peer.rx_bytes),
            bytes_text(peer.tx_bytes),
            str(peer.flows),
            duration_text(peer.connected_s),
            "never" if peer.last_seen_at is None else f"{duration_text(now - peer.last_seen_at)} ago",
        )
        for peer in report.peers
    ]
    header = ("PEER", "RECEIVED", "SENT", "CONNECTIONS", "CONNECTED", "LAST HERE")
    return [f"since {time_text(report.since)}", "", *table(header, rows, right=(1, 2, 3))]


def _by_period(report: UsageReport, by: str) -> list[str]:
    from datetime import UTC, datetime

    from nconnect.cli.output import bytes_text, duration_text, table

    form = "%Y-%m-%d %H:00" if by == "hour" else "%Y-%m-%d"

    def periods(peer: PeerUsage) -> list[tuple[float, tuple[str, ...]]]:
        return [
            (
                period.at,
                (
                    f"{datetime.fromtimestamp(period.at, UTC):{form}}",
                    peer.name,
                    bytes_text(period.rx_bytes),
                    bytes_text(period.tx_bytes),
                    str(period.flows),
                    duration_text(period.connected_s),
                ),
            )
            for period in (peer.hours if by == "hour" else peer.days)
        ]

    rows = sorted(row for peer in report.peers for row in periods(peer))
    if not rows:
        return ["nothing has been counted in that time"]
    header = (f"{by.upper()} (UTC)", "PEER", "RECEIVED", "SENT", "CONNECTIONS", "CONNECTED")
    return table(header, [row for _, row in rows], right=(2, 3, 4))
