"""A path is used for as long as it delivers: death, loss, black holes, roaming, and no packet when idle."""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

import pytest

from nconnect.model import Endpoint
from nconnect.tunnel.paths.direct import reasons
from nconnect.tunnel.paths.direct.constants import BASE_BYTES, OTHER_PAIR_EVERY_S
from nconnect.tunnel.paths.direct.outputs import PathState, Transmit
from nconnect.tunnel.paths.direct.pair import Pair
from nconnect.tunnel.paths.direct.path import DirectPath
from nconnect.tunnel.paths.direct.probes import Probes, Purpose
from nconnect.tunnel.paths.direct.surroundings import Surroundings
from nconnect.wire.direct import (
    Candidate,
    CandidateKind,
    Candidates,
    NatVerdict,
    ProbeAck,
    decode_probe,
    encode_probe,
)
from nconnect.wire.tunnel import RecordKind
from tests.tunnel.paths.direct.world import PORT, End, World

RELAY, SEARCH, DIRECT, SUSPECT = PathState


def direct(**options: object) -> World:
    """A world whose two sides have been direct for a second."""
    world = World(**options)  # type: ignore[arg-type]
    assert world.time_to_direct() is not None
    world.chat(1, every_s=0.02)
    assert world.both_direct
    return world


def states(end: End, since: float) -> list[PathState]:
    return [state for at, state, _ in end.states if at > since]


@pytest.mark.parametrize("dead", ["both", "alice", "bob"])
@pytest.mark.parametrize("every_s", [0.005, 0.05, 0.2])
def test_a_dead_path_is_left_within_a_second_and_a_half(dead: str, every_s: float) -> None:
    world = direct()
    since = world.clock.now
    world.net.drops = lambda sender, datagram: dead in ("both", sender.name)
    world.chat(5, every_s=every_s)
    assert world.longest_pause(since) <= 0.4 + every_s
    end = world.bob if dead == "bob" else world.alice
    assert states(end, since)[:2] == [SUSPECT, RELAY]
    left = next(at for at, state, _ in end.states if at > since and state is RELAY)
    assert left - since <= 1.5 + every_s
    assert not end.path.carries_direct


def test_while_suspect_both_paths_carry() -> None:
    world = direct()
    world.net.drops = lambda sender, datagram: sender is world.alice
    world.chat(0.6)
    assert world.alice.path.state is SUSPECT
    assert world.alice.path.carries_direct
    assert world.alice.path.carries_relay
    assert world.alice.path.datagram_bytes == BASE_BYTES, "it may be the size"
    world.net.drops = lambda sender, datagram: False
    world.chat(0.2)
    assert world.alice.path.state is DIRECT
    assert world.bob.twins > 0


def test_a_path_that_comes_back_is_used_again_soon() -> None:
    world = direct()
    world.net.drops = lambda sender, datagram: True
    world.chat(60)
    assert world.alice.path.state in (RELAY, SEARCH)
    world.net.drops = lambda sender, datagram: False
    since = world.clock.now
    while not world.both_direct:
        world.chat(0.1)
        assert world.clock.now < since + 5


@pytest.mark.parametrize("minutes", [3, 8, pytest.param(30, marks=pytest.mark.slow)])
def test_a_path_that_was_away_for_minutes_is_used_again_within_15_seconds(minutes: int) -> None:
    world = direct()
    world.net.drops = lambda sender, datagram: True
    world.chat(60 * minutes, every_s=0.5)
    world.net.drops = lambda sender, datagram: False
    since = world.clock.now
    while not world.both_direct:
        world.chat(0.5, every_s=0.5)
        assert world.clock.now < since + 15


def test_the_search_for_a_lost_path_pauses_for_as_long_as_a_router_keeps_a_wrong_entry() -> None:
    """Both sides at once. Else the probes of each would keep alive what makes the other side's leave from
    another port."""
    world = direct()
    sent: list[float] = []

    def dropped(sender: End, datagram: bytes) -> bool:
        sent.append(world.clock.now)
        return True

    world.net.drops = dropped
    world.chat(400, every_s=0.5)
    assert max(after - before for before, after in pairwise(sent)) > 30
    assert len(sent) < 400


def test_a_path_that_answers_probes_and_drops_data_is_left_within_two_seconds() -> None:
    world = direct()
    since = world.clock.now
    world.net.drops = lambda sender, datagram: len(datagram) > 130
    world.chat(2, every_s=0.02, size=300)
    assert world.alice.path.state in (RELAY, SEARCH)
    assert world.longest_pause(since) <= 0.5


@pytest.mark.parametrize("loss", [0.0, 0.02, 0.04])
def test_little_loss_is_borne(loss: float) -> None:
    world = direct()
    since = world.clock.now
    world.net.loss = loss
    world.chat(30, every_s=0.002, size=1000, both=False)
    assert RELAY not in states(world.alice, since)


@pytest.mark.parametrize("loss", [0.2, 0.5])
def test_much_loss_is_not(loss: float) -> None:
    world = direct()
    since = world.clock.now
    world.net.loss = loss
    world.chat(3, every_s=0.002, size=1000, both=False)
    assert world.alice.path.state is RELAY
    left, _, why = next(entry for entry in world.alice.states if entry[0] > since and entry[1] is RELAY)
    assert left - since <= 2.6
    assert why == reasons.LOSSY


def test_during_a_penalty_a_search_is_for_the_peer_alone() -> None:
    """It is answered, so that the peer can find its own way, and changes nothing here."""
    world = direct()
    world.net.loss = 0.5
    world.chat(3, every_s=0.002, size=1000, both=False)
    assert world.alice.path.state is RELAY
    sent = world.alice.datagrams
    world.bob.path.network_changed(world.clock.now)
    world.bob.pump()
    world.run(1)
    assert world.alice.datagrams > sent
    assert (world.alice.path.state, world.alice.path.why) == (RELAY, reasons.LOSSY)


def test_a_lossy_path_is_tried_more_and_more_rarely() -> None:
    world = direct()
    since = world.clock.now
    world.net.loss = 0.2
    world.chat(600, every_s=0.01, size=1000, both=False)
    taken = states(world.alice, since).count(RELAY)
    assert 3 <= taken <= 8


def test_one_lost_packet_is_no_death() -> None:
    world = direct()
    since = world.clock.now
    for _ in range(30):
        lose = [True]  # the next datagram, which has Alice's packet in it
        world.net.drops = lambda sender, datagram, lose=lose: bool(lose and lose.pop())
        world.chat(2, every_s=1)
    assert RELAY not in states(world.alice, since)
    assert world.alice.path.state is DIRECT


@pytest.mark.parametrize("small_too", [False, True])
def test_a_black_hole_for_large_datagrams_costs_two_seconds_at_most(small_too: bool) -> None:
    world = direct()
    world.chat(3, every_s=0.02, size=3000)
    assert world.alice.path.datagram_bytes == 1472
    since = world.clock.now
    world.net.mtu = 1300
    for _ in range(100):
        world.chat(0.02, every_s=0.01, size=3000, both=False)
        if small_too:
            world.chat(0.01, every_s=0.01, size=50, both=False)
    assert RELAY not in states(world.alice, since)
    assert world.alice.path.datagram_bytes == BASE_BYTES
    large = len(world.bob.got)
    world.chat(1, every_s=0.01, size=3000, both=False)
    assert len(world.bob.got) >= large + 97
    world.chat(60, every_s=0.05, size=3000)
    assert 1240 <= world.alice.path.datagram_bytes <= 1272


def test_a_black_hole_on_a_long_path_is_not_taken_for_loss() -> None:
    """By the time that the size in use has failed its probes, there were enough bad slots to leave."""
    world = World(relay_delay_s=0.3)
    world.net.delay_s = 0.25
    assert world.time_to_direct() is not None
    world.chat(5, every_s=0.02, size=3000)
    assert world.alice.path.datagram_bytes == 1472
    since = world.clock.now
    world.net.mtu = 1300
    for _ in range(200):
        world.chat(0.02, every_s=0.01, size=3000, both=False)
        world.chat(0.01, every_s=0.01, size=50, both=False)
    assert RELAY not in states(world.alice, since)
    assert world.alice.path.datagram_bytes == BASE_BYTES


def test_a_pair_that_was_proven_in_the_meantime_is_used_at_once() -> None:
    """The peer moved and we have its new address already when the old one turns out to be dead."""
    world = direct()
    old = world.alice.path.remote
    world.bob.nats[0].kind = "cone"
    world.bob.nats[0].flush(new_ports=True)
    world.alice.nats[0].kind = "cone"  # lets Bob's new port in
    since = world.clock.now
    world.chat(1, every_s=0.05)
    assert states(world.alice, since) == [DIRECT]
    assert world.alice.path.remote != old


@pytest.mark.parametrize(("source", "probed"), [("203.0.113.77", 1), ("127.0.0.1", 0)])
def test_a_peer_that_uses_another_pair_is_probed_once_and_not_for_each_run(
    source: str, probed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = direct()
    path, now = world.alice.path, world.clock.now
    sent = 0
    for _ in range(100):
        assert path.received(Endpoint(IPv4Address(source), PORT), 1000, True, now)
        while (output := path.poll_output()) is not None:
            sent += isinstance(output, Transmit)
    assert sent == probed
    calls = []
    monkeypatch.setattr(Probes, "may_probe", lambda self, endpoint: calls.append(endpoint))
    path.received(Endpoint(IPv4Address(source), PORT), 1000, True, now)
    assert len(calls) == 1 - probed


def test_after_a_change_of_networks_nothing_is_believed_of_the_old_one() -> None:
    world = direct()
    world.chat(2, every_s=0.05)
    assert world.alice.path.datagram_bytes == 1472
    world.alice.path.network_changed(world.clock.now)
    assert world.alice.path.datagram_bytes == BASE_BYTES


def test_a_change_of_networks_ends_the_peers_search_too() -> None:
    """Without traffic of our own nothing else would."""
    world = World()
    world.alice.path.traffic(world.clock.now)
    world.alice.pump()
    world.run(0.05)
    assert world.bob.path.state is SEARCH
    world.bob.path.network_changed(world.clock.now)
    assert world.bob.path.state is RELAY
    assert world.bob.path.why == reasons.NETWORK_CHANGED
    assert world.time_to_direct() is not None


def test_the_peers_nat_forgets_its_ports() -> None:
    """What comes from the new port is answered there, and used once the peer has acknowledged."""
    world = direct()
    old = world.alice.path.remote
    since = world.clock.now
    world.bob.nats[0].flush(new_ports=True)
    world.chat(2, every_s=0.05)
    assert world.longest_pause(since) <= 0.5
    assert world.both_direct
    assert world.alice.path.remote != old
    world.chat(30)
    assert RELAY not in states(world.alice, since)


def test_the_user_moves_to_another_network() -> None:
    world = direct()
    since = world.clock.now
    world.alice.nats[0].flush(new_ports=True)
    world.alice.set_address("192.168.9.9/24")
    world.alice.path.network_changed(world.clock.now)
    world.alice.pump()
    assert world.alice.path.carries_relay
    while not world.both_direct:
        world.chat(0.05, every_s=0.05)
        assert world.clock.now < since + 2
    assert world.longest_pause(since) <= 0.5


def test_a_peer_that_moves_is_not_made_to_wait_for_what_failed_before() -> None:
    world = direct()
    for path in (world.alice.path, world.bob.path):
        path._comeback.falls, path._comeback.direct_since = 4, world.clock.now
    world.alice.nats[0].flush(new_ports=True)
    world.alice.set_address("192.168.9.9/24")
    world.net.drops = lambda sender, datagram: True  # the old path is dead before the new one is found
    world.alice.path.network_changed(world.clock.now)
    world.alice.pump()
    world.chat(1.6, every_s=0.05)
    assert world.bob.path.state in (RELAY, SEARCH)
    world.net.drops = lambda sender, datagram: False
    since = world.clock.now
    while not world.both_direct:
        world.chat(0.1, every_s=0.05)
        assert world.clock.now < since + 2


def test_without_a_relay_the_direct_path_stays() -> None:
    world = direct()
    since = world.clock.now
    for end in (world.alice, world.bob):
        end.relay_up = end.path.relay_is_up = False
    world.chat(30)
    assert world.both_direct
    assert len(world.bob.got) == world._number
    world.alice.path.network_changed(world.clock.now)
    world.alice.pump()
    assert world.alice.path.carries_direct
    world.net.drops = lambda sender, datagram: True
    world.chat(10)
    assert world.alice.path.carries_direct, "there is nothing else"
    world.net.drops = lambda sender, datagram: False
    world.chat(2)
    assert world.both_direct
    assert RELAY not in states(world.alice, since)


def test_an_idle_path_is_kept_open_for_two_minutes_and_then_nothing_is_sent() -> None:
    """The NATs keep a mapping for 30 s only."""
    world = direct(expires_s=30.0)
    sent = world.alice.datagrams
    world.run(100)
    assert world.both_direct
    assert world.alice.datagrams - sent <= 40
    world.chat(1)
    assert world.both_direct
    world.run(121)
    assert world.alice.path.state is RELAY
    assert world.alice.path.why == reasons.IDLE
    both = world.alice.datagrams, world.bob.datagrams
    world.run(3600)
    assert (world.alice.datagrams, world.bob.datagrams) == both
    assert world.alice.path.poll_timeout() is None
    since = world.clock.now
    taken_s = world.time_to_direct()
    assert taken_s is None or world.clock.now - since <= 0.5
    assert world.both_direct


def test_under_traffic_no_keepalives_are_sent() -> None:
    """Reports are enough: beside data and reports hardly a datagram leaves."""
    world = direct()
    datagrams, packets = world.alice.datagrams, world._number
    world.chat(30, every_s=0.002, size=1000, both=False)
    assert world.alice.datagrams - datagrams - (world._number - packets) <= 20


def test_an_idle_path_that_died_is_not_used_by_the_next_packet() -> None:
    world = direct()
    world.net.drops = lambda sender, datagram: True
    world.run(25)
    assert world.alice.path.state is RELAY
    assert world.alice.path.why == reasons.SILENT


@pytest.mark.parametrize(
    ("was_s", "rtt_s", "better"),
    [(0.05, 0.045, False), (0.05, 0.041, False), (0.05, 0.039, True), (0.2, 0.185, False), (0.2, 0.15, True)],
)
def test_a_better_pair_is_one_that_is_clearly_better(was_s: float, rtt_s: float, better: bool) -> None:
    pair, other = Pair(Endpoint(IPv4Address("192.0.2.1"), 1)), Pair(Endpoint(IPv4Address("192.0.2.1"), 2))
    pair.took(was_s)
    other.took(rtt_s)
    assert other.is_better_than(pair) is better


def test_ipv6_is_preferred_where_it_is_hardly_slower() -> None:
    v4, v6 = Pair(Endpoint(IPv4Address("192.0.2.1"), 1)), Pair(Endpoint(IPv6Address("2001:db8::1"), 1))
    v4.took(0.050)
    for rtt_s, preferred in ((0.054, True), (0.056, False)):
        v6.rtt_s = rtt_s
        assert (v6.score_s < v4.score_s) is preferred


def answered(world: World, endpoint: Endpoint, rtt_s: float) -> None:
    """Alice probes this address, which answers."""
    path, now = world.alice.path, world.clock.now
    path._probes.send(endpoint, now - rtt_s, Purpose.SEARCH)
    output = path.poll_output()
    assert isinstance(output, Transmit)
    probe_id = decode_probe(output.records[0][1])
    path.on_ack(ProbeAck(probe_id, world.alice.local).encode(), endpoint, now)
    world.alice.pump()


def test_another_pair_is_used_when_it_was_better_three_times_in_a_row() -> None:
    world = direct()
    old, other = world.alice.path.remote, Endpoint(IPv4Address("203.0.113.15"), 7000)
    for rtt_s in (0.001, 0.001, 0.5, 0.001, 0.001):
        answered(world, other, rtt_s)
        world.alice.path._probes.pairs[other].rtt_s = rtt_s
        assert world.alice.path.remote == old
    for _ in range(3):
        answered(world, other, 0.001)
    assert world.alice.path.remote == other


def test_a_probe_that_comes_through_is_answered_by_one_of_ours_at_once() -> None:
    """Its NAT is open for us now; the schedule would wait for up to a second."""
    world = World()
    world.bob.path.session_ended(world.clock.now)
    path, bob = world.alice.path, Endpoint(IPv4Address("203.0.113.15"), PORT)
    entries = (Candidate(CandidateKind.REFLEXIVE, bob),)
    world.alice.candidates(Candidates(1, NatVerdict.EASY, 1472, 1, entries).encode())
    world.run(1.5)
    path.on_probe(encode_probe(9), bob, 64, world.clock.now)
    sent = []
    while (output := path.poll_output()) is not None:
        assert isinstance(output, Transmit)
        sent.append((output.to, output.records[0][0], output.ttl))
    assert sent == [(bob, RecordKind.PROBE_ACK, None), (bob, RecordKind.PROBE, None)]
    path.on_probe(encode_probe(10), bob, 64, world.clock.now + 0.01)
    assert isinstance(path.poll_output(), Transmit)
    assert path.poll_output() is None, "and no more often than every 40 ms"


def test_the_session_ends_and_everything_with_it() -> None:
    world = direct()
    world.alice.path.session_ended(world.clock.now)
    world.alice.pump()
    assert world.alice.path.why == reasons.NO_SESSION
    assert not world.alice.path.carries_direct
    assert world.alice.path.poll_timeout() is None
    world.alice.path.traffic(world.clock.now)
    assert world.alice.path.poll_output() is None


def test_switched_off_while_it_carries() -> None:
    world = direct()
    world.alice.path.set_mode("off", world.clock.now)
    world.alice.pump()
    since = world.clock.now
    world.run(0.03)
    assert world.bob.path.why == reasons.PEER_OFF, "it was told"
    world.chat(3)
    assert world.alice.path.state is RELAY
    assert world.alice.path.why == reasons.OFF
    assert world.longest_pause(since) <= 0.5
    assert not world.bob.path.carries_direct
    world.alice.path.set_mode("on", world.clock.now)
    world.chat(10)
    assert world.both_direct


FAULTS: dict[str, Callable[[End, bytes], bool]] = {
    "both": lambda sender, datagram: True,
    "one way": lambda sender, datagram: sender.name == "alice",
    "large": lambda sender, datagram: len(datagram) > 500,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_path_that_comes_and_goes_is_not_followed_each_time(fault: str) -> None:
    """Five minutes, in which it works for 5 s and then does not for 5 s."""
    world = direct()
    since = world.clock.now
    for _ in range(30):
        world.net.drops = FAULTS[fault]
        world.chat(5, every_s=0.02, size=800)
        world.net.drops = lambda sender, datagram: False
        world.chat(5, every_s=0.02, size=800)
    for end in (world.alice, world.bob):
        assert states(end, since).count(RELAY) <= 10
    assert world.longest_pause(since) <= 0.5


def test_a_peer_on_another_proven_pair_is_looked_at_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each datagram by it cost as much as opening it. One from an unproven address is always looked at."""
    around = Surroundings(4000)
    path = DirectPath(around, now=0.0, rng=random.Random(1).randbytes)
    path.session_started(0.0)
    ours, theirs, stranger = (Endpoint(IPv4Address(f"203.0.113.{n}"), 4000) for n in (1, 2, 3))
    for endpoint in (ours, theirs):
        path._probes.pair_at(endpoint).acked_at = 0.0
    path._use(path._probes.pair_at(ours), 0.0)
    heard: list[tuple[Endpoint, float]] = []
    monkeypatch.setattr(type(around.budget), "heard", lambda _, source, __, now: heard.append((source, now)))
    for now in (0.01, 0.02, 0.05, 0.01 + OTHER_PAIR_EVERY_S, 0.15):
        assert path.received(theirs, 100, True, now)
        assert path._probes.pair_at(theirs).heard_at == now
    assert heard == [(theirs, 0.01), (theirs, 0.01 + OTHER_PAIR_EVERY_S)]
    for now in (0.16, 0.17):
        assert path.received(stranger, 100, True, now)
    assert heard[2:] == [(stranger, 0.16), (stranger, 0.17)]
    path._use(path._probes.pair_at(theirs), 0.18)
    assert path.received(theirs, 100, True, 0.19)
    assert path._keepalive.heard_at == 0.19, "it is ours now"
