"""A change of rights ends 20,000 running flows within a second.

user (10.86.0.2) ── node ── provider ── server
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from lab.netns import Namespace
from lab.process import until
from lab.world import SERVER, USER_PEER, USER_TUNNEL, World, world
from netns_tests.topology import SERVICE, provided, reaches

FLOWS = 20_000


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world("ncmany") as built, provided(built):
        yield built


def _open(namespace: Namespace, ports: range) -> None:
    """A datagram to each port of the server: a flow each, half-open."""
    with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        for number, port in enumerate(ports):
            try:
                datagrams.sendto(b"?", (SERVER, port))
            except OSError:
                pass  # an ICMP error about an earlier one
            if number % 200 == 199:
                time.sleep(0.01)  # the queue of a peer is bounded: what is dropped there opens no flow


def _flows(made: World) -> int:
    listed = made.provider.run(["conntrack", "-L", "-f", "ipv4", "-p", "udp", "--orig-src", USER_TUNNEL])
    return len([line for line in listed.stdout.splitlines() if line.startswith("udp")])


@pytest.mark.parametrize("change", ["narrower", "removed"])
def test_a_change_ends_twenty_thousand_flows_within_a_second(made: World, change: str) -> None:
    before = made.provider_side.config.read_text()
    first = 21_000 if change == "narrower" else 42_000
    for _ in range(5):
        _open(made.user, range(first, first + FLOWS))
        if _flows(made) >= FLOWS * 0.9:
            break
    assert _flows(made) >= FLOWS * 0.9
    words = ["set", USER_PEER, "--allow", f"{SERVER}:{SERVICE}/tcp"]
    started = time.monotonic()
    made.provider_side.nconnect("peer", *(words if change == "narrower" else ["remove", USER_PEER, "--yes"]))
    took_s = time.monotonic() - started
    assert _flows(made) == 0
    assert took_s < 1.5, "a second, and the start of the command on a machine of two busy cores"
    made.provider_side.config.write_text(before)
    made.provider_side.nconnect("reload")
    until(lambda: reaches(made.user, SERVER, SERVICE), "the server again", timeout_s=30)
