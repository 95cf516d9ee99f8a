"""What must pass the tunnel does: ping, TCP and UDP, IPv4 and IPv6, small and large, to subnet and provider.

user 10.86.0.2, fd86::2 ── node ── provider 10.86.0.1, fd86::1 ── server 192.168.50.10, fd50::10
"""

from __future__ import annotations

import os

import pytest

from lab.traffic import (
    SERVICE,
    connect,
    download,
    expected_download,
    gibibyte,
    pings,
    tcp_echo,
    udp_echo,
    udp_volume,
    whoami,
)
from lab.world import (
    PROVIDER_LAN,
    PROVIDER_TUNNEL,
    PROVIDER_TUNNEL6,
    SERVER,
    SERVER6,
)
from netns_tests.topology import Provided

MIB = 1 << 20
HOSTS = [SERVER, SERVER6, PROVIDER_TUNNEL, PROVIDER_TUNNEL6]
IDS = ["server-v4", "server-v6", "provider-v4", "provider-v6"]
every_host = pytest.mark.parametrize("host", HOSTS, ids=IDS)


@every_host
@pytest.mark.parametrize("size", [56, 1472, 60000])
def test_pings_are_answered(tunnel: Provided, host: str, size: int) -> None:
    assert pings(tunnel.world.user, host, "-s", str(size))


@every_host
@pytest.mark.parametrize("size", [1, MIB])
def test_tcp_echoes_what_was_sent(tunnel: Provided, host: str, size: int) -> None:
    data = os.urandom(size)
    assert tcp_echo(tunnel.world.user, host, SERVICE, data) == data


@every_host
@pytest.mark.parametrize("size", [1, 1400, 9000])
def test_udp_echoes_what_was_sent(tunnel: Provided, host: str, size: int) -> None:
    data = os.urandom(size)
    assert udp_echo(tunnel.world.user, host, SERVICE, data) == data


@every_host
def test_a_mebibyte_by_udp_loses_nothing(tunnel: Provided, host: str) -> None:
    """In datagrams that fill a packet; none is lost."""
    udp_volume(tunnel.world.user, host, MIB)


@every_host
def test_a_download_arrives_unchanged(tunnel: Provided, host: str) -> None:
    with connect(tunnel.world.user, host, SERVICE) as connection:
        assert download(connection, 32 * MIB) == expected_download(32 * MIB)


@pytest.mark.slow
@pytest.mark.timeout(600)
@every_host
@pytest.mark.parametrize("way", ["down", "up", "udp"])
def test_a_gibibyte_arrives_unchanged(tunnel: Provided, host: str, way: str) -> None:
    gibibyte(tunnel.world.user, host, way)


def test_the_providers_lan_address_serves_too(tunnel: Provided) -> None:
    assert pings(tunnel.world.user, PROVIDER_LAN)
    assert tcp_echo(tunnel.world.user, PROVIDER_LAN, SERVICE, b"hello") == b"hello"


def test_the_server_sees_the_provider(tunnel: Provided) -> None:
    """The provider masquerades, because the server has no route to the tunnel."""
    assert whoami(tunnel.world.user, SERVER, SERVICE) == PROVIDER_LAN
    assert whoami(tunnel.world.user, SERVER6, SERVICE) == "fd50::1"


def test_many_connections_at_once_get_their_own_bytes(tunnel: Provided) -> None:
    connections = [connect(tunnel.world.user, SERVER, SERVICE) for _ in range(50)]
    for n, connection in enumerate(connections):
        connection.sendall(b"echo\n%d" % n)
    assert [int(connection.recv(100)) for connection in connections] == list(range(50))
    for connection in connections:
        connection.close()


def test_a_closed_port_of_the_server_refuses_at_once(tunnel: Provided) -> None:
    """The server's refusal comes back, as without a tunnel."""
    with pytest.raises(ConnectionRefusedError):
        connect(tunnel.world.user, SERVER, 9).close()
