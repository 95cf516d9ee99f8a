"""The goals of the project, as ratios within one run, and whether a run has reached them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from lab.bench.compare import Results
from lab.bench.metrics import CONGESTION_CONTROLS, flows_name, links_name, shaped_name

US = "nconnect"
OVER_NKND, NKN_TUNNEL, MESSAGES = "nknd-nconnect", "nknd-nkn-tunnel", "nknd-messages"
DEBIAN, CURRENT = "wireguard-go", "wireguard-go-new"
ONE_PEER, MANY_PEERS, MANY_CLIENTS = "1 peer", "1,000 peers", "10,000 clients"
ONE_DIRECT, MANY_DIRECT = "1 peer, direct", "1,000 peers, direct"
DIRECT_UDP, DIRECT_TCP = "nconnect-direct-udp", "nconnect-direct-tcp"
STARVED = 20.0  # per cent of all bytes that arrive: a TCP stream beside one flood; half of them would be fair
GROWTH_MB = 2.0  # that 10 GB may add to a daemon: what the allocator's pools move by


class Verdict(Enum):
    GOAL = "goal"
    MUST = "must"
    MISSED = "missed"
    UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    must: str
    goal: str
    measured: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class _Bound:
    """One figure of a row, and where it must and should be; `goal` None: there is only a must."""

    words: str  # with a place for the value
    value: float | None
    must: float
    goal: float | None = None
    at_least: bool = False

    def reaches(self, bound: float | None) -> bool:
        assert self.value is not None
        if bound is None:
            return True
        return self.value >= bound if self.at_least else self.value <= bound


def reach(results: Results) -> list[Row]:
    """Each row of the table; `results` may hold a comparison, a run at scale, or both."""
    return [_row(what, must, goal, bounds(results)) for what, must, goal, bounds in _ROWS]


def _row(what: str, must: str, goal: str, bounds: list[_Bound]) -> Row:
    known = [bound for bound in bounds if bound.value is not None]
    measured = ", ".join(bound.words.format(bound.value) for bound in known)
    if len(known) < len(bounds):
        # With values missing a goal can be shown as missed, but not as reached.
        missed = any(not bound.reaches(bound.must) for bound in known)
        return Row(what, must, goal, measured, Verdict.MISSED if missed else Verdict.UNKNOWN)
    if not all(bound.reaches(bound.must) for bound in known):
        verdict = Verdict.MISSED
    elif goal and all(bound.reaches(bound.must if bound.goal is None else bound.goal) for bound in known):
        verdict = Verdict.GOAL
    else:
        verdict = Verdict.MUST
    return Row(what, must, goal, measured, verdict)


def _throughput(found: Results) -> list[_Bound]:
    return [
        _Bound(f"{way} {{:.1f}}× {name}", found.ratio(US, theirs, metric), must, goal, at_least=True)
        for theirs, name, must, goal in ((DEBIAN, "Debian's", 8, 12), (CURRENT, "current", 1.5, 2))
        for way, metric in (("up", "tcp_up"), ("down", "tcp_down"))
    ]


def _together(found: Results) -> list[_Bound]:
    up, down = found.median(US, "tcp_up"), found.median(US, "tcp_down")
    eight, both = found.median(US, "tcp_up_8"), found.median(US, "tcp_both")
    mean = (up + down) / 2 if up and down else None
    return [
        _Bound("8 streams {:.2f}", _over(eight, up), 0.9, 1, at_least=True),
        _Bound("both ways {:.2f}", _over(both, mean), 0.9, 1, at_least=True),
    ]


def _direct_udp(found: Results) -> list[_Bound]:
    return _beside_current(found, DIRECT_UDP, "tcp", 1.5, 2)


def _direct_segments(found: Results) -> list[_Bound]:
    return _beside_current(found, DIRECT_UDP, "segments_tcp", 1.8, 2.2)


def _direct_tcp(found: Results) -> list[_Bound]:
    return _beside_current(found, DIRECT_TCP, "tcp", 3, 3.5)


def _beside_current(found: Results, name: str, metric: str, must: float, goal: float) -> list[_Bound]:
    return [
        _Bound(f"{way} {{:.2f}}×", found.ratio(name, CURRENT, f"{metric}_{way}"), must, goal, at_least=True)
        for way in ("up", "down")
    ]


def _direct_cpu(found: Results) -> list[_Bound]:
    return [
        _Bound(f"{way} {{:.2f}}×", found.ratio(DIRECT_UDP, CURRENT, f"cpu_{way}"), 0.5, 0.4)
        for way in ("up", "down")
    ]


def _direct_round_trip(found: Results) -> list[_Bound]:
    return [_Bound("{:.2f}×", found.ratio(DIRECT_UDP, CURRENT, "ping_p50"), 1.2, 1.0)]


def _round_trip(found: Results) -> list[_Bound]:
    return [_Bound("{:.2f}×", found.ratio(US, DEBIAN, "ping_p50"), 1.6, 1.4)]


def _udp(found: Results) -> list[_Bound]:
    bounds = [
        _Bound(f"{size} B {{:.1f}}× {name}", found.ratio(US, theirs, f"udp_{size}"), 2, goal, at_least=True)
        for size, goal in ((64, 3), (1400, 5))
        for theirs, name in ((DEBIAN, "Debian's"), (CURRENT, "current"))
    ]
    share = found.median(US, "flood_share")
    return [*bounds, _Bound("beside it TCP carries {:.0f} % of the bytes", share, STARVED, at_least=True)]


def _official(found: Results) -> list[_Bound]:
    """Each way: so many times nkn-tunnel, or else the part of what bare messages carry."""
    bounds = []
    for way, metric in (("up", "tcp_up"), ("down", "tcp_down")):
        times = _Bound(
            f"{way} {{:.1f}}× nkn-tunnel", found.ratio(OVER_NKND, NKN_TUNNEL, metric), 10, 12, at_least=True
        )
        ours = found.ratio(OVER_NKND, MESSAGES, metric)
        part = _Bound(f"{way} {{:.2f}} of messages", ours, 0.9, math.inf, at_least=True)
        enough = part.value is not None and part.reaches(part.must)
        bounds.append(part if enough and not (times.value and times.reaches(times.must)) else times)
    return bounds


def _official_round_trip(found: Results) -> list[_Bound]:
    return [_Bound("{:.2f}× messages", found.ratio(OVER_NKND, MESSAGES, "ping_p50"), 1.2)]


def _official_udp(found: Results) -> list[_Bound]:
    return [_Bound("{:.3f} % lost", found.median(OVER_NKND, "udp_50_lost"), 0.1)]


def _cpu(found: Results) -> list[_Bound]:
    return [
        _Bound(f"{way} {{:.2f}}× {name}", found.ratio(US, theirs, f"cpu_{way}"), must, goal)
        for theirs, name, must, goal in ((DEBIAN, "Debian's", 0.2, 0.2), (CURRENT, "current", 0.8, 0.45))
        for way in ("up", "down")
    ]


def _slow_link(found: Results) -> list[_Bound]:
    bounds = []
    for load in ("up", "down"):
        for words, metric in (("ping", "ping_p99"), ("gap", "gap_p99")):
            busy = found.median(US, shaped_name("cubic", load, metric))
            idle = found.median(US, shaped_name("cubic", "idle", metric))
            more = busy - idle if busy is not None and idle is not None else None
            bounds.append(_Bound(f"{load}: {words} {{:+.0f}} ms", more, 30, 10))
        used = found.median(US, shaped_name("cubic", load, "used"))
        bounds.append(_Bound("{:.0f} % used", used, 80, 90, at_least=True))
    return bounds


def _several_links(found: Results) -> list[_Bound]:
    return [
        _Bound(
            f"{congestion.upper()}: {flows} flow{'s' if flows > 1 else ''} {{:.1f}}×",
            found.ratio(links_name(4), links_name(1), flows_name(congestion, flows)),
            must,
            at_least=True,
        )
        for congestion in CONGESTION_CONTROLS
        for flows, must in ((32, 3.2), (1, 2.5))
    ]


def _start(found: Results) -> list[_Bound]:
    return [_Bound("{:.2f} s", found.median(US, "start"), 1, 0.5)]


def _daemon_memory(found: Results) -> list[_Bound]:
    after, before = found.median(US, "rss_10gb"), found.first(US, "rss")
    growth = after - before if after is not None and before is not None else None
    return [
        _Bound("idle {:.0f} MB", found.median(US, "rss_idle"), 80, 60),
        _Bound("after 10 GB {:.0f} MB", after, 80, 60),
        _Bound("grown by {:.1f} MB", growth, GROWTH_MB),
    ]


def _node_memory(found: Results) -> list[_Bound]:
    return [_Bound("{:.1f} KB", found.median(MANY_CLIENTS, "client_kb"), 50, 20)]


def _many_peers(found: Results) -> list[_Bound]:
    return _beside_one(found, MANY_PEERS, ONE_PEER, 100)


def _many_direct(found: Results) -> list[_Bound]:
    return _beside_one(found, MANY_DIRECT, ONE_DIRECT, 40)


def _beside_one(found: Results, many: str, one: str, most_kb: float) -> list[_Bound]:
    return [
        _Bound("up {:.2f}", found.ratio(many, one, "tcp_up"), 0.9, at_least=True),
        _Bound("down {:.2f}", found.ratio(many, one, "tcp_down"), 0.9, at_least=True),
        _Bound("{:.1f} KB", found.median(many, "peer_kb"), most_kb),
    ]


def _over(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


_ROWS: tuple[tuple[str, str, str, Callable[[Results], list[_Bound]]], ...] = (
    (
        "single-stream TCP, both ways, AES-256-GCM through the node",
        "8 × Debian's wireguard-go direct, 1.5 × the current one",
        "12 × and 2 ×",
        _throughput,
    ),
    ("8 streams, and both ways at once", "0.9 of the single stream", "1", _together),
    (
        "direct UDP: single-stream TCP, both ways",
        "1.5 × the current wireguard-go",
        "2 ×",
        _direct_udp,
    ),
    ("direct UDP: CPU seconds a gigabyte", "0.5 of the current wireguard-go", "0.4", _direct_cpu),
    ("direct UDP: idle round trip", "1.2 × the current wireguard-go", "1 ×", _direct_round_trip),
    (
        "direct UDP where GRO joins nothing: single-stream TCP, both ways",
        "1.8 × the current wireguard-go",
        "2.2 ×",
        _direct_segments,
    ),
    (
        "direct TCP: single-stream TCP, both ways",
        "3 × the current wireguard-go",
        "3.5 ×",
        _direct_tcp,
    ),
    ("idle round trip", "1.6 × Debian's wireguard-go", "1.4 ×", _round_trip),
    (
        "UDP flooded, packets a second that arrive",
        "2 × both wireguard-go's, TCP not starved",
        "64 B 3 ×, 1,400 B 5 ×",
        _udp,
    ),
    (
        "over the official node: single-stream TCP, both ways, one link",
        "10 × the official nkn-tunnel, or 0.9 of bare messages of the best size",
        "12 ×",
        _official,
    ),
    (
        "over the official node: idle round trip",
        "1.2 × a message's and its reply's",
        "",
        _official_round_trip,
    ),
    ("over the official node: UDP at 50 Mbit/s", "under 0.1 % lost", "", _official_udp),
    (
        "CPU seconds a gigabyte, node included",
        "0.2 of Debian's wireguard-go, 0.8 of the current one",
        "0.45 of the current one",
        _cpu,
    ),
    (
        "p99 ping and token gap under load, slow link, CUBIC",
        "idle + 30 ms, 80 % of the link used",
        "idle + 10 ms, 90 %",
        _slow_link,
    ),
    (
        "4 links over 4 nodes at 20 Mbit/s each, against one",
        "32 flows 3.2 ×, a single one 2.5 ×",
        "",
        _several_links,
    ),
    ("`up` to first reply", "1 s", "0.5 s", _start),
    ("daemon memory, idle and after 10 GB", "80 MB, no growth", "60 MB", _daemon_memory),
    ("node memory for an idle client", "50 KB", "20 KB", _node_memory),
    ("1,000 peers", "0.9 of one peer's throughput, under 100 KB a peer", "", _many_peers),
    (
        "1,000 peers with direct paths by UDP",
        "0.9 of one peer's throughput, under 40 KB a peer",
        "",
        _many_direct,
    ),
)
