"""Daemons and nodes are started, ended, killed and restarted: the tunnel returns, and nothing is left behind.

user ── node ── provider ── server

Each test has machines of its own.
"""

from __future__ import annotations

import signal
import threading

import pytest

from lab.netns import LabError
from lab.process import until
from lab.snapshot import differences, snapshot
from lab.traffic import SERVICE, connect, download, expected_download, pings, serve
from lab.world import PROVIDER_PEER, SERVER, World
from netns_tests.topology import Provided, provided

MIB = 1 << 20


def left_behind(world: World, before: dict[str, frozenset[str]]) -> list[str]:
    return [
        f"{side.name}: {line}"
        for side in (world.user_side, world.provider_side)
        for line in differences(before[side.name], snapshot(side.namespace))
    ]


def snapshots(world: World) -> dict[str, frozenset[str]]:
    return {side.name: snapshot(side.namespace) for side in (world.user_side, world.provider_side)}


def prepare(world: World) -> dict[str, frozenset[str]]:
    serve(world.server, world, SERVICE)
    world.configure(services=[f"{SERVICE}/tcp"])
    world.node.start()
    return snapshots(world)


@pytest.mark.parametrize("ending", ["down", "SIGINT", "SIGTERM"])
def test_down_leaves_nothing_behind(fresh: World, ending: str) -> None:
    before = prepare(fresh)
    fresh.up()
    assert pings(fresh.user, SERVER)
    assert left_behind(fresh, before), "a running tunnel must be visible to this test"
    for side in (fresh.user_side, fresh.provider_side):
        if ending == "down":
            side.down()
        else:
            assert side.daemon is not None
            side.daemon.signal(getattr(signal, ending))
            assert side.daemon.wait(10) == 0
    assert left_behind(fresh, before) == []
    for side in (fresh.user_side, fresh.provider_side):
        assert not list((side.folder / "run").glob("*.sock"))


def test_up_and_down_after_sigkill_leave_nothing_behind(fresh: World) -> None:
    before = prepare(fresh)
    fresh.up()
    for side in (fresh.user_side, fresh.provider_side):
        assert side.daemon is not None
        side.daemon.kill()
    fresh.up()
    assert pings(fresh.user, SERVER)
    for side in (fresh.user_side, fresh.provider_side):
        side.down()
    assert left_behind(fresh, before) == []


def test_the_tunnel_returns_by_up_after_down(fresh: World) -> None:
    prepare(fresh)
    for _ in range(2):
        fresh.up()
        assert pings(fresh.user, SERVER)
        fresh.user_side.down()
        fresh.provider_side.down()


def test_up_d_returns_when_the_tunnel_is_up(fresh: World) -> None:
    """`up -d` returns once the tunnel is up, and the daemon stays."""
    before = prepare(fresh)
    fresh.provider_side.nconnect("up", "-d")
    fresh.user_side.nconnect("up", "-d")
    fresh.user_side.nconnect("wait", PROVIDER_PEER, "--timeout", "10")
    assert pings(fresh.user, SERVER)
    for side in (fresh.user_side, fresh.provider_side):
        side.nconnect("down")
    until(lambda: left_behind(fresh, before) == [], "both daemons to take all back")


def test_up_d_says_that_there_is_no_link(fresh: World) -> None:
    """Status 1 after 5 s, why, and a daemon that goes on: it is up as soon as there is a node."""
    prepare(fresh)
    fresh.node.stop()
    failed = fresh.user_side.try_nconnect("up", "-d")
    assert failed.returncode == 1
    assert "there is no link to a node (" in failed.stderr
    assert "goes on trying" in failed.stderr
    fresh.node.start()
    fresh.user_side.nconnect("wait", "--timeout", "20")
    fresh.user_side.nconnect("down")
    fresh.node.stop()
    fresh.user_side.nconnect("up", "-d", "--keep-trying")
    assert fresh.user_side.control.is_running()
    fresh.user_side.nconnect("down")


def test_after_one_side_restarted_the_tunnel_goes_on(fresh: World) -> None:
    """The other side accepts the new session by itself."""
    prepare(fresh)
    fresh.up()
    fresh.provider_side.down()
    fresh.provider_side.start()
    fresh.provider_side.wait()
    until(lambda: pings(fresh.user, SERVER), "the way through the restarted provider", timeout_s=20)


def test_a_download_survives_a_restart_of_the_node(fresh: World) -> None:
    """The download waits, goes on by itself, and its checksum is right."""
    size = 256 * MIB
    with provided(fresh) as tunnel:
        digest: list[str] = []
        with connect(fresh.user, SERVER, SERVICE, timeout_s=60) as connection:
            reader = threading.Thread(target=lambda: digest.append(download(connection, size)))
            reader.start()
            _until_received(tunnel, 16 * MIB)
            fresh.node.stop()
            received = fresh.user.counters("nc0")["rx_bytes"]
            assert received < size, "the node must have gone before the download was complete"
            fresh.node.start()
            reader.join(60)
        assert digest == [expected_download(size)]


def _until_received(tunnel: Provided, size: int) -> None:
    until(
        lambda: tunnel.world.user.counters("nc0")["rx_bytes"] > size,
        f"{size} bytes through the tunnel",
        timeout_s=30,
    )


def test_while_the_node_is_gone_status_says_so(fresh: World) -> None:
    prepare(fresh)
    fresh.up()
    fresh.node.stop()
    until(
        lambda: all(link["state"] != "up" for link in fresh.user_side.status()["links"]),
        "the status to tell that the link is down",
    )
    with pytest.raises(LabError):
        fresh.user_side.nconnect("wait", "--timeout", "1")
    fresh.node.start()
    fresh.user_side.nconnect("wait", PROVIDER_PEER, "--timeout", "20")
    fresh.provider_side.nconnect("wait", "--timeout", "20")
    assert pings(fresh.user, SERVER)
