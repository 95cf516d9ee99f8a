"""On a path that loses, doubles and reorders, flows go on, pauses are bounded, and a download is right.

user ── wire ── internet (node) ── provider ── server

The wire does it to packets below a link; a special node does it to the messages that it relays. The flows are
TCP and UDP, with a question every 50 ms.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

import pytest

from lab.flows import Flow, Tcp, Udp
from lab.process import Process, until
from lab.traffic import SERVICE, connect, download, expected_download
from lab.wire import Action, Fault, Wire, splice
from lab.world import PROVIDER_PEER, SERVER, WAN_INTERFACE, World, world
from netns_tests.recovery import Recovery, table
from netns_tests.topology import start

DOWNLOAD_BYTES = 1 << 20
ANSWERS = 40  # that each flow must get while the fault lasts; without a fault they take two seconds
EVERY = 10


@dataclass
class Lossy:
    """The world of all tests. The daemons run from the first test on, and each test makes its own fault."""

    world: World
    wire: Wire
    node: Process | None = None


@pytest.fixture(scope="module")
def _lossy() -> Iterator[Lossy]:
    with ExitStack() as undo:
        made = undo.enter_context(world("nclossy"))
        wire = splice(
            undo,
            (made.user, WAN_INTERFACE, ["198.51.100.2/24"]),
            (made.internet, "user", ["198.51.100.1/24"]),
            made.user.name.replace("-user", "-wire"),
        )
        made.user.ip("route add default via 198.51.100.1")
        start(made)
        yield Lossy(made, wire)


@pytest.fixture
def lossy(_lossy: Lossy) -> Iterator[Lossy]:
    yield _lossy
    _lossy.wire.fault = None
    if _lossy.node is not None:
        _lossy.node.stop()
        _lossy.node = None
        _lossy.world.node.start()
    _lossy.world.user_side.wait(PROVIDER_PEER, timeout_s=30)


def longest_gap_s(flow: Flow, since: float) -> float:
    times = [since, *(at for at in flow.answers if at > since), time.monotonic()]
    return max(after - before for before, after in pairwise(times))


def goes_on(flow: Flow, since: float) -> None:
    until(
        lambda: flow.failure or sum(at > since for at in flow.answers) >= ANSWERS,
        f"{ANSWERS} answers to the {flow.name} flow",
        timeout_s=90,
    )
    assert not flow.failure, flow.failure


def endure(made: World, what: str, bound_s: float) -> None:
    """During the fault: the download is right, the flows go on, and no pause is longer than the bound."""
    with Tcp(made.user, SERVER) as tcp, Udp(made.user, SERVER) as udp:
        since = time.monotonic()
        with connect(made.user, SERVER, SERVICE, timeout_s=60) as connection:
            assert download(connection, DOWNLOAD_BYTES) == expected_download(DOWNLOAD_BYTES)
        for flow in (udp, tcp):
            goes_on(flow, since)
            gap_s = longest_gap_s(flow, since)
            table.append(Recovery(f"{what}: the longest pause", flow.name, gap_s, bound_s))
            assert gap_s <= bound_s, f"{what}: {flow.name} paused for {gap_s:.2f} s"


FRAME_FAULTS = [
    (Fault(Action.DROP, share=0.05), 3.0),
    (Fault(Action.DROP, share=0.2), 26.0),  # lost six times in a row, a segment waits 12.6 s (RFC 6298)
    (Fault(Action.DROP, every=EVERY), 3.0),
    (Fault(Action.DUPLICATE, every=EVERY), 2.0),
    (Fault(Action.REORDER, every=EVERY), 2.0),
]


# The worst of each kind is in every run, the others are slow tests.
USUAL = (FRAME_FAULTS[1], FRAME_FAULTS[4])


@pytest.mark.parametrize(
    ("fault", "bound_s"),
    [pytest.param(*each, marks=() if each in USUAL else pytest.mark.slow) for each in FRAME_FAULTS],
    ids=[str(fault).replace(" ", "-") for fault, _ in FRAME_FAULTS],
)
def test_flows_survive_loss_and_reordering_below_a_link(lossy: Lossy, fault: Fault, bound_s: float) -> None:
    daemon = lossy.world.user_side.daemon
    assert daemon is not None
    before = len(daemon.text())
    lossy.wire.fired.clear()
    lossy.wire.fault = fault
    endure(lossy.world, str(fault), bound_s)
    assert lossy.wire.fired[fault.action] >= 10
    if fault.share < 0.2:
        assert "no link" not in daemon.text()[before:], "the link is alive, and was not given up"


@pytest.mark.parametrize(
    "action",
    [Action.DROP, pytest.param(Action.DUPLICATE, marks=pytest.mark.slow), Action.REORDER],
    ids=lambda action: action.value,
)
def test_flows_survive_a_node_that_loses_and_reorders(lossy: Lossy, action: Action) -> None:
    made = lossy.world
    made.node.stop()
    command = [sys.executable, "-m", "lab.faulty_node", action.value, str(EVERY)]
    node = lossy.node = made.run_in(made.internet, command, f"faulty-{action.value}")
    until(lambda: "listening" in node.text(), "the node", process=node)
    for side in (made.user_side, made.provider_side):
        side.wait(timeout_s=30)
    made.user_side.wait(PROVIDER_PEER, timeout_s=30)
    replayed = [side.drops("replayed") for side in (made.user_side, made.provider_side)]
    endure(made, f"every {EVERY}th message {action.value}", 5.0)
    assert node.text().count(action.value) >= 10
    if action is Action.DUPLICATE:
        after = [side.drops("replayed") for side in (made.user_side, made.provider_side)]
        assert all(now > then for now, then in zip(after, replayed, strict=True)), (
            "each once, the rest counted"
        )
