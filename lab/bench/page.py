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
    "nconnect-direct-udp",
    "nconnect-direct-tcp",
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

This builds network namespaces (a user, a node in the internet, a provider), measures, and writes this page
and its pictures. nconnect runs as it is shipped, with every check on. Its packets pass through its node;
the two daemons and the node share the machine with both ends of every transfer. The other programs use a
direct cable from user to provider. All figures are from one run in which the contenders took turns (A B A
B), and are medians of its rounds. In brackets: as a multiple of {baseline}.

`scripts/bench` only compares, and `scripts/bench scale` measures many peers and clients. `--quick` takes
less than 90 s, `--only NAMES` chooses contenders and cases, `--rounds N` sets the number of rounds, and
`--json FILE` saves every value.

`scripts/bench profile` shows where a packet's time is spent. It writes flame graphs of an upload, or of a
download with `--down`: `profile-user.svg`, `-node.svg` and `-provider.svg`. Open them in a browser. Each
bar is a function, below its caller, and as wide as its share of the time. Click a bar to zoom in; Ctrl-F
finds a name. `--native` includes C functions; `--of nconnect-direct-udp` profiles the direct path.
"""

_NOTES = """\
## What the figures mean

- *TCP* is iperf3, one stream unless it says otherwise, without the first second. *up* is from user to
  provider.
- *ping* is ICMP, 200 a second. sshuttle carries TCP only, and the SDK carries no packets: for these two it
  is a byte and its answer over an open connection.
- *UDP flooded*: one sender sends as fast as it can, without segmentation offload; the figure is what the
  receiving program gets. *loss under 1 %*: the highest steady rate with less loss than that, found by
  bisection.
- *CPU* is the user and system time of all the tunnel's processes, the node included, for each 10^9 bytes of
  TCP payload. It does not include what the kernel does outside of these processes.
- *memory* is the resident size of the user's or the provider's processes, whichever is larger.
- *start to first reply* begins with the user's command and ends with the first answered ping; the provider
  is already up.
- *nkn-sdk* is the official JavaScript SDK: a session of two MultiClients with four sub-clients each, over
  our node.
- *over the official node*: all packets pass through NKN's own nknd, which runs as a private network of one
  node. In brackets: as a multiple of nkn-tunnel. nkn-tunnel carries TCP only, so its ping is a byte and its
  answer over an open connection. *messages* are what the network itself carries between two clients of
  `nconnect.nkn`, signed and not encrypted: the best of six sizes from 16 to 512 KiB, each measured for as
  long as a TCP stream. Their ping is a message of 100 bytes and its reply.
- *signed*: the node runs with `--require-signatures`, so clients sign every message. The node verifies no
  signature, like official nodes.
- *slow link*: the user's cable carries 10 Mbit/s up and 50 down (tbf) and buffers one second. A ping and a
  stream of 40 tokens a second run during a bulk transfer. *gap*: the time between the arrivals of two
  tokens, less the time between their departures. *link used* counts all bytes on the cable.
- *links-N*: both sides have N links. Each link uses another of four nodes, which are one cluster; each node
  is on a cable of 20 Mbit/s. The figure is iperf3's, after four seconds in which the rate of each link is
  found.
- *users that come* and *clients that come* share the two cores with the provider and the node. For a user
  this is an RPC, a websocket, a login and a handshake. Protocol and retry schedule are those of a normal
  client; the code that moves bytes is simpler, because one process runs thousands of them. *back after the
  node's restart* is counted from when the new node listens.
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


def with_kept(fresh: str, old: str) -> str:
    """The new page with those sections of the old one that it lacks, each after the one that it followed.

    They are about other runs, and written by hand.
    """
    found = _sections(fresh)
    before = ""
    for title, text in _sections(old).items():
        if title not in found:
            at = list(found).index(before) + 1 if before in found else len(found)
            found = dict([*list(found.items())[:at], (title, text), *list(found.items())[at:]])
        before = title
    return "\n".join(text.strip("\n") + "\n" for text in found.values())


def _sections(page: str) -> dict[str, str]:
    """By title; what is before the first one has the title ""."""
    head, *others = page.split("\n## ")
    return {"": head, **{text.partition("\n")[0]: f"## {text}" for text in others}}


def _reach(results: Results) -> list[str]:
    lines = [
        f"| {row.what} | {row.must} | {row.goal} | {row.measured} | {row.verdict.value} |"
        for row in reach(results)
    ]
    head = "| | must | goal | measured | reached |\n|---|---|---|---|---|\n"
    meaning = (
        "*must* is required, *goal* is aimed at. The last column says which of them this run has reached.\n"
    )
    return ["## What is reached\n", meaning, head + "\n".join(lines) + "\n"]


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
