"""One configuration on two devices, in virtual time: all three sides learn of it, and nobody else does."""

from __future__ import annotations

import pytest

from nconnect.tunnel.shared_key import REMEMBERED_S
from tests.sim.network import Host, Simulation, packet, pair

TRIES = 60.0  # seconds of traffic on both devices


def knows(sim: Simulation, host: Host, other: Host, *, own: bool) -> bool:
    """Whether a side says that its own key, or the other's, is used by two devices."""
    found = host.peer(other).shared_key
    return found.is_ours(sim.now) if own else found.is_peers(sim.now)


def talk(sim: Simulation, seconds: float, *pairs: tuple[Host, str, str]) -> None:
    """A packet a second from each host: (host, source, destination)."""
    for _ in range(int(seconds)):
        for host, source, destination in pairs:
            if not host.stopped:
                host.send_packet(packet(source, destination), bytes(map(int, destination.split("."))))
        sim.run(1)


def twice(seed: int) -> tuple[Simulation, Host, Host, Host]:
    """User, provider, and a copy of the user."""
    sim = Simulation(seed)
    user, provider = pair(sim)
    sim.run(3.5)
    return sim, user, provider, sim.start_copy(user, 1)


@pytest.mark.parametrize("seed", range(10))
def test_both_devices_and_the_peer_learn_of_it(seed: int) -> None:
    sim, user, provider, copy = twice(seed)
    out = ("10.86.0.2", "192.168.50.10")
    talk(sim, TRIES, (user, *out), (copy, *out))
    assert knows(sim, provider, user, own=False)
    assert knows(sim, user, provider, own=True)
    assert knows(sim, copy, provider, own=True)
    assert not knows(sim, provider, user, own=True), "the peer's own key is in nobody else's hands"
    assert not knows(sim, user, provider, own=False)
    copy.stopped = True
    talk(sim, REMEMBERED_S + 60, (user, *out))
    assert not knows(sim, provider, user, own=False), "the other one has been switched off"
    assert not knows(sim, user, provider, own=True)


def test_a_copy_that_takes_over_for_good_is_no_sign() -> None:
    """A device that moved to another machine: the old one is off."""
    sim, user, provider, copy = twice(1)
    user.stopped = True
    talk(sim, TRIES, (copy, "10.86.0.2", "192.168.50.10"))
    assert not knows(sim, provider, user, own=False)
    assert not knows(sim, copy, provider, own=True)


@pytest.mark.parametrize("seed", range(10))
def test_restarts_replays_and_a_bad_network_are_no_sign(seed: int) -> None:
    sim = Simulation(seed)
    user, provider = pair(sim)
    sim.faults.loss, sim.faults.duplicate, sim.faults.delay = 0.2, 0.3, (0.01, 3.0)
    for turn in range(8):
        talk(sim, 20, (user, "10.86.0.2", "192.168.50.10"), (provider, "192.168.50.10", "10.86.0.2"))
        for source, dest, payload in sim.random.choices(sim.sent, k=50):
            sim.inject(source, dest, payload, sim.random.uniform(0, 5))
        (user, provider)[turn % 2].restart()
    for host, other in ((user, provider), (provider, user)):
        assert host.peer(other).shared_key.seen_at < 0
        assert host.peer(other).shared_key.told_at < 0
