"""With `fail_closed` no packet for the tunnel's prefixes leaves the machine outside the tunnel.

user ── node ── provider ── server

A tap on the user's uplink (wan0) searches what passes there for the plain text of the packets.
"""

from __future__ import annotations

import socket
import sys
import time

import pytest

from lab.netns import Namespace, cable
from lab.process import until
from lab.tap import Tap
from lab.traffic import SERVICE, pings, reaches, serve
from lab.world import (
    LAN,
    NODE_HOST,
    PROVIDER_PEER,
    PROVIDER_TUNNEL,
    SEED_RPC,
    SERVER,
    WAN_INTERFACE,
    World,
)

SECRET = b"what the tunnel is for"


def prepare(world: World, *, fail_closed: bool, configure: bool = True) -> None:
    serve(world.server, world, SERVICE)
    if configure:
        world.configure()
    if fail_closed:
        config = world.user_side.config
        config.write_text(config.read_text().replace("[interface]\n", "[interface]\nfail_closed = true\n", 1))
    world.node.start()
    world.up()


def try_to_send(world: World) -> str:
    """Send the secret to the server behind the provider; return the kernel's error, if there is one."""
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
def test_nothing_leaks_after_the_daemon_was_killed(fresh: World, fail_closed: bool) -> None:
    prepare(fresh, fail_closed=fail_closed)
    assert pings(fresh.user, SERVER)
    with Tap(fresh.user, WAN_INTERFACE) as outside:
        assert fresh.user_side.daemon is not None
        fresh.user_side.daemon.kill()
        until(lambda: "nc0" not in fresh.user.ip("link show"), "the device to go")
        error = try_to_send(fresh)
        fresh.user_side.start()
        if fail_closed:  # also while the daemon starts
            for _ in range(5):
                try_to_send(fresh)
        fresh.user_side.wait(PROVIDER_PEER)
        try_to_send(fresh)
    assert (SECRET in outside.data) is not fail_closed, "without it, this test sees the leak"
    assert bool(error) is fail_closed
    until(lambda: pings(fresh.user, SERVER), "the tunnel to carry again")
    fresh.user_side.down()
    assert "nconnect" not in rules(fresh), "what a person ends is open again"


def test_down_removes_the_block_that_a_killed_daemon_left(fresh: World) -> None:
    prepare(fresh, fail_closed=True)
    assert fresh.user_side.daemon is not None
    fresh.user_side.daemon.kill()
    assert "admin-prohibited" in rules(fresh)
    fresh.user_side.nconnect("down")
    assert "nconnect" not in rules(fresh)


def come_home(user: Namespace) -> None:
    """Connect the user to a network with the provider's addresses, and a neighbour with the server's."""
    user.ip("link add own0 type veth peer name own1")
    user.ip("address add 192.168.50.77/24 dev own0")
    user.ip("link set own1 up")
    user.ip("link set own0 up")


def shut(world: World) -> list[str]:
    return [problem for problem in world.user_side.status()["problems"] if "shut off" in problem]


@pytest.mark.parametrize("fail_closed", [True, False])
def test_a_local_network_of_the_same_addresses_gets_nothing_of_the_tunnels(
    fresh: World, fail_closed: bool
) -> None:
    """Without `fail_closed` the neighbours are reached and the tunnel is not; with it neither is."""
    come_home(fresh.user)
    prepare(fresh, fail_closed=fail_closed)
    with Tap(fresh.user, "own0") as own:
        error = try_to_send(fresh)
    assert bool(error) is fail_closed
    assert b"\x08\x06" in own.data or fail_closed, "open, the neighbour is looked for"
    assert len(shut(fresh)) == fail_closed
    assert reaches(fresh.user, "10.86.0.1", SERVICE) is False
    assert pings(fresh.user, "10.86.0.1")


def test_a_network_of_a_hostile_dhcp_server_gets_nothing_of_the_tunnels(fresh: World) -> None:
    """It has the provider's addresses and is the only uplink. The tunnel goes on through its gateway."""
    user, internet = fresh.user, fresh.internet
    prepare(fresh, fail_closed=True)
    cable(user, "cafe0", ["192.168.50.77/24"], internet, "cafe", ["192.168.50.1/24"])
    server = serve(internet, fresh, SERVICE + 2)
    with Tap(user, "cafe0") as cafe:
        user.ip(f"link set {WAN_INTERFACE} down")
        user.ip("route add default via 192.168.50.1 dev cafe0")
        until(lambda: shut(fresh), "the problem")
        assert "cafe0" in shut(fresh)[0]
        fresh.user_side.wait(PROVIDER_PEER)
        until(lambda: pings(user, PROVIDER_TUNNEL), "the tunnel through the new gateway", timeout_s=15)
        assert try_to_send(fresh), "a program is told at once"
        assert pings(user, "192.168.50.1"), "the gateway"
        assert not reaches(user, "192.168.50.1", SERVICE + 2), "and nothing else of it"
        with user.socket(socket.AF_INET, socket.SOCK_DGRAM) as dhcp:
            dhcp.bind(("0.0.0.0", 68))
            dhcp.sendto(b"renew", ("192.168.50.1", 67))
            with pytest.raises(OSError, match=r"nreachable|not permitted"):
                dhcp.sendto(SECRET, ("192.168.50.1", 68))
    assert SECRET not in cafe.data
    assert b"renew" in cafe.data
    server.stop()
    # After the user has left that network everything is as before.
    user.ip("link delete cafe0")
    user.ip(f"link set {WAN_INTERFACE} up")
    user.ip("route add default via 198.51.100.1")
    until(lambda: not shut(fresh), "the end of the problem")
    until(lambda: pings(user, SERVER), "the server", timeout_s=15)


@pytest.mark.parametrize("fail_closed", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_node_that_a_seed_names_inside_a_prefix_is_refused(fresh: World, fail_closed: bool) -> None:
    """The link asks the next seed, the prefix stays routed into the tunnel, and `problems` names the node."""
    command = [sys.executable, "-m", "lab.lying_seed", "30005", f"{SERVER}:30002"]
    liar = fresh.run_in(fresh.internet, command, "liar")
    until(lambda: "serving" in liar.text(), "the lying seed", process=liar)
    fresh.configure()
    config = fresh.user_side.config
    seeds = f'seed_rpc = ["http://{NODE_HOST}:30005", "{SEED_RPC}"]'
    config.write_text(config.read_text().replace(f'seed_rpc = ["{SEED_RPC}"]', seeds))
    assert "30005" in config.read_text()
    with Tap(fresh.user, WAN_INTERFACE) as outside:
        prepare(fresh, fail_closed=fail_closed, configure=False)
        assert "asked" in liar.text()
        assert f"{SERVER}:30002 was refused" in " ".join(fresh.user_side.status()["problems"])
        assert LAN in fresh.user_side.status()["routes"]
        assert pings(fresh.user, SERVER)
        # Also when the honest seed is gone.
        fresh.node.stop()
        try_to_send(fresh)
        asked = liar.text().count("asked")
        until(lambda: liar.text().count("asked") > asked, "the link to ask again", timeout_s=15)
        try_to_send(fresh)
        fresh.node.start()
        fresh.user_side.wait(PROVIDER_PEER)
        until(lambda: pings(fresh.user, SERVER), "the tunnel", timeout_s=15)
        try_to_send(fresh)
    assert SECRET not in outside.data
    assert socket.inet_aton(SERVER) not in outside.data, "no packet, to whichever port"


def test_a_seed_that_the_configuration_names_inside_a_prefix_is_reached_by_the_daemon_alone(
    fresh: World,
) -> None:
    user, side = fresh.user, fresh.user_side
    prepare(fresh, fail_closed=True)
    wanted = f"{PROVIDER_TUNNEL}/32,{LAN},192.0.2.0/24"
    side.nconnect("peer", "set", PROVIDER_PEER, "--allowed-ips", wanted)
    assert "192.0.2.0/24" in side.status()["routes"]
    assert side.status()["skipped_routes"] == []
    assert WAN_INTERFACE in user.ip(f"route get {NODE_HOST}")
    assert "nc0" in user.ip("route get 192.0.2.2")
    assert pings(user, SERVER)

    def another_user_reaches(port: int) -> bool:
        probe = f"import socket; socket.create_connection(('{NODE_HOST}', {port}), 2)"
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", probe]
        return user.run(command).returncode == 0

    assert not another_user_reaches(30003)
    # After a change of network the daemon reaches it by the new way; after a crash others still do not.
    user.ip("address add 198.51.100.3/24 dev wan0")
    user.ip("route del default")
    user.ip("route add default via 198.51.100.1 src 198.51.100.3")
    fresh.node.stop()
    fresh.node.start()
    side.wait(PROVIDER_PEER)
    until(lambda: pings(user, SERVER), "the tunnel", timeout_s=15)
    assert side.daemon is not None
    side.daemon.kill()
    until(lambda: "nc0" not in user.ip("link show"), "the device to go")
    assert not another_user_reaches(30003)
    side.start()
    side.wait(PROVIDER_PEER)
    assert pings(user, SERVER)
    side.down()
    assert "proto 0x6e" not in user.ip("route show")
    assert "proto 110" not in user.ip("route show")
    assert another_user_reaches(30003), "the probe can succeed"


@pytest.mark.parametrize("times", [3, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
def test_nothing_leaks_while_the_node_restarts(fresh: World, times: int) -> None:
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
