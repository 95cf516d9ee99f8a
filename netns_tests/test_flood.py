"""A flood of UDP does not stop other flows in the tunnel, in whichever queue the kernel puts it.

user ══ flood, ping, upload ══ node ── provider ── server
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.netns import Namespace
from lab.ping import round_trips
from lab.traffic import SERVICE, connect, expected_download, upload
from lab.world import SERVER
from netns_tests.topology import Provided

FLOOD_S = 60.0  # at most: the test ends it earlier
PINGS = 40
UNANSWERED = SERVICE + 2
VOLUME = 2_000_000


def _queued(namespace: Namespace) -> list[int]:
    """How many packets the kernel has put into each queue of the TUN device."""
    listed = json.loads(namespace.run(["tc", "-s", "-j", "qdisc", "show", "dev", "nc0"]).stdout)
    return [queue["packets"] for queue in listed if queue.get("parent")]


def _queue_of(namespace: Namespace, source: int, port: int, *, answered: bool = False) -> int:
    """Send a datagram between these ports, or with `answered` two; return the queue of the last."""
    with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("", source))
        datagrams.settimeout(5)
        for _ in range(1 + answered):
            before = _queued(namespace)
            datagrams.sendto(b"x", (SERVER, port))
            after = _queued(namespace)
            if answered:
                assert datagrams.recv(10)
    changed = [n for n, (old, new) in enumerate(zip(before, after, strict=True)) if new > old]
    assert len(changed) == 1, "something else is sent besides"
    return changed[0]


@contextmanager
def _flood(tunnel: Provided, source: int) -> Iterator[None]:
    command = [sys.executable, "-m", "lab.bench.flood", "send", SERVER, str(UNANSWERED), "1400"]
    process = tunnel.world.run_in(tunnel.world.user, [*command, str(FLOOD_S), "0", str(source)], "flood")
    try:
        yield
        assert process.running, "the flood ended early"
    finally:
        process.stop()


@pytest.mark.parametrize(
    "shares", [True, False], ids=["in the queue of the answered flows", "in another queue"]
)
def test_what_goes_beside_a_flood_gets_through(tunnel: Provided, shares: bool) -> None:
    """The kernel moves a flow that is answered to another queue, if the flood is in the same one."""
    user = tunnel.world.user
    home = _queue_of(user, 40_001, SERVICE, answered=True)
    source = next(
        port for port in range(41_000, 42_000) if (_queue_of(user, port, UNANSWERED) == home) is shares
    )
    with _flood(tunnel, source):
        trips = round_trips(user, SERVER, count=PINGS, interval_s=0.05)
        with connect(user, SERVER, SERVICE) as connection:
            assert upload(connection, VOLUME) == expected_download(VOLUME)
    assert trips.lost <= PINGS // 4, "half of what shares a queue with the flood is lost"
