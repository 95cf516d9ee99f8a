"""Without masquerade everything passes, and the server sees the user's own address.

user 10.86.0.2, fd86::2 ── node ── provider 192.168.50.1, fd50::1 ── server 192.168.50.10, fd50::10

The server has a route back to the user's addresses.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab.traffic import (
    SERVICE,
    gibibyte,
    pings,
    serve,
    tcp_echo,
    udp_echo,
    udp_volume,
    whoami,
)
from lab.world import PROVIDER_LAN, SERVER, SERVER6, USER_TUNNEL, USER_TUNNEL6, World, world

MIB = 1 << 20
HOSTS = {SERVER: USER_TUNNEL, SERVER6: USER_TUNNEL6}
every_host = pytest.mark.parametrize("host", HOSTS, ids=["v4", "v6"])


@pytest.fixture(scope="module")
def unmasked() -> Iterator[World]:
    with world("ncunmasked") as made:
        serve(made.server, made, SERVICE)
        made.configure()
        config = made.provider_side.config
        config.write_text(config.read_text().replace("[provide]\n", "[provide]\nmasquerade = false\n", 1))
        made.node.start()
        made.up()
        assert not pings(made.user, SERVER), "the server knows no way back yet"
        made.server.ip(f"route add 10.86.0.0/24 via {PROVIDER_LAN}")
        made.server.ip("route add fd86::/64 via fd50::1")
        yield made


@every_host
def test_the_server_sees_the_user(unmasked: World, host: str) -> None:
    assert whoami(unmasked.user, host, SERVICE) == HOSTS[host]


@every_host
@pytest.mark.parametrize("size", [56, 60000])
def test_pings_are_answered(unmasked: World, host: str, size: int) -> None:
    assert pings(unmasked.user, host, "-s", str(size))


@every_host
@pytest.mark.parametrize("size", [1, MIB])
def test_tcp_echoes_what_was_sent(unmasked: World, host: str, size: int) -> None:
    data = os.urandom(size)
    assert tcp_echo(unmasked.user, host, SERVICE, data) == data


@every_host
def test_udp_echoes_what_was_sent(unmasked: World, host: str) -> None:
    assert udp_echo(unmasked.user, host, SERVICE, b"1") == b"1"
    udp_volume(unmasked.user, host, MIB)


@pytest.mark.slow
@pytest.mark.timeout(600)
@every_host
@pytest.mark.parametrize("way", ["down", "up", "udp"])
def test_a_gibibyte_arrives_unchanged(unmasked: World, host: str, way: str) -> None:
    gibibyte(unmasked.user, host, way)
