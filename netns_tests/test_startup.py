"""In whatever order user, provider and node are started, the tunnel comes up by itself within seconds.

user ── node ── provider ── server

Each test has machines of its own.
"""

from __future__ import annotations

import time

import pytest

from lab.ping import first_reply
from lab.process import until
from lab.traffic import SERVICE, reaches, serve
from lab.world import PROVIDER_PEER, SERVER, World
from netns_tests.recovery import Recovery, table

BOUND_S = 10.0  # mostly for the start of two programs, on a busy machine


@pytest.fixture
def stopped(fresh: World) -> World:
    """Both sides are configured, and nothing runs."""
    serve(fresh.server, fresh, SERVICE)
    fresh.configure()
    return fresh


def answered(world: World, what: str, since: float, bound_s: float = BOUND_S) -> None:
    """The first ping is answered within the bound, and then a connection works."""
    taken_s = first_reply(world.user, SERVER, timeout_s=30) - since
    table.append(Recovery(what, "ping", taken_s, bound_s))
    assert taken_s <= bound_s, f"{what}: answered after {taken_s:.2f} s, not {bound_s:g} s"
    assert reaches(world.user, SERVER, SERVICE)


def test_both_sides_may_start_at_once(stopped: World) -> None:
    stopped.node.start()
    since = time.monotonic()
    stopped.user_side.start()
    stopped.provider_side.start()
    answered(stopped, "both daemons started at once", since)


def test_the_provider_may_start_first(stopped: World) -> None:
    stopped.node.start()
    stopped.provider_side.start()
    stopped.provider_side.wait()
    since = time.monotonic()
    stopped.user_side.start()
    answered(stopped, "user started, provider there", since)


@pytest.mark.parametrize(
    "ahead_s", [0.0, pytest.param(7.0, marks=pytest.mark.slow)], ids=["just-before", "seconds-before"]
)
def test_the_user_may_start_first(stopped: World, ahead_s: float) -> None:
    """Its handshakes reach nobody, and it goes on trying."""
    stopped.node.start()
    stopped.user_side.start()
    stopped.user_side.wait()
    until(lambda: stopped.user_side.peer()["state"] == "handshaking", "an attempt")
    time.sleep(ahead_s)  # longer than the pause between two attempts
    since = time.monotonic()
    stopped.provider_side.start()
    answered(stopped, "provider started, user there", since)


def test_both_sides_may_start_before_the_node(stopped: World) -> None:
    for side in (stopped.user_side, stopped.provider_side):
        daemon = side.start("--keep-trying")
        until(
            lambda daemon=daemon: "no link to a node" in daemon.text(), "an attempt to fail", process=daemon
        )
        until(side.listens, "the control socket", process=daemon)
        assert all(link["state"] != "up" for link in side.status()["links"])
        assert "no link to a node" in "\n".join(side.status()["problems"])
    stopped.node.start()
    since = time.monotonic()
    answered(stopped, "node started, both daemons there", since, bound_s=3)
    stopped.user_side.wait(PROVIDER_PEER)
    assert stopped.user_side.status()["problems"] == []


def test_without_a_node_plain_up_gives_up_and_says_so(stopped: World) -> None:
    """A person who starts it by hand is told, and nothing stays."""
    daemon = stopped.user_side.start()
    assert daemon.wait(30) == 1
    assert "--keep-trying" in daemon.text()
    assert "nc0" not in stopped.user.ip("link show")
