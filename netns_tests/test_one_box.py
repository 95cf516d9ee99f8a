"""A GPU box without a subnet serves its services and nothing else; it may also run the node itself.

user 10.86.0.2, fd86::2 ── node ── provider 10.86.0.1, fd86::1

Port 7000 of the provider is a service; 7001 listens and is none.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator

import pytest

from lab.netns import LabError
from lab.process import until
from lab.snapshot import differences, snapshot
from lab.traffic import SERVICE, pings, reaches, serve, tcp_echo, udp_echo
from lab.world import (
    LAN,
    PROVIDER_LAN,
    PROVIDER_PEER,
    PROVIDER_TUNNEL,
    PROVIDER_TUNNEL6,
    SEED_RPC,
    SERVER,
    USER_PEER,
    USER_TUNNEL,
    USER_TUNNEL6,
    World,
    world,
)
from netns_tests.topology import CLOSED

MIB = 1 << 20
BOX = "203.0.113.2"  # the provider's address on the way to the internet
BOX_HOSTS = pytest.mark.parametrize("host", [PROVIDER_TUNNEL, PROVIDER_TUNNEL6])


def configure(made: World, seed: str, *more: str) -> None:
    """Configure both sides. The provider offers services and no subnet."""
    provider, user = made.provider_side, made.user_side
    provider.nconnect(
        *("init", "--identifier", PROVIDER_PEER, "--address", f"{PROVIDER_TUNNEL}/24,{PROVIDER_TUNNEL6}/64"),
        *("--service", f"{SERVICE}/tcp", "--service", f"{SERVICE}/udp", *more),
    )
    user.nconnect(
        *("init", "--identifier", USER_PEER, "--address", f"{USER_TUNNEL}/24,{USER_TUNNEL6}/64"),
        *("--seed-rpc", seed),
    )
    provider.nconnect(
        *("peer", "add", USER_PEER, user.address(), "--allowed-ips", f"{USER_TUNNEL}/32,{USER_TUNNEL6}/128")
    )
    user.nconnect(
        *("peer", "add", PROVIDER_PEER, provider.address()),
        *("--allowed-ips", f"{PROVIDER_TUNNEL}/32,{PROVIDER_TUNNEL6}/128,{LAN}"),
    )


@pytest.fixture(scope="module")
def box() -> Iterator[World]:
    """Both sides are up. The user routes the provider's LAN into the tunnel, although it is not offered."""
    with world("ncbox") as made:
        serve(made.server, made, SERVICE)
        serve(made.provider, made, SERVICE, CLOSED)
        configure(made, SEED_RPC, "--seed-rpc", SEED_RPC)
        made.node.start()
        made.up()
        yield made


@BOX_HOSTS
def test_its_services_are_reached(box: World, host: str) -> None:
    assert pings(box.user, host)
    data = os.urandom(MIB)
    assert tcp_echo(box.user, host, SERVICE, data) == data
    assert udp_echo(box.user, host, SERVICE, data[:9000]) == data[:9000]


@BOX_HOSTS
def test_nothing_else_of_it_is_reached(box: World, host: str) -> None:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        assert not reaches(box.user, host, CLOSED, kind)


def test_nothing_behind_it_is_reached(box: World) -> None:
    assert reaches(box.provider, SERVER, SERVICE), "the server itself must run"
    assert not reaches(box.user, SERVER, SERVICE)
    assert not pings(box.user, SERVER)
    assert not reaches(box.user, PROVIDER_LAN, CLOSED)


def test_it_does_not_become_a_router(box: World) -> None:
    """Without subnets nothing is forwarded, so forwarding stays off."""
    assert box.provider.sysctl("net.ipv4.ip_forward") == "0"
    assert box.provider.sysctl("net.ipv6.conf.all.forwarding") == "0"
    assert box.provider_side.status()["routes"] == []


def test_a_tunnel_over_a_node_inside_the_daemon_returns_after_a_restart(fresh: World) -> None:
    """The provider's own machine is the user's seed and node."""
    serve(fresh.provider, fresh, SERVICE)
    configure(fresh, f"http://{BOX}:30003")
    config = fresh.provider_side.config
    config.write_text(f'{config.read_text()}\n[node]\nlisten = "0.0.0.0"\nverify_signatures = true\n')
    fresh.internet.sysctl("net.ipv4.ip_forward", "1")  # here the user can reach the provider
    before = [snapshot(side.namespace) for side in (fresh.user_side, fresh.provider_side)]
    fresh.up()
    assert [link["node"] for link in fresh.user_side.status()["links"]] == [f"{BOX}:30002"]
    assert [link["node"] for link in fresh.provider_side.status()["links"]] == ["127.0.0.1:30002"]
    data = os.urandom(MIB)
    assert tcp_echo(fresh.user, PROVIDER_TUNNEL, SERVICE, data) == data
    assert pings(fresh.user, PROVIDER_TUNNEL6)

    fresh.provider_side.down()
    until(lambda: fresh.user_side.status()["links"][0]["state"] != "up", "the user to notice that it is gone")
    with pytest.raises(LabError):
        fresh.user_side.nconnect("wait", "--timeout", "0.5")
    fresh.provider_side.start()
    fresh.user_side.nconnect("wait", PROVIDER_PEER, "--timeout", "20")
    assert pings(fresh.user, PROVIDER_TUNNEL)
    for side in (fresh.user_side, fresh.provider_side):
        side.down()
    after = [snapshot(side.namespace) for side in (fresh.user_side, fresh.provider_side)]
    assert [differences(*pair) for pair in zip(before, after, strict=True)] == [[], []]


def test_an_invitation_pins_the_certificate_of_a_node_inside(fresh: World) -> None:
    """The invitation pins the node's certificate; the device refuses another one."""
    fresh.internet.sysctl("net.ipv4.ip_forward", "1")
    provider, user = fresh.provider_side, fresh.user_side
    serve(fresh.provider, fresh, SERVICE)
    command = ("init", "--identifier", PROVIDER_PEER, "--address", f"{PROVIDER_TUNNEL}/24")
    provider.nconnect(*command, "--service", f"{SERVICE}/tcp")
    node = f'[node]\nlisten = "0.0.0.0"\nadvertise = "{BOX}"\nport = 443\ntls = true\n'
    provider.config.write_text(f"{provider.config.read_text()}\n{node}")
    provider.start()
    provider.wait()

    forged = f"https://{BOX}:443#sha256={'0' * 64}"
    token = json.loads(provider.nconnect("invite", "forged", "--json", "--seed-rpc", forged))["token"]
    done = user.try_nconnect("join", token, "--identifier", USER_PEER)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "the certificate is not the one that the seed URL names" in line
    assert not user.config.exists()

    token = json.loads(provider.nconnect("invite", "laptop", "--json"))["token"]
    user.nconnect("join", token, "--identifier", USER_PEER)
    assert re.search(rf"https://{BOX}:443#sha256=[0-9a-f]{{64}}", user.config.read_text())
    user.start()
    user.wait(PROVIDER_PEER)
    (link,) = user.status()["links"]
    assert (link["node"], link["tls"]) == (f"{BOX}:443", True)
    data = os.urandom(MIB)
    assert tcp_echo(fresh.user, PROVIDER_TUNNEL, SERVICE, data) == data


def test_a_daemon_whose_node_s_port_is_taken_does_not_start(fresh: World) -> None:
    configure(fresh, SEED_RPC, "--seed-rpc", SEED_RPC)
    config = fresh.provider_side.config
    config.write_text(f'{config.read_text()}\n[node]\nlisten = "0.0.0.0"\nrpc_port = {SERVICE}\n')
    serve(fresh.provider, fresh, SERVICE)
    before = snapshot(fresh.provider)
    done = fresh.provider_side.try_nconnect("up")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert str(SERVICE) in line
    assert differences(before, snapshot(fresh.provider)) == []
