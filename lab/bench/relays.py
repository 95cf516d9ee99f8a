"""Programs that go through a relay of their own, and what they reach directly: one row each."""

from __future__ import annotations

from collections.abc import Sequence

import nconnect
from lab.bench.compare import Results
from lab.bench.contenders import Contender
from lab.bench.contenders.iroh import Iroh
from lab.bench.contenders.nconnect import Nconnect, NconnectDirect, NconnectOverTls
from lab.bench.contenders.tailcat import Tailcat
from lab.bench.contenders.tailscale import Tailscale
from lab.bench.metrics import SPEED
from lab.bench.report import number

NAMES = ("ping", "tcp-up", "tcp-down")  # of the cases
METRICS = tuple(
    found for found in SPEED if found.name in {"tcp_up", "tcp_down", "ping_p50", "cpu_up", "cpu_down"}
)
RELAYED: tuple[tuple[Contender, str], ...] = (
    (Nconnect("aes256gcm", "nconnect"), nconnect.__version__),
    (NconnectOverTls(), nconnect.__version__),
    *((NconnectDirect(kind), nconnect.__version__) for kind in ("udp", "tcp")),
    *((found, found.version) for found in (Iroh("relay"), Iroh("direct"))),
    *((found, found.version) for found in (Tailscale("derp"), Tailscale("direct"))),
    *((found, found.version) for found in (Tailcat("derp"), Tailcat("direct"))),
)


def table(results: Results, relayed: Sequence[tuple[Contender, str]] = RELAYED) -> str:
    """A Markdown table of medians; who could not be measured has a row that says why."""
    lines = [
        "| | what | version | " + " | ".join(f"{found.title}, {found.unit}" for found in METRICS) + " |",
        "|---|---|---|" + "---:|" * len(METRICS),
    ]
    for contender, version in relayed:
        medians = [(results.median(contender.name, found.name), found.digits) for found in METRICS]
        cells = ["" if value is None else number(value, digits) for value, digits in medians]
        if not any(cells):
            cells = [f"not measured: {_why(results, contender.name)}", *cells[1:]]
        lines.append(f"| {contender.name} | {contender.about} | {version} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _why(results: Results, name: str) -> str:
    for line in results.skipped:
        if line.startswith(f"{name}: "):
            return line.removeprefix(f"{name}: ")
    return next((line.partition("\n")[0] for line in results.failures if f", {name}" in line), "not run")
