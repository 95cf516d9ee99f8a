"""Where a ping's time goes: the parts of the round trip that `nconnect ping` prints."""

from __future__ import annotations

from collections.abc import Sequence

from nconnect.cli.output import ms_text
from nconnect.control.schema import PingReply

PARTS = ("node_ms", "peer_node_ms", "rest_ms")


def line(reply: PingReply) -> str:
    """One answer."""
    parts = [
        f"{name} {ms_text(ms)}"
        for name, ms in (
            ("our node", reply.node_ms),
            ("its node", reply.peer_node_ms),
            ("the rest", reply.rest_ms),
        )
        if ms is not None
    ]
    return f"{reply.peer}: {ms_text(reply.rtt_ms)}" + (f" ({', '.join(parts)})" if parts else "")


def averages(replies: Sequence[PingReply]) -> dict[str, float | None]:
    """The mean of each part, over the answers that contain it."""
    means: dict[str, float | None] = {}
    for part in PARTS:
        known = [ms for reply in replies if (ms := getattr(reply, part)) is not None]
        means[part] = sum(known) / len(known) if known else None
    return means


def where_it_goes(replies: Sequence[PingReply]) -> list[str]:
    """The parts of the mean, with their share; empty if the parts are unknown."""
    means = averages(replies)
    peer = replies[0].peer if replies else ""
    known_peer = means["peer_node_ms"] is not None
    rows = [
        (words, ms)
        for words, ms in (
            ("this device to its node and back", means["node_ms"]),
            (f"{peer} to its node and back", means["peer_node_ms"]),
            ("between the nodes, and in both daemons" if known_peer else "beyond the node", means["rest_ms"]),
        )
        if ms is not None
    ]
    whole = sum(ms for _, ms in rows)
    width = max((len(words) for words, _ in rows), default=0)
    return [
        f"  {words:<{width}}  {ms_text(ms):>8}  {100 * ms / whole if whole else 0:3.0f} %"
        for words, ms in rows
    ]
