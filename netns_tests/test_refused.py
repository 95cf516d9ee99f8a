"""What must not pass does not: the provider's own ports, the user's device, other sources, other keys.

user 10.86.0.2 ── node ── provider 10.86.0.1 ── server
stranger ────────┘

Port 7000 of the provider is a service; 7001 listens and is none. The stranger is a second installation on the
user's machine that the provider does not know.
"""

from __future__ import annotations

import socket

import pytest

from lab.process import until
from lab.sides import Side
from lab.traffic import SERVICE, pings, reaches, serve
from lab.world import (
    PROVIDER_LAN,
    PROVIDER_PEER,
    PROVIDER_TUNNEL,
    PROVIDER_TUNNEL6,
    SEED_RPC,
    SERVER,
    SERVER6,
    USER_PEER,
    USER_TUNNEL,
    USER_TUNNEL6,
    World,
)
from netns_tests.topology import CLOSED, Provided, provided

BOTH_KINDS = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])


@BOTH_KINDS
@pytest.mark.parametrize("host", [PROVIDER_TUNNEL, PROVIDER_TUNNEL6, PROVIDER_LAN, "fd50::1"])
def test_a_port_of_the_provider_that_is_no_service_is_refused(tunnel: Provided, host: str, kind: int) -> None:
    local = "127.0.0.1" if "." in host else "::1"
    assert reaches(tunnel.world.provider, local, CLOSED, kind), "the server itself must run"
    assert not reaches(tunnel.world.user, host, CLOSED, kind)


@BOTH_KINDS
@pytest.mark.parametrize("host", [USER_TUNNEL, USER_TUNNEL6])
def test_the_provider_cannot_connect_to_the_user(tunnel: Provided, host: str, kind: int) -> None:
    world = tunnel.world
    server = serve(world.user, world, SERVICE)
    try:
        assert reaches(world.user, "127.0.0.1", SERVICE, kind), "the server itself must run"
        assert not reaches(world.provider, host, SERVICE, kind)
    finally:
        server.stop()


def test_the_provider_forwards_to_no_other_network(tunnel: Provided) -> None:
    """The provider does not forward for peers to networks that it does not offer, such as its uplink."""
    user = tunnel.world.user
    user.ip("route add 198.18.0.1/32 dev nc0")
    try:
        assert not pings(user, "198.18.0.1")
    finally:
        user.ip("route del 198.18.0.1/32 dev nc0")


def test_a_spoofed_source_is_dropped_and_counted(tunnel: Provided) -> None:
    world = tunnel.world
    before = world.provider_side.drops("spoofed_source")
    world.user.ip("address add 10.86.0.99/32 dev nc0")
    try:
        assert not pings(world.user, SERVER, "-I", "10.86.0.99")
        assert world.provider_side.drops("spoofed_source") > before
    finally:
        world.user.ip("address del 10.86.0.99/32 dev nc0")
    assert pings(world.user, SERVER), "and the tunnel goes on"


def test_an_unknown_key_gets_nothing(tunnel: Provided) -> None:
    world = tunnel.world
    stranger = Side("stranger", world.user, world.folder / "stranger", interface="nc1")
    stranger.nconnect("init", "--identifier", "stranger", "--address", "10.87.0.2/24", "--seed-rpc", SEED_RPC)
    stranger.nconnect(
        *("peer", "add", PROVIDER_PEER, world.provider_side.address()),
        *("--allowed-ips", "10.87.0.1/32,192.168.60.0/24"),
    )
    before = world.provider_side.drops("unknown_peer")
    try:
        stranger.start()
        stranger.wait()
        assert not pings(world.user, "10.87.0.1")
        until(
            lambda: world.provider_side.drops("unknown_peer") > before,
            "the provider to count the unknown key",
        )
        assert stranger.try_nconnect("wait", PROVIDER_PEER, "--timeout", "1").returncode == 1
        assert stranger.peer()["state"] in ("never", "handshaking")
        assert [peer["name"] for peer in world.provider_side.status()["peers"]] == [USER_PEER]
        stranger.down()
    finally:
        stranger.stop()


def test_allow_narrows_at_once_and_widens_again(fresh: World) -> None:
    with provided(fresh) as tunnel:
        world = tunnel.world
        user, provider = world.user, world.provider_side
        provider.nconnect("peer", "set", USER_PEER, "--allow", f"{SERVER}/32:{SERVICE}/tcp")
        assert reaches(user, SERVER, SERVICE)
        assert not reaches(user, SERVER, CLOSED)
        assert not reaches(user, SERVER, SERVICE, socket.SOCK_DGRAM)
        assert not reaches(user, SERVER6, SERVICE)
        assert not pings(user, SERVER)
        provider.nconnect("peer", "set", USER_PEER, "--allow", "all")
        assert reaches(user, SERVER, CLOSED)
        assert reaches(user, SERVER6, SERVICE)
        provider.nconnect("peer", "remove", USER_PEER)
        assert not pings(user, SERVER)
        assert not reaches(user, SERVER, SERVICE)


def test_inbound_opens_the_users_device(fresh: World) -> None:
    fresh.configure()
    config = fresh.user_side.config
    config.write_text(config.read_text().replace("[interface]\n", "[interface]\ninbound = true\n", 1))
    serve(fresh.user, fresh, SERVICE)
    fresh.node.start()
    fresh.up()
    assert reaches(fresh.provider, USER_TUNNEL, SERVICE)
    assert reaches(fresh.provider, USER_TUNNEL6, SERVICE, socket.SOCK_DGRAM)
