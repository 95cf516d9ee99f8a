from __future__ import annotations

import pytest

from lab.bench.compare import Results
from lab.bench.metrics import shaped_name
from lab.bench.reach import MANY_CLIENTS, MANY_DIRECT, MANY_PEERS, ONE_DIRECT, ONE_PEER, Verdict, reach

SLOW_LINK = "p99 ping and token gap under load, slow link, CUBIC"
TCP = "single-stream TCP, both ways, AES-256-GCM through the node"


def results(**values: dict[str, float]) -> Results:
    found = Results()
    for contender, metrics in values.items():
        for metric, value in metrics.items():
            found.add(contender.replace("_", "-"), metric, value)
    return found


def verdict(found: Results, what: str) -> Verdict:
    return next(row.verdict for row in reach(found) if row.what == what)


def tcp(up: float, down: float) -> Results:
    theirs = {"tcp_up": 0.5, "tcp_down": 0.5}
    return results(
        wireguard_go=theirs,
        wireguard_go_new={"tcp_up": 2.0, "tcp_down": 2.0},
        nconnect={"tcp_up": up, "tcp_down": down},
    )


@pytest.mark.parametrize(
    ("up", "down", "expected"),
    [
        (6.0, 6.0, Verdict.GOAL),
        (6.0, 4.0, Verdict.MUST),  # the worse way counts
        (6.0, 3.9, Verdict.MISSED),
        (2.0, 2.0, Verdict.MISSED),
    ],
)
def test_throughput_is_judged_by_its_worst_ratio(up: float, down: float, expected: Verdict) -> None:
    assert verdict(tcp(up, down), TCP) is expected


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        ({"tcp_up": 4.0, "tcp_down": 4.0}, Verdict.GOAL),
        ({"tcp_up": 4.0, "tcp_down": 3.0}, Verdict.MUST),
        ({"tcp_up": 2.9, "tcp_down": 4.0}, Verdict.MISSED),
        ({"tcp_up": 4.0}, Verdict.UNKNOWN),
    ],
)
def test_a_direct_path_is_judged_beside_the_current_wireguard_go(
    ours: dict[str, float], expected: Verdict
) -> None:
    found = results(
        wireguard_go={"tcp_up": 9.0, "tcp_down": 9.0},
        wireguard_go_new={"tcp_up": 2.0, "tcp_down": 2.0},
        nconnect={"tcp_up": 9.0, "tcp_down": 9.0},
        nconnect_direct_udp=ours,
    )
    assert verdict(found, "direct UDP: single-stream TCP, both ways") is expected


def test_what_was_not_measured_is_never_reached() -> None:
    assert {row.verdict for row in reach(Results())} == {Verdict.UNKNOWN}
    half = results(wireguard_go={"tcp_up": 0.5}, nconnect={"tcp_up": 6.0})
    assert verdict(half, TCP) is Verdict.UNKNOWN
    assert verdict(results(wireguard_go={"tcp_up": 0.5}, nconnect={"tcp_up": 1.0}), TCP) is Verdict.MISSED


def slow(more_ms: float, used: float) -> Results:
    found = Results()
    for load, ping in (("idle", 2.0), ("up", 2.0 + more_ms), ("down", 2.0)):
        found.add("nconnect", shaped_name("cubic", load, "ping_p99"), ping)
        found.add("nconnect", shaped_name("cubic", load, "gap_p99"), 1.0)
        if load != "idle":
            found.add("nconnect", shaped_name("cubic", load, "used"), used)
    return found


@pytest.mark.parametrize(
    ("more_ms", "used", "expected"),
    [
        (9, 91, Verdict.GOAL),
        (9, 85, Verdict.MUST),
        (29, 95, Verdict.MUST),
        (31, 95, Verdict.MISSED),
        (9, 79, Verdict.MISSED),  # a short queue is no merit when the link stands idle
    ],
)
def test_a_slow_link_is_judged_by_delay_and_by_use(more_ms: float, used: float, expected: Verdict) -> None:
    assert verdict(slow(more_ms, used), SLOW_LINK) is expected


def test_memory_that_grows_is_missed() -> None:
    row = "daemon memory, idle and after 10 GB"
    steady = {"rss_idle": 58.0, "rss": 59.0, "rss_10gb": 59.5}
    assert verdict(results(nconnect=steady), row) is Verdict.GOAL
    assert verdict(results(nconnect={**steady, "rss_10gb": 65.0}), row) is Verdict.MISSED


def test_scale_has_rows_of_its_own() -> None:
    found = Results()
    for peers, rate in ((ONE_PEER, 4.0), (MANY_PEERS, 3.7)):
        found.add(peers, "tcp_up", rate)
        found.add(peers, "tcp_down", rate)
    found.add(MANY_PEERS, "peer_kb", 20)
    found.add(MANY_CLIENTS, "client_kb", 20.1)
    assert verdict(found, "1,000 peers") is Verdict.MUST  # it has no goal
    assert verdict(found, "node memory for an idle client") is Verdict.MUST
    found.add(MANY_PEERS, "peer_kb", 300)
    assert verdict(found, "1,000 peers") is Verdict.MISSED


@pytest.mark.parametrize(
    ("rate", "peer_kb", "expected"),
    [(3.7, 39.0, Verdict.MUST), (3.5, 39.0, Verdict.MISSED), (3.7, 41.0, Verdict.MISSED)],
)
def test_a_thousand_direct_peers_have_a_row(rate: float, peer_kb: float, expected: Verdict) -> None:
    found = Results()
    for peers, each in ((ONE_DIRECT, 4.0), (MANY_DIRECT, rate)):
        found.add(peers, "tcp_up", each)
        found.add(peers, "tcp_down", each)
    found.add(MANY_DIRECT, "peer_kb", peer_kb)
    assert verdict(found, "1,000 peers with direct paths by UDP") is expected


@pytest.mark.parametrize(
    ("ours", "expected"),
    [(1.25, Verdict.GOAL), (1.05, Verdict.MUST), (0.95, Verdict.MUST), (0.85, Verdict.MISSED)],
)
def test_over_the_official_node_either_bound_is_enough(ours: float, expected: Verdict) -> None:
    """Ten times the official tunnel, or nearly what bare messages carry."""
    row = "over the official node: single-stream TCP, both ways, one link"
    found = Results()
    for way in ("tcp_up", "tcp_down"):
        found.add("nknd-nconnect", way, ours)
        found.add("nknd-nkn-tunnel", way, 0.1)
        found.add("nknd-messages", way, 1.0)
    assert verdict(found, row) is expected
