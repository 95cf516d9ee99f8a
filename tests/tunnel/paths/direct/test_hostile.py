"""An authenticated peer that lies, and strangers with datagrams: what they can make this device send."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import DropReason
from nconnect.model import Endpoint
from nconnect.tunnel.paths.direct.budget import HOUR_S, MAX_NAMED
from nconnect.tunnel.paths.direct.candidates import Route
from nconnect.tunnel.paths.direct.constants import HOUR_BYTES, LISTS_BURST, MAX_TARGETS, SEARCH_BYTES
from nconnect.tunnel.paths.direct.outputs import PathState, SendCandidates, Transmit
from nconnect.tunnel.paths.direct.path import DirectPath
from nconnect.tunnel.paths.direct.probes import MAX_ASKED, MAX_PAIRS, Purpose
from nconnect.wire.direct import Candidate, CandidateKind, Candidates, NatVerdict, encode_probe
from nconnect.wire.tunnel import RecordKind, control_batch
from tests.tunnel.paths.direct.world import World

VICTIM = ip_address("203.0.113.66")


def lie(search_id: int, *endpoints: Endpoint, revision: int = 1) -> bytes:
    entries = tuple(Candidate(CandidateKind.REFLEXIVE, endpoint) for endpoint in endpoints)
    return Candidates(revision, NatVerdict.EASY, 1472, search_id, entries).encode()


def quiet_world() -> World:
    """Alice is alone: nothing comes from Bob but what the test makes."""
    world = World()
    world.bob.path.session_ended(world.clock.now)
    return world


def to_victim(world: World) -> int:
    return sum(size for _, to, size in world.net.sent_to if to.address == VICTIM)


def test_a_victim_named_as_a_candidate_gets_little() -> None:
    """Eight of its ports in each of 700 searches within an hour; Alice has traffic all the time."""
    world = quiet_world()
    victim = [Endpoint(VICTIM, port) for port in (1900, 3478, 3702, 5353, 8080, 11211, 27015, 30718)]
    for search in range(700):
        before = to_victim(world)
        world.alice.candidates(lie(search + 1, *victim))
        world.chat(3.5, every_s=0.7, both=False)
        assert to_victim(world) - before <= 2 * SEARCH_BYTES
    assert 0 < to_victim(world) <= HOUR_BYTES
    assert world.clock.now < 1000 + 3600


def test_many_peers_together_get_no_more() -> None:
    world = quiet_world()
    rng = random.Random(1)
    for number in range(50):
        world.alice.path = DirectPath(world.alice.around, now=world.clock.now, rng=rng.randbytes)
        world.alice.path.session_started(world.clock.now)
        world.alice.candidates(lie(number + 1, Endpoint(VICTIM, 5353), Endpoint(VICTIM, 5354)))
        world.run(6)
    assert HOUR_BYTES / 2 < to_victim(world) <= HOUR_BYTES


def test_a_forged_source_gets_three_times_what_was_sent_in_its_name() -> None:
    world = World()
    assert world.time_to_direct() is not None
    victim = Endpoint(VICTIM, 5353)
    forged = 0
    for number in range(300):
        datagram = world.bob.keys.seal(control_batch((RecordKind.PROBE, encode_probe(number))))
        world.alice.datagram(victim, datagram)
        forged += len(datagram) + 28
        world.chat(0.1, every_s=0.1)
    assert 0 < to_victim(world) <= 3 * forged
    assert world.alice.path.remote != victim


def test_a_forged_source_moves_nothing_without_an_answer() -> None:
    """A genuine datagram, copied and sent first from elsewhere: asked there, and not believed."""
    world = World()
    assert world.time_to_direct() is not None
    remote = world.alice.path.remote
    for _ in range(20):
        datagram = world.bob.keys.seal(control_batch((RecordKind.PACKET, bytes(30))))
        world.alice.datagram(Endpoint(VICTIM, 4000), datagram)
        world.chat(0.5)
        assert world.alice.path.remote == remote
        assert world.alice.path.state is PathState.DIRECT
    assert 0 < to_victim(world) <= 20 * 3 * (54 + 28)


def test_an_answer_from_elsewhere_proves_nothing() -> None:
    """Whoever can answer for an address has got the probe there; nobody else's answer counts."""
    world = quiet_world()
    world.alice.candidates(lie(1, Endpoint(VICTIM, 5353)))
    asked = list(world.alice.path._probes._asked)
    assert asked
    for probe_id in (*asked, 1, 2**64 - 1):
        body = probe_id.to_bytes(8, "little") + bytes([4, 0, 1, 0]) + VICTIM.packed + bytes(12)
        world.alice.path.on_ack(body, Endpoint(ip_address("203.0.113.67"), 53), world.clock.now)
    world.run(1)
    assert world.alice.path.state is PathState.SEARCH


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.1.1", "0.0.0.0", "::1", "ff02::1"]
)
def test_what_no_peer_has_is_counted_and_not_probed(address: str) -> None:
    world = quiet_world()
    world.alice.candidates(lie(1, Endpoint(ip_address(address), 53)))
    world.run(6)
    assert world.alice.path.drops[DropReason.BAD_CANDIDATE] == 1
    assert not world.alice.datagrams


@pytest.mark.parametrize("port", [22, 53, 123, 1023])
def test_a_service_of_somebody_is_not_probed(port: int) -> None:
    world = quiet_world()
    world.alice.candidates(lie(1, Endpoint(VICTIM, port)))
    world.run(6)
    assert world.alice.path.drops[DropReason.BAD_CANDIDATE] == 1
    assert not to_victim(world)


def test_a_peer_cannot_have_a_network_scanned() -> None:
    """Nor fill the table of addresses, in which the other peers' would have no place for an hour."""
    world = quiet_world()
    for search in range(200):
        named = [Endpoint(ip_address(f"203.0.{search}.{host}"), 5353) for host in range(8)]
        world.alice.candidates(lie(search + 1, *named))
        world.chat(3.5, every_s=0.7, both=False)
    probed = {to.address for _, to, _ in world.net.sent_to if to.port == 5353}
    assert MAX_NAMED / 2 < len(probed) <= MAX_NAMED
    assert world.alice.path.drops[DropReason.BAD_CANDIDATE] >= 200 * 8 - MAX_NAMED
    world.run(HOUR_S)
    world.alice.candidates(lie(1000, Endpoint(VICTIM, 5353)))
    world.run(1)
    assert to_victim(world)


def test_of_a_flood_of_lists_few_are_read() -> None:
    world = quiet_world()
    for revision in range(1000):
        world.alice.path.on_candidates(lie(1, Endpoint(VICTIM, 5353), revision=revision), world.clock.now)
    assert world.alice.path.drops[DropReason.BAD_CANDIDATE] == 1000 - LISTS_BURST
    world.run(1)
    world.alice.path.on_candidates(lie(1, Endpoint(VICTIM, 5353), revision=1000), world.clock.now)
    assert world.alice.path._finder.theirs is not None
    assert world.alice.path._finder.theirs.revision == 1000


@pytest.mark.parametrize("relay_is_up", [True, False])
def test_an_address_that_a_tunnel_now_covers_is_left(relay_is_up: bool) -> None:
    """Its datagrams would be packets for the tunnel, each of which would be another one."""
    world = World()
    assert world.time_to_direct() is not None
    path, around = world.alice.path, world.alice.around
    path.relay_is_up = relay_is_up
    before = around.network
    assert path.remote is not None
    covers = Route(ip_network((path.remote.address, 32)), is_tunnel=True)
    for network, leaves in (
        (replace(before, routes=before.routes), False),
        (replace(before, routes=(*before.routes, covers)), True),
    ):
        around.set_network(network)
        path.candidates_changed(world.clock.now)
        assert path.carries_direct is not leaves
    sent = world.alice.datagrams
    world.chat(10.0)
    assert world.alice.datagrams == sent


def test_malformed_records_are_counted_and_change_nothing() -> None:
    world = World()
    assert world.time_to_direct() is not None
    path, source, now = world.alice.path, Endpoint(VICTIM, 4001), world.clock.now
    path.on_candidates(b"short", now)
    path.on_probe(bytes(35), source, 59, now)
    path.on_ack(bytes(28), source, now)
    assert path.drops == {DropReason.BAD_RECORD: 3}
    assert path.poll_output() is None
    assert path.state is PathState.DIRECT


def test_an_old_list_does_not_replace_a_newer_one() -> None:
    world = quiet_world()
    path = world.alice.path
    path.on_candidates(lie(1, Endpoint(VICTIM, 1), revision=5), world.clock.now)
    path.on_candidates(lie(1, Endpoint(VICTIM, 2), revision=4), world.clock.now)
    assert path._finder.theirs is not None
    assert path._finder.theirs.revision == 5


def test_a_peer_that_started_again_is_heard() -> None:
    """Its revisions begin anew, and the session may never have ended here."""
    world = quiet_world()
    world.alice.path.on_candidates(lie(1, Endpoint(VICTIM, 1), revision=5), world.clock.now)
    world.run(10)
    world.alice.path.on_candidates(lie(2, Endpoint(VICTIM, 2), revision=0), world.clock.now)
    assert world.alice.path._finder.theirs is not None
    assert world.alice.path._finder.theirs.entries[0].endpoint.port == 2


def test_a_flood_of_searches_is_answered_twice_a_second() -> None:
    world = quiet_world()
    answers = 0
    for search in range(1000):
        world.alice.path.on_candidates(lie(search + 1), world.clock.now)
        while (output := world.alice.path.poll_output()) is not None:
            answers += isinstance(output, SendCandidates)
        world.clock.run_until(world.clock.now + 0.01)
    assert 10 <= answers <= 25


def test_memory_is_bounded() -> None:
    """Probes from any number of addresses: neither targets, nor pairs, nor what is asked grow without end."""
    world = World()
    world.alice.send(1)
    path, now = world.alice.path, world.clock.now
    for number in range(1000):
        source = Endpoint(ip_address(0xC6336400 + number % 200), 1000 + number)
        path.received(source, 64, True, now)
        path.on_probe(encode_probe(number), source, 64, now)
        while (output := path.poll_output()) is not None:
            if isinstance(output, Transmit) and output.records[0][0] is RecordKind.PROBE:
                body = output.records[0][1][:8] + bytes([4, 0, 1, 0]) + VICTIM.packed + bytes(12)
                path.on_ack(body, output.to, now)
    assert path._finder.search is None or len(path._finder.search.targets) <= MAX_TARGETS
    assert len(path._probes.pairs) <= MAX_PAIRS
    assert len(path._probes._asked) <= MAX_ASKED
    quiet = quiet_world()
    for number in range(1000):
        quiet.alice.path._probes.send(Endpoint(ip_address(0xC6336400 + number), 4001), now, Purpose.CHECK)
    assert len(quiet.alice.path._probes._asked) == MAX_ASKED


@given(st.lists(st.tuples(st.sampled_from(["probe", "ack", "list"]), st.binary(max_size=80)), max_size=20))
def test_any_bytes_from_a_peer_are_read_or_counted(records: list[tuple[str, bytes]]) -> None:
    world = World()
    world.alice.send(1)
    path = world.alice.path
    for kind, body in records:
        source = Endpoint(VICTIM, 1 + len(body))
        if kind == "probe":
            path.on_probe(body, source, len(body) + 28, world.clock.now)
        elif kind == "ack":
            path.on_ack(body, source, world.clock.now)
        else:
            path.on_candidates(body, world.clock.now)
        world.alice.pump()
        world.run(0.3)
