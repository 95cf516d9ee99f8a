"""The metrics' reference: every family of `nconnect.control.exposition`, from an example that has all."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from nconnect.control.exposition import DIRECT_METRICS, LINK_METRICS, PEER_METRICS, PeerHistograms, exposition
from nconnect.control.schema import PEER_STATES, DirectStatus, LinkStatus, PeerStatus, Status
from nconnect.errors import DropReason
from nconnect.queueing.histogram import BOUNDS_S

_HEAD = """# Reference: metrics

Written by `scripts/reference` from `nconnect/control/exposition.py`.

With [`[metrics]`](../configuration.md#metrics) in its file a daemon answers `GET /metrics` in Prometheus'
text format. Units are base units: seconds, bytes, ratios from 0 to 1. Every series has the label
`interface`, so one job can scrape several daemons. A value that is not known has no series. Counters begin
at 0 with the daemon.

```yaml
scrape_configs:
  - job_name: nconnect
    static_configs: [{targets: ["127.0.0.1:9586"]}]
```
"""

# What `status` and the metrics count under `drops`, beyond the names themselves.
REASONS = {
    DropReason.NOT_OURS: "an NKN message that is not a tunnel frame",
    DropReason.UNKNOWN_PEER: "its sender is not in the peer table",
    DropReason.MALFORMED: "too short, too long, or its fields contradict each other; or a connection to"
    " `direct_port` that was closed, or sent nothing usable in time, before it proved a peer's key",
    DropReason.WRONG_VERSION: "a frame of an unsupported version or kind",
    DropReason.HANDSHAKE_REFUSED: "a handshake that does not decrypt, or names another static key",
    DropReason.HANDSHAKE_REPLAYED: "a handshake whose counter is not above the last one",
    DropReason.HANDSHAKE_FLOOD: "more handshakes a second than a peer may start; or a connection to"
    " `direct_port` too many, from one address or in all",
    DropReason.NO_SESSION: "of a session that is unknown here, or forgotten, also in a datagram or at"
    " `direct_port`",
    DropReason.KEY_EXPIRED: "under expired keys",
    DropReason.REPLAYED: "a batch or datagram that arrived before, or the opening of a direct TCP stream",
    DropReason.NOT_AUTHENTIC: "a batch or datagram that does not decrypt, or a connection to"
    " `direct_port` that does not prove the key that it names",
    DropReason.BAD_RECORD: "sealed correctly, but not a well-formed list of records",
    DropReason.BAD_OFFLOAD_HEADER: "its virtio-net header contradicts the packet",
    DropReason.BAD_PACKET: "not a well-formed IPv4 or IPv6 packet",
    DropReason.SPOOFED_SOURCE: "from an address that is not this peer's (`allowed_ips`)",
    DropReason.FOREIGN_ERROR: "an ICMP error about a packet that did not go to this peer",
    DropReason.BAD_STATEMENT: "a part of a peer's statement that is malformed, too big, or one of too many",
    DropReason.BAD_CANDIDATE: "a peer's address for a direct path that is loopback, multicast or the like",
    DropReason.CONGESTION: "a router marked its datagram as congested, and its sender does not know ECN",
    DropReason.PEER_EXPIRED: "the peer's access has ended",
    DropReason.OVER_RATE: "a packet of this peer's above 1.1 times its `rate`",
    DropReason.PEER_LEFT: "a packet to a peer that has gone offline, answered by a refusal",
    DropReason.NO_ROUTE: "no peer's `allowed_ips` contain the destination",
    DropReason.NO_KEY: "waited too long for a handshake",
    DropReason.QUEUE_FULL: "the queue was full: of packets to the peer, or of packets from it for the kernel",
    DropReason.QUEUE_DELAY: "waited in the queue for too long (CoDel)",
    DropReason.TOO_BIG: "larger than the peer accepts",
    DropReason.LINK_DOWN: "there was no link to a node",
    DropReason.TUN_REFUSED: "the kernel did not take it",
}
OTHER_REASONS = {
    "refused": "a packet of this peer's that the firewall stopped: neither `provide` nor `allow` lets it"
    " through, or its source is reached by another way than the tunnel",
    "flow_limit": "a packet that would have opened a connection above the peer's `max_flows`",
    "bad_frames": "a frame from the node that is malformed, or not allowed at that time",
    "ignored_actions": "a message from the node that does not concern a client",
}


STUN = {"answers": 1, "drops": {"r": 1}}  # an example


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: what the exposition says of it."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...]

    @property
    def unit(self) -> str:
        plain = self.name.removesuffix("_total")
        return next((u for u in ("seconds", "bytes", "ratio") if plain.endswith(f"_{u}")), "")


def page() -> str:
    """The whole page, Markdown."""
    families = families_of(exposition(example(), {"peer": PeerHistograms()}, STUN))
    parts = [_HEAD]
    for title, prefix, common in (
        ("The interface", "nconnect_", ()),
        ("Each link", "nconnect_link_", ("link", "node")),
        ("The node in this daemon (`[node]`)", "nconnect_node_", ()),
        ("Each peer", "nconnect_peer_", ("peer",)),
    ):
        own = [family for family in families if _prefix(family) == prefix]
        if any(family.labels[: len(common)] != common for family in own):
            raise ValueError(f"a metric of {title.lower()} is without the labels {common}")
        labels = f"Labels: {_quoted(common)}.\n\n" if common else ""
        parts.append(f"## {title}\n\n{labels}| metric | type | unit | |\n|---|---|---|---|")
        parts += [_row(family, family.labels[len(common) :]) for family in own]
        parts.append("")
    bounds = ", ".join(f"{bound:g}" for bound in BOUNDS_S)
    parts.append(f"The histograms' bounds (`le`), in seconds: {bounds}.\n")
    parts.append("## Why something was dropped\n")
    parts.append(
        "The label `reason`, and the names under `drops` in `status --json`. Those of the node's STUN server"
        " are in [its documentation](../node.md#stun).\n\n| reason | |\n|---|---|"
    )
    parts += [f"| `{reason.value}` | {REASONS[reason]} |" for reason in DropReason]
    parts += [f"| `{name}` | {text} |" for name, text in OTHER_REASONS.items()]
    return "\n".join(parts) + "\n"


def _row(family: Family, labels: tuple[str, ...]) -> str:
    by = f" By {_quoted(labels)}." if labels else ""
    return f"| `{family.name}` | {family.kind} | {family.unit} | {family.text}{by} |"


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def example() -> Status:
    """A status that has a value for every metric."""
    link = LinkStatus("node", "up", **_all(LinkStatus, LINK_METRICS))
    direct = DirectStatus(**_all(DirectStatus, DIRECT_METRICS))
    peer = PeerStatus(
        "peer", "", (), None, PEER_STATES[0], drops={"r": 1}, direct=direct, **_all(PeerStatus, PEER_METRICS)
    )
    return Status("nc0", "", "", (link,), (peer,), (), (), started_at=1.0, drops={"r": 1})


def families_of(text: str) -> list[Family]:
    """The metrics in a text of the exposition, in its order, without the labels that all have."""
    found = []
    for head in re.finditer(r"^# HELP (\S+) (.*)\n# TYPE \S+ (\S+)\n(\S+)\{(.*?)\} ", text, re.MULTILINE):
        labels = re.findall(r'(\w+)="', head[5])
        found.append(
            Family(head[1], head[3], head[2], tuple(n for n in labels if n not in ("interface", "le")))
        )
    return found


_PREFIXES = ("nconnect_link_", "nconnect_peer_", "nconnect_node_", "nconnect_")


def _prefix(family: Family) -> str:
    return next(p for p in _PREFIXES if family.name.startswith(p))


def _all(cls: type, metrics: dict[str, tuple[str, str, float, str]]) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(cls)}
    return {name: 1.0 for name in metrics if name in known}
