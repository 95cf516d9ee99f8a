"""How key pairs come about, in virtual time: crossed, forged and old handshakes, retries, wrong clocks."""

from __future__ import annotations

import dataclasses

import pytest

from nconnect.crypto.aead import CipherSuite
from nconnect.tunnel.constants import (
    REJECT_AFTER_S,
)
from nconnect.tunnel.outputs import Settings
from nconnect.tunnel.peer import PeerState
from tests.sim.network import Faults, Simulation, pair
from tests.tunnel.hostile import (
    captured,
    connected,
    count,
    in_box,
    passes,
)
from tests.tunnel.sides import (
    ON_DEMAND,
    PERSISTENT,
    SUITE,
    UP,
    both_up,
    indices,
    to_provider,
    to_user,
)

YEAR_NS = 365 * 86400 * 10**9


def second_try_at(sim: Simulation) -> float:
    assert sim.run(2, lambda: len(sim.sent) >= 2)
    return sim.now


@pytest.mark.parametrize("delay_s", [0.001, 0.02, 0.2, 0.4, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("later_s", [0.0, 0.005, 0.3])
@pytest.mark.parametrize("user_first", [True, False])
def test_crossed_initiations_settle_in_one_session(delay_s: float, later_s: float, user_first: bool) -> None:
    sim = Simulation()
    sim.faults = Faults(delay=(delay_s, delay_s))
    user, provider = pair(sim, user=ON_DEMAND, provider=ON_DEMAND)
    both = [(user, to_provider), (provider, to_user)]
    (first, first_packet), (second, second_packet) = both if user_first else both[::-1]
    first.send_packet(*first_packet(1))
    sim.run(later_s)
    second.send_packet(*second_packet(1))
    assert sim.run(30, lambda: bool(user.delivered and provider.delivered)), sim.now
    sim.run(15)
    assert both_up(user, provider)
    assert indices(user, provider) == indices(provider, user)[::-1]
    assert not user.lost()
    assert not provider.lost()


@pytest.mark.parametrize("seed", range(20))
def test_crossed_initiations_settle_with_loss_too(seed: int) -> None:
    sim = Simulation(seed)
    sim.faults = Faults(loss=0.4, delay=(0.01, 0.3), duplicate=0.1)
    user, provider = pair(sim, user=PERSISTENT, provider=PERSISTENT)
    provider.drain()
    user.send_packet(*to_provider(1))
    provider.send_packet(*to_user(1))
    assert sim.run(60, lambda: both_up(user, provider))
    sim.faults = Faults()
    assert passes(sim, user, provider)
    assert passes(sim, provider, user)


def test_an_attempt_that_is_overtaken_does_not_stop_the_next_rekey() -> None:
    """The provider starts its own while the user's is not confirmed; its response is lost for good."""
    sim = Simulation()
    user, provider = pair(sim, user=ON_DEMAND, provider=ON_DEMAND)
    user.send_packet(*to_provider(1))
    sim.run(0.015)  # the provider has answered and waits for the first batch
    assert provider.peer(user).session.next is not None
    provider.send_packet(*to_user(1))
    assert provider.peer(user).handshake.attempt is not None
    sim.in_flight = [m for m in sim.in_flight if m[3] != str(user.address) or m[0] < sim.now + 0.006]
    sim.run(5)
    assert both_up(user, provider)
    assert provider.peer(user).handshake.attempt is None
    for number in range(400):
        user.send_packet(*to_provider(number))
        provider.send_packet(*to_user(number))
        sim.run(1)
    assert not user.lost()
    assert not provider.lost()


@pytest.mark.parametrize("user_suite", CipherSuite)
@pytest.mark.parametrize("provider_suite", CipherSuite)
def test_the_initiator_chooses_the_cipher(user_suite: CipherSuite, provider_suite: CipherSuite) -> None:
    sim = Simulation()
    user, provider = pair(sim, user=Settings(user_suite), provider=Settings(provider_suite, persistent=False))
    assert passes(sim, user, provider)
    assert provider.peer(user).session.current.cipher == user_suite.value  # type: ignore[union-attr]


def test_a_wrong_preshared_key_never_connects_and_the_right_one_does() -> None:
    sim = Simulation()
    user, provider = pair(sim, psk=b"k" * 32)
    assert passes(sim, user, provider)
    (config,) = [peer.config for peer in user.tunnel.peers.values()]
    user.tunnel.set_peers([dataclasses.replace(config, preshared_key=b"x" * 32)], sim.now)
    user.drain()
    user.send_packet(*to_provider(1))
    sim.run(20)
    assert user.peer(provider).state is PeerState.HANDSHAKING
    assert count(user, "handshake_refused") > 0
    assert to_provider(1)[0] not in provider.delivered
    user.tunnel.set_peers([config], sim.now)
    user.drain()
    assert passes(sim, user, provider)


def test_forged_responses_leave_the_attempt_usable() -> None:
    sim = Simulation()
    user, provider = pair(sim)
    sim.run(0.001)
    made = user.peer(provider).handshake.attempt
    assert made is not None
    frame = b"nc\x01\x02" + bytes([SUITE.wire_id]) + bytes(3) + (5).to_bytes(4, "little")
    receiver = made.local_index.to_bytes(4, "little")
    forged = [
        frame + receiver + bytes(80),
        frame + receiver + b"\x55" * 80,
        frame[:4] + b"\x02" + frame[5:] + receiver + bytes(80),
        frame + receiver,
    ]
    for data in forged:
        sim.inject(str(provider.address), str(user.address), in_box(provider, user, data))
    sim.run(0.001)
    assert count(user, "handshake_refused") == len(forged)
    assert user.peer(provider).handshake.attempt is made
    assert sim.run(0.3, lambda: user.peer(provider).state is UP)
    assert len(captured(sim, user, boxed_ones=True)) == 1


def test_after_a_restart_old_initiations_stay_refused() -> None:
    sim, user, provider = connected()
    old = captured(sim, user, boxed_ones=True)
    provider.restart()
    sim.run(1)
    for payload in old:
        sim.inject(str(user.address), str(provider.address), payload)
    sim.run(0.001)
    assert count(provider, "handshake_replayed") == len(old)
    assert provider.peer(user).session.next is None


def test_counters_survive_even_when_the_peer_is_removed_or_its_key_changes() -> None:
    sim, user, provider = connected()
    old = captured(sim, user, boxed_ones=True)[0]
    config = provider.peer(user).config
    provider.tunnel.set_peers([dataclasses.replace(config, preshared_key=b"k" * 32)], sim.now)
    sim.run(1)
    provider.receive(str(user.address), old)
    assert count(provider, "handshake_replayed") == 1
    provider.tunnel.set_peers([], sim.now)
    provider.tunnel.set_peers([config], sim.now)
    provider.receive(str(user.address), old)
    assert count(provider, "handshake_replayed") == 1
    assert provider.peer(user).session.next is None


@pytest.mark.parametrize("years", [10, -10])
@pytest.mark.parametrize("who", ["user", "provider"])
def test_a_clock_that_jumps_by_years_and_back_stops_no_handshake(who: str, years: int) -> None:
    sim, user, provider = connected(user=ON_DEMAND)
    host = user if who == "user" else provider
    for offset in (years, 0, -years, 0):
        host.wall_offset_ns = offset * YEAR_NS
        sim.run(REJECT_AFTER_S + 1)
        assert user.peer(provider).session.current is None
        assert passes(sim, user, provider)
        sim.run(REJECT_AFTER_S + 1)
        assert passes(sim, provider, user)
    host.wall_offset_ns = years * YEAR_NS
    host.restart()
    passes(sim, user, provider)  # maybe under keys that are gone
    assert passes(sim, user, provider)
    host.wall_offset_ns = 0
    host.restart()
    passes(sim, user, provider)
    assert passes(sim, user, provider)
    assert passes(sim, provider, user)


def test_a_retry_is_jittered() -> None:
    """Two users that were cut off together do not come back in step for ever."""
    waits = set()
    for seed in range(5):
        sim = Simulation(seed)
        _, provider = pair(sim)
        provider.stopped = True
        sim.run(0.3)
        waits.add(second_try_at(sim))
    assert len(waits) == 5
