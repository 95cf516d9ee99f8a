"""A user's own network works whatever routes the configuration asks for; status says what is skipped and why.

    neighbour ─── user ─── internet (node) ─── provider ─── server
    192.168.50.10 home0 192.168.50.77          10.86.0.1    192.168.50.10 as well

Skipped are routes to the user's own network, over its gateway, and to a prefix of another peer.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lab.netns import Namespace, cable, namespaces
from lab.process import until
from lab.sides import Side
from lab.traffic import SERVICE, connect, pings, reaches, serve
from lab.world import (
    LAN,
    PROVIDER_LAN,
    PROVIDER_PEER,
    PROVIDER_TUNNEL,
    SEED_RPC,
    SERVER,
    USER_PEER,
    WAN_INTERFACE,
    World,
)
from nconnect.crypto.keys import Identity
from nconnect.model import NknAddress
from netns_tests.recovery import Recovery, table

AT_HOME = "192.168.50.77"
OTHER = str(NknAddress("other", Identity(b"o" * 32).public_key))  # no machine has it


@pytest.fixture
def running(shared: World) -> Iterator[World]:
    """The daemons run from the first test on. Each test begins with the user's first configuration."""
    side = shared.user_side
    text = side.config.read_text()
    yield shared
    side.config.write_text(text)
    side.nconnect("reload")


@pytest.fixture
def neighbour(running: World) -> Iterator[Namespace]:
    """A machine at the user's home. `come_home` connects its cable to the user's machine."""
    with ExitStack() as undo:
        (made,) = namespaces(undo, "nchome", "neighbour")
        cable(made, "eth0", [f"{SERVER}/24"], running.user, "home0", [])
        running.user.ip("link set home0 down")
        server = serve(made, running, SERVICE)
        yield made
        server.stop()


def come_home(user: Namespace) -> None:
    user.ip("link set home0 up")
    user.ip(f"address add {AT_HOME}/24 dev home0")


def skipped(world: World) -> dict[str, str]:
    """(route, reason) of the skipped routes in `status --json`; the text of `status` must have them too."""
    found = {entry["route"]: entry["why"] for entry in world.user_side.status()["skipped_routes"]}
    text = world.user_side.nconnect("status")
    assert all(route in text for route in found)
    return found


def accept(world: World, *prefixes: str) -> None:
    wanted = ",".join((f"{PROVIDER_TUNNEL}/32", *prefixes))
    world.user_side.nconnect("peer", "set", PROVIDER_PEER, "--allowed-ips", wanted)


def seen_by(world: World) -> str:
    """The address as which the machine at SERVER sees the user; "" when none answers."""
    try:
        with connect(world.user, SERVER, SERVICE, timeout_s=0.5) as connection:
            connection.sendall(b"whoami\n")
            return connection.recv(100).decode()
    except OSError:
        return ""


def test_a_home_that_equals_the_route_wins_when_the_user_comes_and_loses_when_it_goes(
    running: World, neighbour: Namespace
) -> None:
    assert seen_by(running) == PROVIDER_LAN, "away from home it is the provider's server"
    come_home(running.user)
    since = time.monotonic()
    until(lambda: seen_by(running) == AT_HOME, "the neighbour", timeout_s=5)
    table.append(
        Recovery("another network, which the provider also offers", "TCP", time.monotonic() - since, 3)
    )
    until(lambda: skipped(running).get(LAN, "").startswith("it equals the network of home0"), "the reason")
    assert table[-1].seconds <= table[-1].bound_s
    assert pings(running.user, PROVIDER_TUNNEL), "the rest of the tunnel stays"
    running.user.ip("link set home0 down")
    running.user.ip(f"address del {AT_HOME}/24 dev home0")
    since = time.monotonic()
    until(lambda: seen_by(running) == PROVIDER_LAN, "the provider's server again", timeout_s=5)
    table.append(Recovery("user leaves it again", "TCP", time.monotonic() - since, 3))
    assert table[-1].seconds <= table[-1].bound_s
    until(lambda: skipped(running) == {}, "the status")


def test_a_route_into_the_users_own_network_is_skipped(running: World, neighbour: Namespace) -> None:
    come_home(running.user)
    for prefix, why in (
        (LAN, "it equals the network of home0"),
        ("192.168.48.0/20", ""),  # routed, and the longer prefix of home0 wins
        (f"{SERVER}/32", f"it holds the neighbour {SERVER} in the network {LAN} of home0"),
        (f"{AT_HOME}/32", f"{AT_HOME} is an address of this machine (home0)"),
    ):
        accept(running, prefix)
        if why:
            assert skipped(running)[prefix].startswith(why)
        else:
            assert skipped(running)[LAN].startswith("it is the network of home0, and only the rest")
            assert "nc0" in running.user.ip("route get 192.168.49.1")
        assert seen_by(running) == AT_HOME
        assert "home0" in running.user.ip(f"route get {SERVER}")
        assert pings(running.user, PROVIDER_TUNNEL)


def test_a_route_over_the_gateway_is_skipped(fresh: World) -> None:
    """As on many rented machines: a single address, with the gateway outside of it."""
    running, user = fresh, fresh.user
    running.configure()
    running.node.start()
    running.up()
    user.ip(f"address del 198.51.100.2/24 dev {WAN_INTERFACE}")
    user.ip(f"address add 198.51.100.2/32 dev {WAN_INTERFACE}")
    user.ip(f"route add default via 198.51.100.1 dev {WAN_INTERFACE} onlink")
    accept(running, "198.51.100.0/24", "192.0.2.0/24", "203.0.113.0/24")
    assert skipped(running) == {
        "198.51.100.0/24": f"it holds the gateway 198.51.100.1 of {WAN_INTERFACE}",
    }
    assert "nc0" in user.ip("route get 203.0.113.9"), "what is harmless is routed"
    assert "nc0" in user.ip("route get 192.0.2.9"), "and what holds the node, but for that"
    assert "via 198.51.100.1" in user.ip("route get 192.0.2.1")
    until(lambda: pings(user, PROVIDER_TUNNEL), "the tunnel, which needs both", timeout_s=15)
    assert pings(user, "192.0.2.1"), "the world outside"


def test_a_prefix_of_another_peer_is_refused_and_one_inside_it_is_not(running: World) -> None:
    """The command refuses it. A file that was edited by hand is not applied, and `status` says so."""
    side = running.user_side
    done = side.try_nconnect("peer", "add", "other", OTHER, "--allowed-ips", LAN)
    assert done.returncode == 2
    assert f"{LAN} also belongs to peer {PROVIDER_PEER!r}" in " ".join(done.stderr.split())
    assert [peer["name"] for peer in side.status()["peers"]] == [PROVIDER_PEER]

    good = side.config.read_text()
    side.config.write_text(
        f'{good}\n[[peer]]\nname = "other"\naddress = "{OTHER}"\nallowed_ips = ["{LAN}"]\n'
    )
    assert side.daemon is not None
    side.daemon.signal(signal.SIGHUP)
    until(lambda: "is not applied" in "".join(side.status()["problems"]), "status to say so")
    assert "also belongs to peer" in side.nconnect("status")
    assert reaches(running.user, SERVER, SERVICE), "all goes on as before"

    side.config.write_text(good)
    side.daemon.signal(signal.SIGHUP)
    until(lambda: "is not applied" not in "".join(side.status()["problems"]), "the end of it")
    # A prefix inside another one leads to its own peer, as in every routing table.
    side.nconnect("peer", "add", "other", OTHER, "--allowed-ips", "192.168.50.128/25")
    assert reaches(running.user, SERVER, SERVICE)
    assert skipped(running) == {}
    assert not pings(running.user, "192.168.50.130"), "nobody is there to answer"


def test_a_second_tunnel_takes_nothing_from_the_first(running: World) -> None:
    """Two interfaces of a machine want the same subnet: the first one keeps it."""
    second = Side("second-tunnel", running.user, running.folder / "second-tunnel", interface="nc1")
    second.env["NCONNECT_RUN_DIR"] = running.user_side.env["NCONNECT_RUN_DIR"]
    try:
        second.nconnect(
            "init", "--identifier", USER_PEER, "--address", "10.87.0.2/24", "--seed-rpc", SEED_RPC
        )
        second.nconnect("peer", "add", "other", OTHER, "--allowed-ips", f"10.87.0.1/32,{LAN}")
        second.start()
        sock = running.user_side.folder / "run" / "nc1.sock"
        until(sock.exists, "the second daemon", process=second.daemon)
        second.nconnect("wait", "--timeout", "10")
        (entry,) = second.status()["skipped_routes"]
        assert entry["route"] == LAN
        assert entry["why"].startswith("it is routed through nc0 already")
        assert reaches(running.user, SERVER, SERVICE)
    finally:
        second.stop()
    assert reaches(running.user, SERVER, SERVICE)
