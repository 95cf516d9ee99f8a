"""A change of rights ends 20,000 running flows within a second, and the number of a peer's flows is bounded.

user 10.86.0.2 ── node ── provider ── server

`pytest -s` prints what was measured.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from lab.netns import Namespace
from lab.process import until
from lab.sides import Side
from lab.traffic import SERVICE, reaches
from lab.world import SERVER, USER_PEER, USER_TUNNEL, World, world
from netns_tests.topology import provided

FLOWS = 20_000
FEW = 50
SLOWEST_S = 0.25  # 50 ms is asked of a quiet machine


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world("ncmany") as built, provided(built):
        yield built


def _bound(made: World, flows: int) -> None:
    """Set the user's `max_flows` at the provider."""
    file = made.provider_side.config
    lines = [line for line in file.read_text().splitlines() if not line.startswith("max_flows")]
    lines.insert(lines.index(f'name = "{USER_PEER}"') + 1, f"max_flows = {flows}")
    file.write_text("\n".join(lines) + "\n")
    made.provider_side.nconnect("reload")


def _open(namespace: Namespace, ports: range) -> None:
    """Send a datagram to each of the server's ports: each is a flow, half-open."""
    with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        for number, port in enumerate(ports):
            try:
                datagrams.sendto(b"?", (SERVER, port))
            except OSError:
                pass  # an ICMP error about an earlier datagram
            if number % 200 == 199:
                time.sleep(0.01)  # a datagram that the bounded queue of the peer drops opens no flow


def _flows(made: World) -> int:
    listed = made.provider.run(["conntrack", "-L", "-f", "ipv4", "-p", "udp", "--orig-src", USER_TUNNEL])
    return len([line for line in listed.stdout.splitlines() if line.startswith("udp")])


def test_one_flow_above_the_bound_is_refused_at_once_and_counted(made: World) -> None:
    _bound(made, FEW)
    _open(made.user, range(20_000, 20_000 + FEW))
    until(lambda: _flows(made) == FEW, "as many flows as it may have")
    with made.user.socket(socket.AF_INET, socket.SOCK_STREAM) as one_more:
        one_more.settimeout(5)
        with pytest.raises(ConnectionRefusedError):
            one_more.connect((SERVER, SERVICE))
    until(lambda: made.provider_side.drops("flow_limit") > 0, "the count")
    assert made.provider_side.drops("refused") == 0, "it is allowed"
    _open(made.user, range(21_000, 21_000 + 4 * FEW))
    assert _flows(made) == FEW


def test_flows_that_end_make_room(made: World) -> None:
    made.provider.run(["conntrack", "-D", "-f", "ipv4", "-p", "udp", "--orig-src", USER_TUNNEL])
    until(lambda: reaches(made.user, SERVER, SERVICE), "the server, once the end of the flows was seen")


class _Answers:
    """Asks a daemon something small every 5 ms while the block runs: how long its loop was blocked."""

    def __init__(self, side: Side) -> None:
        self.slowest_s = 0.0
        self._control = side.control
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> _Answers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._end.wait(0.005):
            began = time.monotonic()
            self._control.pending()
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)


@pytest.mark.parametrize("change", ["narrower", "removed"])
def test_a_change_ends_twenty_thousand_flows_within_a_second(made: World, change: str) -> None:
    _bound(made, 2 * FLOWS)
    before = made.provider_side.config.read_text()
    first = 21_000 if change == "narrower" else 42_000
    for _ in range(5):
        _open(made.user, range(first, first + FLOWS))
        if _flows(made) >= FLOWS * 0.9:
            break
    assert _flows(made) >= FLOWS * 0.9
    words = ["set", USER_PEER, "--allow", f"{SERVER}:{SERVICE}/tcp"]
    daemon = made.provider_side.daemon
    assert daemon is not None
    before_s, began = daemon.cpu_s(), time.monotonic()
    with _Answers(made.provider_side) as answers:
        made.provider_side.nconnect(
            "peer", *(words if change == "narrower" else ["remove", USER_PEER, "--yes"])
        )
        took_s = time.monotonic() - began
    assert _flows(made) == 0, "all have ended when the command has"
    used_s = daemon.cpu_s() - before_s
    print(
        f"\n{FLOWS} flows, {change}: over {took_s:.2f} s after the command's start, {used_s:.2f} s of"
        f" processor time, the daemon answers within {answers.slowest_s * 1e3:.0f} ms"
    )
    assert used_s < 1, "a second on a machine with nothing else to do"
    assert answers.slowest_s < SLOWEST_S
    made.provider_side.config.write_text(before)
    made.provider_side.nconnect("reload")
    until(lambda: reaches(made.user, SERVER, SERVICE), "the server again", timeout_s=30)
