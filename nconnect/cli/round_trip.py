"""What `nconnect ping` prints: the round trips, which way they went, and what was measured beside them."""

from __future__ import annotations

from collections.abc import Sequence

from nconnect.cli.output import ms_text
from nconnect.control.schema import PeerStatus, PingReply

PARTS = ("node_ms", "peer_node_ms", "rest_ms")
WAYS = {"node": "by a node", "direct": "directly"}


def line(reply: PingReply) -> str:
    """One answer."""
    return f"{reply.peer}: {ms_text(reply.rtt_ms)} {WAYS.get(reply.path, reply.path)}"


def averages(replies: Sequence[PingReply]) -> dict[str, float | None]:
    """The mean of each part, over the answers that contain it."""
    means: dict[str, float | None] = {}
    for part in PARTS:
        known = [ms for reply in replies if (ms := getattr(reply, part)) is not None]
        means[part] = sum(known) / len(known) if known else None
    return means


def beside(replies: Sequence[PingReply]) -> list[str]:
    """The ways to the nodes, which have pings of their own at other times; empty if they are unknown."""
    means = averages(replies)
    peer = replies[0].peer if replies else ""
    rows = [
        (words, ms)
        for words, ms in (
            ("this device to its node and back", means["node_ms"]),
            (f"{peer} to its node and back", means["peer_node_ms"]),
        )
        if ms is not None
    ]
    width = max((len(words) for words, _ in rows), default=0)
    lines = [f"  {words:<{width}}  {ms_text(ms):>8}" for words, ms in rows]
    return ["measured by themselves, a moment before:", *lines] if lines else []


def way(peer: PeerStatus) -> str:
    """Which way packets to a peer go, and why not directly, if that is known."""
    direct = peer.direct
    if peer.path == "direct":
        kind = f" ({direct.kind})" if direct.kind else ""
        return f"packets go directly to {direct.remote or peer.name}{kind}"
    if direct.state == "search":
        return "packets go by a node; a direct path is looked for"
    why = f": {direct.why}" if direct.why else ""
    return f"packets go by a node, not directly{why}"
