"""A `Status` as Prometheus' text format 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/

Names and units follow its conventions: base units (seconds, bytes), `_total` for what only grows. Every
series carries the interface, so that several daemons can be scraped by one job.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nconnect.control.schema import DIRECT_STATES, PEER_STATES, Status
from nconnect.queueing.histogram import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]

# Field of `LinkStatus` or `PeerStatus` -> metric's name, type, factor, help.
LINK_METRICS: dict[str, tuple[str, str, float, str]] = {
    "rtt_ms": ("last_round_trip_seconds", "gauge", 1e-3, "The newest round trip to the node."),
    "reconnects": ("reconnects_total", "counter", 1, "Logins after the first one."),
    "rx_bytes": ("receive_bytes_total", "counter", 1, "Bytes of batches from peers."),
    "tx_bytes": ("transmit_bytes_total", "counter", 1, "Bytes of batches to peers."),
    "share": ("traffic_share_ratio", "gauge", 1, "Of all links' traffic, 0 to 1."),
    "shared_with": ("shared_with_link", "gauge", 1, "The number of the link that stands in for it."),
}
PEER_METRICS: dict[str, tuple[str, str, float, str]] = {
    "rx_bytes": ("receive_bytes_total", "counter", 1, "Bytes of inner packets received."),
    "tx_bytes": ("transmit_bytes_total", "counter", 1, "Bytes of inner packets sent."),
    "rx_packets": ("receive_packets_total", "counter", 1, "Inner packets received."),
    "tx_packets": ("transmit_packets_total", "counter", 1, "Inner packets sent."),
    "queue_bytes": ("queue_bytes", "gauge", 1, "Bytes that wait to be sent."),
    "rtt_ms": ("last_round_trip_seconds", "gauge", 1e-3, "The newest round trip to the peer's daemon."),
    "handshake_age_s": ("handshake_age_seconds", "gauge", 1, "Since the last handshake."),
    "last_handshake_at": ("last_handshake_time_seconds", "gauge", 1, "When it was (Unix time)."),
    "expires": ("expiry_time_seconds", "gauge", 1, "When the peer's access ends (Unix time)."),
    "last_seen_at": ("last_seen_time_seconds", "gauge", 1, "When it was last heard (Unix time)."),
}


DIRECT_METRICS: dict[str, tuple[str, str, float, str]] = {
    "rtt_ms": ("round_trip_seconds", "gauge", 1e-3, "The round trip of the direct path that is up."),
    "mtu": ("mtu_bytes", "gauge", 1, "The largest datagram of the direct path that is up."),
}


@dataclass(frozen=True, slots=True)
class PeerHistograms:
    """What is counted of one peer besides its status."""

    round_trip: Histogram = field(default_factory=Histogram)
    queue_delay: Histogram = field(default_factory=Histogram)


def exposition(
    status: Status, histograms: Mapping[str, PeerHistograms], stun: Mapping[str, Any] | None = None
) -> str:
    """The whole text; `histograms` by peer's name, `stun` as in `NodeStatus`: of the node in this daemon."""
    families: dict[str, _Family] = {}
    for name, kind, text, labels, value in (*_samples(status), *_stun_samples(stun)):
        family = families.setdefault(name, _Family(name, kind, text))
        family.add(name, {"interface": status.interface, **labels}, value)
    for suffix, text in (
        ("round_trip", "Round trips to the peer's daemon, from reports and pings."),
        ("queue_delay", "How long packets stood in the queue of this side."),
    ):
        name = f"nconnect_peer_{suffix}_seconds"
        family = _Family(name, "histogram", text)
        for peer in status.peers:
            if peer.name in histograms:
                labels = {"interface": status.interface, "peer": peer.name}
                family.add_histogram(labels, getattr(histograms[peer.name], suffix))
        if family.lines:
            families[name] = family
    return "".join(family.text() for family in families.values())


def escape(text: str) -> str:
    """A label's value: backslash, quote and line feed are escaped."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


_Sample = tuple[str, str, str, Labels, float]


def _samples(status: Status) -> Iterator[_Sample]:
    info = {"version": status.version, "public_key": status.public_key}
    yield "nconnect_info", "gauge", "What runs here; always 1.", info, 1
    if status.started_at is not None:
        yield "nconnect_start_time_seconds", "gauge", "When it started (Unix time).", {}, status.started_at
    yield (
        "nconnect_problems",
        "gauge",
        "How many sentences `status` begins with: what is wrong.",
        {},
        len(status.problems),
    )
    yield "nconnect_routes", "gauge", "Routes into the tunnel.", {}, len(status.routes)
    yield "nconnect_skipped_routes", "gauge", "Routes that could not be set.", {}, len(status.skipped_routes)
    for name, count in sorted(status.counters.items()):
        yield f"nconnect_{_word(name)}_total", "counter", "See `status --json`, counters.", {}, count
    for reason, count in sorted(status.drops.items()):
        yield "nconnect_drops_total", "counter", "Dropped, of no single peer.", {"reason": reason}, count
    for index, link in enumerate(status.links):
        labels = {"link": str(index), "node": link.node}
        yield "nconnect_link_up", "gauge", "Whether the link is up.", labels, link.state == "up"
        yield from _fields("nconnect_link_", LINK_METRICS, link, labels)
    for peer in status.peers:
        labels = {"peer": peer.name}
        for state in PEER_STATES:
            one = {**labels, "state": state}
            yield "nconnect_peer_state", "gauge", "1 for the state that it is in.", one, peer.state == state
        yield from _fields("nconnect_peer_", PEER_METRICS, peer, labels)
        for period, used in (("day", peer.usage.day), ("month", peer.usage.month)):
            for direction, size in (("receive", used.rx_bytes), ("transmit", used.tx_bytes)):
                one = {**labels, "period": period, "direction": direction}
                text = "Bytes of inner packets in the present day and month (UTC)."
                yield "nconnect_peer_usage_bytes", "gauge", text, one, size
        text = "Whether its connections are refused for now."
        yield "nconnect_peer_paused", "gauge", text, labels, peer.paused is not None
        for state in DIRECT_STATES:
            one = {**labels, "state": state}
            text = "1 for the state of the direct path."
            yield "nconnect_peer_direct_state", "gauge", text, one, peer.direct.state == state
        yield from _fields("nconnect_peer_direct_", DIRECT_METRICS, peer.direct, labels)
        for reason, count in sorted(peer.drops.items()):
            one = {**labels, "reason": reason}
            yield "nconnect_peer_drops_total", "counter", "Dropped packets and messages.", one, count


def _stun_samples(stun: Mapping[str, Any] | None) -> Iterator[_Sample]:
    if stun is None:
        return
    yield "nconnect_node_stun_answers_total", "counter", "STUN requests answered.", {}, stun["answers"]
    for reason, count in sorted(stun["drops"].items()):
        text = "Datagrams to the STUN ports that got no answer."
        yield "nconnect_node_stun_drops_total", "counter", text, {"reason": reason}, count


def _fields(
    prefix: str, metrics: Mapping[str, tuple[str, str, float, str]], of: object, labels: Labels
) -> Iterator[_Sample]:
    for name, (suffix, kind, factor, text) in metrics.items():
        value = getattr(of, name)
        if value is not None:
            yield prefix + suffix, kind, text, labels, value * factor


class _Family:
    def __init__(self, name: str, kind: str, text: str) -> None:
        self.lines: list[str] = []
        self._head = f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
        self._name = name

    def add(self, name: str, labels: Labels, value: float) -> None:
        inner = ",".join(f'{key}="{escape(text)}"' for key, text in labels.items())
        self.lines.append(f"{name}{{{inner}}} {_number(value)}\n")

    def add_histogram(self, labels: Labels, histogram: Histogram) -> None:
        bounds: Iterable[str] = [*map(_number, histogram.bounds), "+Inf"]
        for bound, count in zip(bounds, histogram.cumulative(), strict=True):
            self.add(f"{self._name}_bucket", {**labels, "le": bound}, count)
        self.add(f"{self._name}_sum", labels, histogram.sum)
        self.add(f"{self._name}_count", labels, histogram.count)

    def text(self) -> str:
        return self._head + "".join(self.lines)


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def _word(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
