"""`docs/benchmarks.md`: a page about one run, with command, pictures, tables and explanations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lab.bench import report
from lab.bench.compare import Results
from lab.bench.contenders import BASELINE, CONTENDERS
from lab.bench.metrics import OVER_LINKS, SCALE, SHAPED, SPEED, Metric
from lab.bench.reach import reach

MAIN = ("veth", "wireguard-go", "wireguard-go-new", "nebula", "nconnect")
OTHERS = (
    "nconnect",
    "nconnect-signed",
    "nconnect-chacha20",
    "nconnect-chacha20-signed",
    "nconnect-tls",
    "sshuttle",
    "nkn-sdk",
)
OFFICIAL = ("nknd-nkn-tunnel", "nknd-nconnect", "nknd-messages")
_SCALE_METRICS = (*(m for m in SPEED if m.name in {"tcp_up", "tcp_down", "rss", "start"}), *SCALE)

_HEAD = """\
# Benchmarks

```
sudo ./scripts/bench docs
```

builds network namespaces (a user, a node in the internet, a provider), measures, and writes this page and
its pictures. nconnect is what ships, with every check on; its packets pass through its node, and the two
daemons and the node share the machine with both ends of every transfer. The others go over a cable of
their own, straight from user to provider. All figures are of one run in which the contenders took turns
(A B A B), and medians of its rounds; in brackets: times {baseline}'s.

`scripts/bench` alone compares, `scripts/bench scale` counts up. `--quick` takes less than 90 s,
`--only NAMES` chooses contenders and cases, `--rounds N` says how often each has its turn, `--json FILE`
keeps every value.

`scripts/bench profile` shows where the time of a packet goes: `profile-user.svg`, `-node.svg` and
`-provider.svg` are flame graphs of a transfer up, or down with `--down`. Open them in a browser. Each bar is
a function, as wide as its share of the time, below the one that called it; a click zooms in, Ctrl-F finds a
name. `--native` shows the C functions too.
"""

_NOTES = """\
## What the figures mean

- *TCP* is iperf3, one stream unless it says otherwise; the first second is left out. *up* is from user to
  provider.
- *ping* is ICMP, 200 a second; for sshuttle, which carries TCP only, and for the SDK it is a byte there
  and back over an open connection.
- *UDP flooded*: one sender as fast as it can, without segmentation offload; what the receiving program
  gets in a second. *loss under 1 %*: the highest steady rate that arrives nearly whole, found by halving.
- *CPU* is the user and system time of all the tunnel's processes, the node included, for each 10^9 bytes
  of TCP payload. The kernel's own work outside of these processes is not in it.
- *memory* is the resident size of the larger of the two ends' processes.
- *start to first reply* begins with the user's command and ends with the first answered ping; the
  provider is up already.
- *nkn-sdk* is the official JavaScript SDK: a session of two MultiClients with four sub-clients each, over
  our node.
- *over the official node*: all packets pass through NKN's own nknd, which runs as a private network of one
  node; in brackets: times nkn-tunnel's. nkn-tunnel carries TCP only: its ping is a byte there and back over
  an open connection. *messages* are what the network itself carries between two clients of `nconnect.nkn`,
  signed and not encrypted: the best of six sizes from 16 to 512 KiB, each for as long as a TCP stream;
  their ping is a message of 100 bytes and its reply.
- *signed*: the node runs with `--require-signatures`, so that clients sign every message, and checks
  none, as official nodes do.
- *slow link*: the user's cable carries 10 Mbit/s up and 50 down (tbf) and buffers one second. During a
  bulk transfer the ping, and a stream of 40 tokens a second. A *gap* is how much longer it was between
  two tokens' arrivals than between their departures. *link used* counts all bytes on the cable.
- *links-N*: both sides have so many links, each at another of four nodes that are one cluster, each node on
  a cable of 20 Mbit/s. The bytes of iperf3, after four seconds in which each link's rate is found.
- *users that come* and *clients that come* share the two cores with the provider and the node; a user's
  way there is an RPC, a websocket, a login and a handshake. The schedule by which they try and the protocol
  are every client's; only what moves the bytes is leaner, since one process is thousands of them. Restarting
  begins when the new node listens.
"""


def page(
    results: Results,
    machine: dict[str, Any],
    settings: dict[str, Any],
    pictures: Iterable[str],
    *,
    note: str = "",
) -> str:
    """`results` holds a comparison, a run at scale, or both; `pictures` are names in `pictures/`."""
    drawn = set(pictures)
    measured = [found for found in CONTENDERS if found.name in results.values]
    rounds = settings.get("rounds", 1)
    parts = [
        _HEAD.format(baseline=BASELINE),
        f"Here: {machine['cpus']} cores ({machine['processor']}), Linux {machine['kernel']}, Python"
        f" {machine['python']}; {rounds} round{'s' if rounds > 1 else ''}, {results.seconds / 60:.0f}"
        f" minutes.{f' {note}' if note else ''}\n",
        *_reach(results),
        *_figures(results, "Speed", "bench-speed", drawn, (MAIN, SPEED), (OTHERS, SPEED)),
        *_figures(results, "Over the official node", "", drawn, (OFFICIAL, SPEED), baseline=OFFICIAL[0]),
        *_figures(results, "A slow link", "bench-slow-link", drawn, (("wireguard-go", "nconnect"), SHAPED)),
        *_figures(results, "Several links", "", drawn, (_over_links(results), OVER_LINKS), ratios=False),
        *_figures(
            results, "Many at once", "bench-scale", drawn, (_counts(results), _SCALE_METRICS), ratios=False
        ),
        _NOTES,
        "The contenders:\n\n" + "".join(f"- *{found.name}*: {found.about}\n" for found in measured),
    ]
    missing = [*results.skipped, *(failure.partition("\n")[0] for failure in results.failures)]
    if missing:
        parts.append("Not measured:\n\n" + "".join(f"- {what}\n" for what in missing))
    return "\n".join(parts)


def _reach(results: Results) -> list[str]:
    lines = [
        f"| {row.what} | {row.must} | {row.goal} | {row.measured} | {row.verdict.value} |"
        for row in reach(results)
    ]
    head = "| | must | goal | measured | reached |\n|---|---|---|---|---|\n"
    return ["## What is reached\n", head + "\n".join(lines) + "\n"]


def _figures(
    results: Results,
    title: str,
    picture: str,
    drawn: set[str],
    *tables: tuple[Sequence[str], Sequence[Metric]],
    ratios: bool = True,
    baseline: str = BASELINE,
) -> list[str]:
    parts = []
    if picture in drawn:
        parts.append(f"![{title}](pictures/{picture}.svg)\n")
    shown: set[str] = set()
    for names, metrics in tables:
        there = {name for name in names if name in results.values}
        if there <= shown:
            continue  # nothing that was not in the table before
        shown |= there
        text = report.markdown(results, baseline, names, metrics, ratios=ratios)
        parts += [text] if text else []
    return [f"## {title}\n", *parts] if parts else []


def _over_links(results: Results) -> list[str]:
    return [name for name in results.values if name.startswith("links-")]


def _counts(results: Results) -> list[str]:
    return [name for name in results.values if name[0].isdigit()]
