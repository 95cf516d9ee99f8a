"""Two cores through a simulated network in virtual time."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from nconnect.crypto.aead import CipherSuite
from nconnect.errors import DropReason
from nconnect.model import Endpoint
from nconnect.tunnel.outputs import TrafficBegan
from nconnect.tunnel.peer import PeerState
from tests.sim.network import Faults, Simulation, ip, packet, pair
from tests.tunnel.hostile import connected, passes

SUITES = list(CipherSuite)


@pytest.mark.parametrize("suite", SUITES)
def test_a_packet_crosses_under_either_suite(suite: CipherSuite) -> None:
    sim = Simulation()
    user, provider = pair(sim, suite)
    sent = packet("10.86.0.2", "192.168.50.10", b"hello")
    user.send_packet(sent, ip("192.168.50.10"))
    assert sim.run(1, lambda: bool(provider.delivered))
    assert provider.delivered == [sent]
    answer = packet("192.168.50.10", "10.86.0.2", b"hello yourself")
    provider.send_packet(answer, ip("10.86.0.2"))
    assert sim.run(1, lambda: bool(user.delivered))
    assert user.delivered == [answer]
    assert user.peer(provider).state is PeerState.UP
    assert provider.peer(user).state is PeerState.UP
    assert not any(b"hello" in payload for _, _, payload in sim.sent)


def test_packets_wait_for_the_handshake_and_none_is_lost_by_it() -> None:
    sim = Simulation()
    user, provider = pair(sim)
    sent = [packet("10.86.0.2", "192.168.50.10", bytes([n])) for n in range(100)]
    for record in sent:
        user.send_packet(record, ip("192.168.50.10"))
    assert sim.run(1, lambda: len(provider.delivered) == 100)
    assert provider.delivered == sent


def test_handshake_survives_loss() -> None:
    sim = Simulation(seed=3)
    sim.faults = Faults(loss=0.6)
    user, provider = pair(sim)
    assert sim.run(60, lambda: user.peer(provider).state is PeerState.UP)


def test_three_days_of_rekeys_lose_nothing() -> None:
    sim = Simulation()
    user, provider = pair(sim)
    count = 0
    for _ in range(3 * 24 * 20):
        sim.run(180)
        user.send_packet(packet("10.86.0.2", "192.168.50.10", count.to_bytes(4)), ip("192.168.50.10"))
        count += 1
    sim.run(1)
    assert len(provider.delivered) == count
    assert user.lost() == []


def test_the_first_packet_since_it_was_awaited_is_told_once() -> None:
    sim, user, provider = connected()

    def told() -> list[int]:
        return [sum(isinstance(e, TrafficBegan) for e in host.events) for host in (user, provider)]

    assert told() == [0, 0]
    for host in (user, provider):
        host.tunnel.await_traffic()
    sim.run(60.0)  # keepalives are no traffic
    assert told() == [0, 0]
    assert passes(sim, user, provider)
    assert told() == [1, 1]
    assert passes(sim, provider, user)
    assert told() == [1, 1]
    provider.tunnel.await_traffic()
    assert passes(sim, provider, user)
    assert told() == [1, 2]


def test_without_surroundings_there_is_no_direct_path() -> None:
    user, provider = pair(Simulation())
    assert user.peer(provider).direct is None
    run = memoryview(bytes(100))
    source = Endpoint(IPv4Address("203.0.113.1"), 41641)
    assert user.tunnel.receive_datagrams(source, run, 60, 1000.0) == []
    assert user.tunnel.drops[DropReason.NO_SESSION] == 2
