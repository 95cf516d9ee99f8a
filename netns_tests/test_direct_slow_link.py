"""Bulk on a slow direct path over UDP leaves room for a ping: its queue stays here, in front of the path.

    user ── 10 Mbit/s up, 50 down ── provider      the node stands beside

The bench's cable carries 10 Mbit/s up and 50 down, with a buffer of one second in each direction.
"""

from __future__ import annotations

import pytest

from lab.bench import shaped
from lab.bench.bed import bed
from lab.bench.contenders.nconnect import NconnectDirect
from lab.bench.metrics import shaped_name

WAIT_MS = 30.0
FEW_MS = 150.0  # of a single ping, where other tests take the processors
LEAST_USED = 85.0  # per cent


@pytest.mark.slow
@pytest.mark.parametrize("congestion", ["cubic", "bbr"])
def test_a_ping_beside_bulk_on_a_slow_direct_path(congestion: str) -> None:
    with bed() as made:
        made.serve_iperf()
        made.serve_tokens()
        with shaped.congestion_control(made, congestion), NconnectDirect("udp").running(made) as running:
            found = shaped.measure(running, congestion, 3.0, 4.0)

    def value(load: str, what: str) -> float:
        return found[shaped_name(congestion, load, what)]

    for load in ("up", "down"):
        assert value(load, "ping_p50") <= value("idle", "ping_p50") + WAIT_MS, found
        assert value(load, "ping_p99") <= value("idle", "ping_p99") + FEW_MS, found
        assert value(load, "used") >= LEAST_USED, found
