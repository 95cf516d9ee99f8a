"""The figures of the cases: each is a row of a table."""

from __future__ import annotations

from dataclasses import dataclass

Values = dict[str, float]  # by metric's name
CONGESTION_CONTROLS = ("cubic", "bbr")
LOADS = ("idle", "up", "down")


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    title: str
    unit: str
    digits: int
    more_is_better: bool
    table: str = "speed"  # or "shaped", "links", "scale"


SPEED = (
    Metric("tcp_up", "TCP up", "Gbit/s", 2, True),
    Metric("tcp_down", "TCP down", "Gbit/s", 2, True),
    Metric("segments_tcp_up", "single segments on the cable: TCP up", "Gbit/s", 2, True),
    Metric("segments_tcp_down", "single segments on the cable: TCP down", "Gbit/s", 2, True),
    Metric("tcp_up_8", "8 streams up", "Gbit/s", 2, True),
    Metric("tcp_both", "both ways, sum", "Gbit/s", 2, True),
    Metric("tcp6_up", "TCP up, IPv6", "Gbit/s", 2, True),
    Metric("ping_p50", "ping p50", "ms", 3, False),
    Metric("ping_p99", "ping p99", "ms", 3, False),
    Metric("udp_64", "UDP 64 B, flooded", "packets/s", 0, True),
    Metric("udp_1400", "UDP 1400 B, flooded", "packets/s", 0, True),
    Metric("udp_rate_64", "UDP 64 B, loss under 1 %", "packets/s", 0, True),
    Metric("udp_rate_1400", "UDP 1400 B, loss under 1 %", "packets/s", 0, True),
    Metric("flood_tcp", "beside a UDP flood: TCP up", "Gbit/s", 2, True),
    Metric("flood_share", "beside a UDP flood: TCP's part of all bytes", "%", 0, True),
    Metric("flood_ping", "beside a UDP flood: ping p50", "ms", 1, False),
    Metric("flood_ping_lost", "beside a UDP flood: pings lost", "%", 0, False),
    Metric("udp_50_lost", "UDP at 50 Mbit/s: lost", "%", 3, False),
    Metric("quic_down", "QUIC down (aioquic)", "Mbit/s", 0, True),
    Metric("message_up", "best message size, up", "KiB", 0, True),
    Metric("message_down", "best message size, down", "KiB", 0, True),
    Metric("cpu_up", "CPU, up", "s/GB", 2, False),
    Metric("cpu_down", "CPU, down", "s/GB", 2, False),
    Metric("rss_idle", "memory idle, larger end", "MB", 1, False),
    Metric("rss", "memory after the transfers, larger end", "MB", 1, False),
    Metric("rss_10gb", "memory after 10 GB more", "MB", 1, False),
    Metric("start", "start to first reply", "s", 3, False),
    Metric("ttft", "time to first token", "ms", 1, False),
    Metric("tokens", "tokens a second", "1/s", 1, True),
)


def shaped_name(congestion: str, load: str, what: str) -> str:
    return f"shaped_{congestion}_{load}_{what}"


def _shaped(congestion: str, load: str) -> tuple[Metric, ...]:
    title = f"{congestion.upper()}, {'idle' if load == 'idle' else load + 'load'}"
    found = [
        Metric(shaped_name(congestion, load, name), f"{title}: {words}", "ms", 1, False, "shaped")
        for name, words in (
            ("ping_p50", "ping p50"),
            ("ping_p99", "ping p99"),
            ("gap_p50", "token gap p50"),
            ("gap_p99", "token gap p99"),
        )
    ]
    if load != "idle":
        name = shaped_name(congestion, load, "used")
        found.append(Metric(name, f"{title}: link used", "%", 0, True, "shaped"))
    return tuple(found)


SCALE = (
    Metric("peer_kb", "provider's memory for each further peer", "KB", 1, False, "scale"),
    Metric("client_kb", "node's memory for each client", "KB", 1, False, "scale"),
    Metric("node_rss", "node's memory", "MB", 1, False, "scale"),
    Metric("idle_cpu", "node's CPU, all idle", "%", 1, False, "scale"),
    Metric("handshakes", "users that come, each from nothing to a session", "1/s", 0, True, "scale"),
    Metric("logins", "clients that come", "1/s", 0, True, "scale"),
    Metric("back", "all back after the node's restart", "s", 2, False, "scale"),
)

FLOWS = (32, 1)


def links_name(links: int) -> str:
    """Ourselves over so many links, as a contender."""
    return f"links-{links}"


def flows_name(congestion: str, flows: int) -> str:
    return f"links_{congestion}_{flows}"


OVER_LINKS = tuple(
    Metric(
        flows_name(congestion, flows),
        f"{congestion.upper()}, {flows} flow{'s' if flows > 1 else ''} up",
        "Mbit/s",
        1,
        True,
        "links",
    )
    for congestion in CONGESTION_CONTROLS
    for flows in FLOWS
)
SHAPED = tuple(
    metric for congestion in CONGESTION_CONTROLS for load in LOADS for metric in _shaped(congestion, load)
)
METRICS = (*SPEED, *SHAPED, *OVER_LINKS, *SCALE)
