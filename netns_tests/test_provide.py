"""`nconnect provide` changes what a running provider offers, and the change takes effect at once.

user ── node ── provider 10.86.0.1:8000 ── server 192.168.50.10:8000
"""

from __future__ import annotations

import sys

import pytest

from lab.process import until
from lab.traffic import connect, reaches
from lab.world import LAN, PROVIDER_TUNNEL, SERVER, World

PORT = 8000


def _serve(world: World) -> None:
    """Start a web server on the provider, and one behind it."""
    for machine in (world.provider, world.server):
        command = [sys.executable, "-m", "http.server", str(PORT)]
        program = world.run_in(machine, command, f"http-{machine.name}")
        until(lambda machine=machine: reaches(machine, "127.0.0.1", PORT), "a server", process=program)


def test_a_service_and_a_subnet_come_and_go(fresh: World) -> None:
    _serve(fresh)
    fresh.configure()
    fresh.node.start()
    fresh.up()
    provider = fresh.provider_side
    with pytest.raises(ConnectionRefusedError):
        connect(fresh.user, PROVIDER_TUNNEL, PORT)

    provider.nconnect("provide", "add", "--service", f"{PORT}/tcp")
    assert reaches(fresh.user, PROVIDER_TUNNEL, PORT)
    assert f"{PORT}/tcp" in provider.nconnect("provide", "show")

    assert reaches(fresh.user, SERVER, PORT)
    provider.nconnect("provide", "remove", "--subnet", LAN, "--yes")
    assert not reaches(fresh.user, SERVER, PORT)
    assert reaches(fresh.user, PROVIDER_TUNNEL, PORT), "the service stays"
    provider.nconnect("provide", "add", "--subnet", LAN)
    assert reaches(fresh.user, SERVER, PORT)

    provider.nconnect("provide", "remove", "--service", f"{PORT}/tcp", "--yes")
    with pytest.raises(ConnectionRefusedError):
        connect(fresh.user, PROVIDER_TUNNEL, PORT)
