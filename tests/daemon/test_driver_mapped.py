"""Two providers with the same network, which have given this device the same address."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface, ip_network

import pytest

from nconnect.errors import DropReason
from nconnect.ip.checksum import checksum
from nconnect.model import MappedPrefix, PeerConfig
from tests.daemon.test_driver import World
from tests.sim.network import packet as with_no_checksum

REAL = "192.168.50.10"
OF_TWO = "10.200.9.10"  # how the user sees the second provider's
TUNNEL = MappedPrefix(ip_network("10.86.0.0/24"), ip_network("10.201.7.0/24"))
SUBNET = MappedPrefix(ip_network("192.168.50.0/24"), ip_network("10.200.9.0/24"))


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    made.start()
    made.user.tunnel.set_peers(
        (
            PeerConfig("one", made.one.address, (ip_network("192.168.50.0/24"),)),
            PeerConfig(
                "two",
                made.two.address,
                (ip_network("10.201.7.1"), SUBNET.seen),
                local_address=(ip_interface("10.201.7.2/24"),),
                mapped=(TUNNEL, SUBNET),
            ),
        ),
        made.loop.now,
    )
    yield made
    made.close()


def packet(source: str, destination: str, payload: bytes) -> bytes:
    record = with_no_checksum(source, destination, payload)
    return record[:20] + checksum(record[10:30]).to_bytes(2) + record[22:]


def to_one(number: int) -> bytes:
    return packet("10.86.0.2", REAL, number.to_bytes(4))


def test_each_gets_its_own_packets_with_the_addresses_that_it_knows(world: World) -> None:
    """Waiting for a session, in a batch, and one by one."""
    for numbers in ((0,), range(1, 20), (20,)):
        for n in numbers:
            world.user.packets(to_one(n), packet("10.201.7.2", OF_TWO, n.to_bytes(4)))
        world.exchange()
        world.loop.now += 0.1
        assert world.one.written() == [to_one(n) for n in numbers]
        assert world.two.written() == [to_one(n) for n in numbers]


def test_answers_come_back_as_this_device_sees_their_sender(world: World) -> None:
    world.user.packets(to_one(0), packet("10.201.7.2", OF_TWO, b"0000"))
    world.exchange()
    world.loop.now += 0.1
    for side in (world.one, world.two):
        side.packets(packet(REAL, "10.86.0.2", b"back"))
        world.exchange()
    assert world.user.written() == [
        packet(REAL, "10.86.0.2", b"back"),
        packet(OF_TWO, "10.201.7.2", b"back"),
    ]


def test_a_source_that_is_another_providers_is_refused(world: World) -> None:
    """Also the mapped form of one's own addresses is no way to somebody else's."""
    world.user.packets(packet("10.201.7.2", OF_TWO, b"0000"))
    world.exchange()
    world.loop.now += 0.1
    world.two.packets(packet("192.168.60.1", "10.86.0.2", b"evil"))
    world.exchange()
    assert world.user.written() == []
    peer = world.user.tunnel.peer_named("two")
    assert peer is not None
    assert peer.drops[DropReason.SPOOFED_SOURCE] == 1
