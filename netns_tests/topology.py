"""The tunnel that the tests use: the lab's world with both daemons up, and servers to talk to.

    user ──────────── internet ──────────── provider ──────────── server
    10.86.0.2         node                  10.86.0.1             192.168.50.10
    fd86::2           (no forwarding)       fd86::1               fd50::10
                                            services 7000         servers on 7000, 7001
                                            servers on 7000, 7001

The provider offers port 7000 as a service, over TCP and UDP. Port 7001 listens as well and is not offered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lab.traffic import SERVICE, serve
from lab.world import World

CLOSED = 7001


def start(world: World) -> None:
    """A server behind the provider, both configurations, the node and both daemons: all up."""
    serve(world.server, world, SERVICE)
    world.configure()
    world.node.start()
    world.up()


@dataclass(frozen=True, slots=True)
class Provided:
    """A running tunnel."""

    world: World


@contextmanager
def provided(world: World) -> Iterator[Provided]:
    """The tunnel above: servers, both configurations, the node and both daemons are up."""
    serve(world.server, world, SERVICE, CLOSED)
    serve(world.provider, world, SERVICE, CLOSED)
    world.configure(services=[f"{SERVICE}/tcp", f"{SERVICE}/udp"])
    world.node.start()
    world.up()
    yield Provided(world)
