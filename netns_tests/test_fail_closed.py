"""`fail_closed`: what is meant for the tunnel never leaves by another way.

user ── node ── provider ── server; a tap on the user's way to the internet looks for the plain text
"""

from __future__ import annotations

import socket
import time

import pytest

from lab.process import until
from lab.tap import Tap
from lab.world import PROVIDER_PEER, SERVER, WAN_INTERFACE, World
from netns_tests.topology import SERVICE, pings, reaches, serve

SECRET = b"what the tunnel is for"


def prepare(world: World, *, fail_closed: bool) -> None:
    serve(world.server, world, SERVICE)
    world.configure()
    if fail_closed:
        config = world.user_side.config
        config.write_text(config.read_text().replace("[interface]\n", "[interface]\nfail_closed = true\n", 1))
    world.node.start()
    world.up()


def try_to_send(world: World) -> str:
    """Send the secret to the server behind the provider; the error, if the kernel says one."""
    with world.user.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.connect((SERVER, SERVICE))
        error = ""
        for _ in range(3):
            try:
                datagrams.send(SECRET)
            except OSError as refused:
                error = type(refused).__name__
            time.sleep(0.02)
        return error


def rules(world: World) -> str:
    return world.user.run(["nft", "list", "ruleset"]).stdout


@pytest.mark.parametrize("fail_closed", [True, False])
def test_a_killed_daemon(fresh: World, fail_closed: bool) -> None:
    prepare(fresh, fail_closed=fail_closed)
    assert pings(fresh.user, SERVER)
    with Tap(fresh.user, WAN_INTERFACE) as outside:
        assert fresh.user_side.daemon is not None
        fresh.user_side.daemon.kill()
        until(lambda: "nc0" not in fresh.user.ip("link show"), "the device to go")
        error = try_to_send(fresh)
        fresh.user_side.start()
        if fail_closed:  # while it starts, too
            for _ in range(5):
                try_to_send(fresh)
        fresh.user_side.wait(PROVIDER_PEER)
        try_to_send(fresh)
    assert (SECRET in outside.data) is not fail_closed, "without it, this test sees the leak"
    assert bool(error) is fail_closed
    until(lambda: pings(fresh.user, SERVER), "the tunnel to carry again")
    fresh.user_side.down()
    assert "nconnect" not in rules(fresh), "what a person ends is open again"


def test_down_opens_what_a_killed_daemon_left_shut(fresh: World) -> None:
    prepare(fresh, fail_closed=True)
    assert fresh.user_side.daemon is not None
    fresh.user_side.daemon.kill()
    assert "admin-prohibited" in rules(fresh)
    fresh.user_side.nconnect("down")
    assert "nconnect" not in rules(fresh)


def test_an_own_network_of_the_same_addresses_goes_on(fresh: World) -> None:
    """A route that is skipped is not shut either: the LAN is the user's own."""
    fresh.user.ip("link add own0 type veth peer name own1")
    fresh.user.ip("address add 192.168.50.77/24 dev own0")
    fresh.user.ip("link set own1 up")
    fresh.user.ip("link set own0 up")
    prepare(fresh, fail_closed=True)
    assert "192.168.50" not in rules(fresh).partition("set closed4")[2].partition("}")[0]
    assert reaches(fresh.user, "10.86.0.1", SERVICE) is False
    assert pings(fresh.user, "10.86.0.1")


@pytest.mark.parametrize("times", [3, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
def test_reconnects(fresh: World, times: int) -> None:
    prepare(fresh, fail_closed=True)
    with Tap(fresh.user, WAN_INTERFACE) as outside:
        for _ in range(times):
            fresh.node.stop()
            try_to_send(fresh)
            fresh.node.start()
            try_to_send(fresh)
            fresh.user_side.wait(PROVIDER_PEER)
            try_to_send(fresh)
    assert SECRET not in outside.data
    assert outside.data
