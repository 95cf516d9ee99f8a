"""When the only node that the network names cannot be reached, a link finds another one by another identity.

user ──── internet ──── provider
          192.0.2.1     a node, and the seed
          192.0.2.9     the node that the seed names for both sides: silent, or no node at all

Both sides have one link.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator

import pytest

from lab.ping import round_trips
from lab.process import Process, until
from lab.world import NODE_HOST, PROVIDER_PEER, PROVIDER_TUNNEL, World, world

DEAD_HOST = "192.0.2.9"
SILENT = f"add table inet lab; add chain inet lab in {{ type filter hook input priority 0; }}; \
add rule inet lab in ip daddr {DEAD_HOST} drop"


@pytest.fixture(params=["silent", "refusing"])
def dead(request: pytest.FixtureRequest) -> Iterator[tuple[World, Process]]:
    with world("ncdead") as made:
        made.internet.ip(f"address add {DEAD_HOST}/32 dev lo")
        if request.param == "silent":
            assert not made.internet.run(["nft", SILENT]).returncode
        else:
            assert not made.internet.run(["nft", SILENT.replace("drop", "reject with tcp reset")]).returncode
        node = made.run_in(made.internet, [sys.executable, "-m", "netns_tests.naming", DEAD_HOST], "naming")
        until(lambda: "serving" in node.text(), "the node", process=node)
        made.configure()
        yield made, node


def states(made: World) -> list[list[str]]:
    return [
        [link["state"] for link in side.status()["links"]] for side in (made.user_side, made.provider_side)
    ]


def test_another_identity_is_used_until_the_node_can_be_reached(dead: tuple[World, Process]) -> None:
    made, node = dead
    for side, peer in ((made.provider_side, None), (made.user_side, PROVIDER_PEER)):
        began = time.monotonic()
        side.start()  # without --keep-trying
        side.wait(peer)
        took = time.monotonic() - began
        print(f"{side.name}: {took:.2f} s")
        assert took < 5
    assert round_trips(made.user, PROVIDER_TUNNEL, count=3, interval_s=0.05).p50_ms < 1000
    assert all(link[0] != "up" and link[-1] == "up" for link in states(made))
    node.signal(signal.SIGUSR1)
    until(lambda: states(made) == [["up"], ["up"]], "both links", timeout_s=20, process=node)
    assert round_trips(made.user, PROVIDER_TUNNEL, count=3, interval_s=0.05).p50_ms < 1000
    assert made.user_side.status()["links"][0]["node"].startswith(NODE_HOST)
