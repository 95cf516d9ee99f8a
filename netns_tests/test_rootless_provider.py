"""A provider without root: peers reach what is provided, as far as the rules go, and no more of the machine.

user ──────────── internet ──────────── provider (uid 61234) ──────────── server
10.86.0.2         node                  a namespace of its own:           192.168.50.10
                                        10.86.0.1                         servers on 7000, 7001
                                        lan 192.168.50.1
                                        servers on 7000 (a service), 7001, loopback 7002 (exposed)
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from lab.process import until
from lab.rootless import RootlessSide
from lab.snapshot import differences, snapshot
from lab.traffic import SERVICE, connect, reaches, serve, tcp_echo, udp_echo
from lab.world import PROVIDER_LAN, PROVIDER_PEER, PROVIDER_TUNNEL, SERVER, USER_PEER, World, world
from netns_tests.topology import CLOSED

EXPOSED, HIDDEN = 7002, 7003

pytestmark = pytest.mark.skipif(shutil.which("pasta") is None, reason="needs passt")


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world("ncrprov") as found:
        found.folder.chmod(0o755)
        serve(found.server, found, SERVICE, CLOSED)
        serve(found.provider, found, SERVICE, CLOSED)
        for port in (EXPOSED, HIDDEN):
            command = ["python3", "-m", "http.server", "--bind", "127.0.0.1", str(port)]
            found.run_in(found.provider, command, f"loopback-{port}")
            until(lambda port=port: found.provider.listens(port), "the server on loopback")
        before = snapshot(found.provider)
        found.provider_side = RootlessSide("provider", found.provider, found.folder / "provider")
        found.configure(services=[f"{SERVICE}/tcp"])
        found.node.start()
        found.up()
        found.provider_side.nconnect("provide", "add", "--expose", f"127.0.0.1:{EXPOSED}")
        assert not differences(before, snapshot(found.provider)), "while it is up"
        yield found
        found.provider_side.down()
        assert not differences(before, snapshot(found.provider))


def test_the_subnet_is_reached(made: World) -> None:
    assert tcp_echo(made.user, SERVER, SERVICE, b"hello") == b"hello"
    assert udp_echo(made.user, SERVER, SERVICE, b"hello") == b"hello"


def test_of_the_machine_itself_only_what_is_allowed(made: World) -> None:
    until(lambda: reaches(made.user, PROVIDER_TUNNEL, SERVICE), "the service")
    until(lambda: reaches(made.user, PROVIDER_TUNNEL, EXPOSED), "the exposed server")
    for host in (PROVIDER_TUNNEL, PROVIDER_LAN):
        for port in (CLOSED, HIDDEN):
            assert not reaches(made.user, host, port), f"{host} port {port}"
    assert not reaches(made.user, PROVIDER_LAN, EXPOSED)


def test_a_right_that_is_taken_away_ends_what_it_allowed(made: World) -> None:
    with connect(made.user, SERVER, SERVICE) as open_one:
        open_one.sendall(b"x")
        made.provider_side.nconnect("peer", "set", USER_PEER, "--allow", f"{SERVER}:{CLOSED}/tcp")
        assert not reaches(made.user, SERVER, SERVICE)
        assert not reaches(made.user, PROVIDER_TUNNEL, SERVICE)
        assert reaches(made.user, SERVER, CLOSED)
        made.provider_side.nconnect("peer", "set", USER_PEER, "--allow", "all")
        assert reaches(made.user, SERVER, SERVICE)


def test_usage_is_counted(made: World) -> None:
    until(lambda: made.provider_side.peer()["usage"]["day"]["rx_bytes"] > 0, "bytes that the peer sent")
    assert made.user_side.peer()["name"] == PROVIDER_PEER
