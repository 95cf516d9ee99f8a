"""While a direct path is in doubt packets go both ways: none comes twice, and a flow keeps its order."""

from __future__ import annotations

import random

import pytest

from nconnect.tunnel.paths.direct.outputs import PathState
from nconnect.tunnel.paths.reorder import MISSING_WAIT_S
from tests.sim.direct import Device, DirectWorld


def found(seed: int = 1, *, relay_delay_s: float = 0.02) -> DirectWorld:
    world = DirectWorld(seed=seed)
    world.relay_delay_s = relay_delay_s
    world.chat(1.0)
    assert world.both_direct
    return world


def doubt(*sides: Device) -> None:
    """As where reports of what arrived are missing."""
    for side in sides:
        assert side.peer.direct is not None
        side.peer.direct._suspect(side.world.clock.now)
        side.tunnel._sessions.direct.settle(side.peer, side.world.clock.now)
        side.drain()


def assert_in_order(world: DirectWorld, *, strictly: bool = True) -> None:
    """What came is in the order in which it was sent, and came once."""
    for side, sent in ((world.provider, world.sent), (world.user, world.answers)):
        number = {record: n for n, record in enumerate(sent)}
        came = [number[record] for record in side.order]
        assert sorted(came) == sorted(set(came))
        assert came == sorted(came) or not strictly


def stay_in_doubt(world: DirectWorld, seconds: float, *, every_s: float = 0.005) -> None:
    """Data passes, and nobody hears that it arrives: in doubt, and after a second not direct."""
    machines = [side.peer.direct for side in (world.user, world.provider) if side.peer.direct is not None]
    for machine in machines:
        machine.reported = lambda *_: None  # type: ignore[method-assign]
    now = world.clock.now
    for side in (world.user, world.provider):  # doubts begin 0.3 s after the first data at the earliest
        if side.state is PathState.DIRECT and side.changes[-1][0] < now - 0.6:
            doubt(side)
    world.chat(seconds, every_s=every_s)
    for machine in machines:
        del machine.reported


@pytest.mark.parametrize("relay_delay_s", [0.005, 0.02, 0.1])
def test_what_datagrams_lose_keeps_its_place(relay_delay_s: float) -> None:
    """The relay brings it later, and the copies behind it wait for that."""
    world = found()
    world.relay_delay_s = relay_delay_s
    world.run(0.5)
    world.net.loss = 0.3
    begin = len(world.sent)
    stay_in_doubt(world, 1.0)
    world.net.loss = 0.0
    world.run(1.0)
    assert_in_order(world)
    assert world.provider.order[-(len(world.sent) - begin) :] == world.sent[begin:]
    assert world.user.order[-(len(world.answers) - begin) :] == world.answers[begin:]


def test_where_datagrams_lose_nothing_no_copy_waits() -> None:
    world = found()
    world.chat(1.0)  # so that the probes with a low TTL, which got lost, are long ago
    world.relay_delay_s = 0.2
    stay_in_doubt(world, 1.0, every_s=0.02)
    # The last one was sent 20 ms ago, takes 10 ms by datagrams, and 200 by the relay.
    assert world.provider.order[-1] == world.sent[-1]
    assert_in_order(world)


def test_where_the_relay_is_dead_copies_wait_once() -> None:
    world = found()
    world.run(0.5)
    world.relay_is_up = False
    world.net.loss = 0.3
    begin, since = len(world.sent), world.clock.now
    stay_in_doubt(world, 0.9)
    world.net.loss = 0.0
    world.run(0.5)
    came = set(world.provider.order) & set(world.sent[begin:])
    assert len(came) > 0.5 * len(world.sent[begin:])
    assert world.longest_pause(since) < 2 * MISSING_WAIT_S + 0.25  # at the end nothing is sent
    assert_in_order(world)


def test_a_copy_that_waits_passes_in_time_when_nothing_more_comes() -> None:
    world = found()
    world.run(0.5)
    doubt(world.user, world.provider)
    world.relay_is_up = False
    stay_in_doubt(world, 0.02)  # so many that all before were copies
    world.net.drops = lambda sender, datagram: sender.name == "user"
    world.user.send(record := world.sent[-1][:-1] + b"1", "192.168.50.10")
    world.net.drops = lambda sender, datagram: False
    world.user.send(last := world.sent[-1][:-1] + b"2", "192.168.50.10")
    sent_at = world.clock.now
    world.run(0.05)
    assert last not in world.provider.got
    assert world.provider.peer.datagrams is not None
    assert world.provider.peer.datagrams.copies.waits
    world.run(MISSING_WAIT_S)
    assert world.provider.got[last] == 1
    assert record not in world.provider.got
    assert world.provider.got_at[-1] - sent_at == pytest.approx(MISSING_WAIT_S, abs=0.03)
    assert not world.provider.peer.datagrams.copies.waits
    assert world.provider.peer.datagrams.copies._pair is None, "keys that are replaced must go"


def play(seed: int) -> None:
    """Ways live and die, and datagrams are lost; the relay is slower, by little or much.

    Where the relay dies what it had is lost, and what came by datagrams meanwhile did not wait: then packets
    may overtake others once it lives again.
    """
    rng = random.Random(seed)
    world = found(seed, relay_delay_s=rng.choice([0.012, 0.03, 0.08, 0.15]))
    relay_dies = rng.random() < 0.2
    for _ in range(rng.randint(3, 6)):
        world.net.loss = rng.choice([0.0, 0.0, 0.05, 0.3])
        dead = rng.choice(["", "", "", "user", "provider", "both"])
        world.net.drops = lambda sender, datagram, dead=dead: dead in ("both", sender.name)
        world.relay_is_up = not relay_dies or rng.random() < 0.7
        seconds = rng.uniform(0.2, 2.5)
        if rng.random() < 0.5:
            stay_in_doubt(world, seconds / 2, every_s=0.01)
        else:
            world.chat(seconds)
    world.net.loss, world.relay_is_up = 0.0, True
    world.net.drops = lambda sender, datagram: False
    world.run(0.6)
    world.chat(0.5)
    world.run(0.6)
    assert_in_order(world, strictly=not relay_dies)
    assert world.sent[-1] in world.provider.got
    assert world.answers[-1] in world.user.got


@pytest.mark.parametrize("seed", range(6))
def test_seeds(seed: int) -> None:
    play(seed)


@pytest.mark.slow
def test_a_thousand_seeds() -> None:
    for seed in range(1000):
        play(seed)
