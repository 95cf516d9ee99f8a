"""Which pairs of networks get a direct path, how soon, and what is said where there is none."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from nconnect.model import Endpoint
from nconnect.tunnel.paths.direct import reasons
from nconnect.tunnel.paths.direct.finder import Finder
from nconnect.tunnel.paths.direct.outputs import PathState
from nconnect.wire.direct import Candidates, NatVerdict
from tests.tunnel.paths.direct.nats import Kind
from tests.tunnel.paths.direct.world import PORT, World

NETWORKS: dict[str, tuple[Kind, ...]] = {
    "none": (),
    "cone": ("cone",),
    "address": ("address",),
    "port": ("port",),
    "trap": ("trap",),
    "symmetric": ("symmetric",),
    "blocked": ("blocked",),
    "double": ("port", "port"),
    "double trap": ("port", "trap"),
}
STRICT = {"port", "trap", "double", "double trap"}  # let in only who was sent to, port included
EASY = sorted(set(NETWORKS) - {"symmetric", "blocked"})


@pytest.mark.parametrize("bob", EASY)
@pytest.mark.parametrize("alice", EASY)
def test_easy_nats_get_a_direct_path_soon(alice: str, bob: str) -> None:
    """With a relay of 40 ms and a path of 20 ms round trip."""
    world = World(NETWORKS[alice], NETWORKS[bob])
    taken_s = world.time_to_direct()
    assert taken_s is not None, (alice, bob, world.alice.path.why, world.bob.path.why)
    assert taken_s <= 0.3


@pytest.mark.parametrize("relay_delay_s", [0.005, 0.05, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("kind", ["port", "trap"])
def test_a_slow_relay_delays_it_by_little(kind: Kind, relay_delay_s: float) -> None:
    """The lists cross the relay twice; the side that answers spares the other's router for as long."""
    taken_s = World((kind,), (kind,), relay_delay_s=relay_delay_s).time_to_direct()
    assert taken_s is not None
    assert taken_s <= max(0.3, 0.25 + 3 * relay_delay_s)


@pytest.mark.parametrize("other", ["none", "cone", "address"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_hard_nat_is_met_at_the_address_that_its_probes_come_from(other: str, turned: bool) -> None:
    kinds = [NETWORKS["symmetric"], NETWORKS[other]]
    taken_s = World(*(kinds[::-1] if turned else kinds)).time_to_direct()
    assert taken_s is not None
    assert taken_s <= 0.3


@pytest.mark.parametrize(
    ("alice", "bob", "alice_says", "bob_says"),
    [
        ("symmetric", "symmetric", reasons.HARD, reasons.HARD),
        ("symmetric", "port", reasons.HARD_HERE, reasons.HARD_THERE),
        ("trap", "symmetric", reasons.HARD_THERE, reasons.HARD_HERE),
        ("blocked", "port", reasons.BLOCKED, reasons.PEER_BLOCKED),
        ("none", "blocked", reasons.PEER_BLOCKED, reasons.BLOCKED),
    ],
)
def test_what_cannot_work_says_why(alice: str, bob: str, alice_says: str, bob_says: str) -> None:
    world = World(NETWORKS[alice], NETWORKS[bob])
    assert world.time_to_direct() is None
    assert (world.alice.path.why, world.bob.path.why) == (alice_says, bob_says)
    assert world.alice.path.state is PathState.RELAY
    assert len(world.bob.got) == world._number, "the relay carried all of it"


def test_a_side_that_is_off_tells_nothing_and_is_left_in_peace() -> None:
    world = World(modes=("on", "off"))
    assert world.time_to_direct() is None
    assert (world.alice.path.why, world.bob.path.why) == (reasons.PEER_OFF, reasons.OFF)
    assert not world.bob.datagrams
    assert not world.alice.datagrams


def test_an_old_peer_is_left_in_peace() -> None:
    world = World()
    world.bob.path.session_ended(world.clock.now)  # as one that knows nothing of direct paths
    assert world.time_to_direct() is None
    assert world.alice.path.why == reasons.NO_ANSWER
    assert not world.alice.datagrams


def test_on_one_lan_the_private_addresses_win() -> None:
    world = World(same_lan=True)
    taken_s = world.time_to_direct()
    assert taken_s is not None
    assert taken_s <= 0.1, "no low TTL to a private address"
    assert str(world.alice.path.remote) == "192.168.0.11:41641"


def test_no_host_tells_only_what_the_internet_sees() -> None:
    world = World(modes=("no-host", "no-host"))
    assert world.time_to_direct() is not None
    told = world.alice.around.candidates("no-host")
    assert [str(each.endpoint) for each in told] == ["203.0.113.5:41641"]
    lan = World(same_lan=True, modes=("no-host", "no-host"))
    assert lan.time_to_direct() is None, "Linux does not hairpin"


def test_the_trap_is_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the low TTL a probe that comes too early makes an easy NAT a hard one."""
    monkeypatch.setattr(Finder, "_low_ttl_s", lambda self, *, knows_us: 0.0)
    world = World(("trap",), ("trap",), relay_delay_s=0.06)
    assert world.time_to_direct() is None
    assert World(("port",), ("port",), relay_delay_s=0.06).time_to_direct() is not None


def test_the_way_out_of_the_trap_is_a_pause() -> None:
    """Who fell into it anyway gets out, since searches rest for longer than the router remembers."""
    world = World(("trap",), ("trap",))
    for end in (world.alice, world.bob):
        end.nats[0].back(Endpoint(end.peer.nats[0].public, PORT), PORT, world.clock.now)
    assert world.time_to_direct() is None
    world.chat(60)
    assert world.both_direct


def test_a_path_that_is_slower_than_the_relay_is_not_used() -> None:
    world = World()
    world.net.delay_s = 0.2
    assert world.time_to_direct() is None
    assert world.alice.path.why == reasons.slower(0.4, 0.04)
    assert len(world.bob.got) == world._number


def test_a_path_whose_first_answers_were_late_is_used_in_the_same_search() -> None:
    """As on a machine that was busy just then."""
    world = World()
    world.net.delay_s = 0.2
    world.clock.after(0.8, lambda: setattr(world.net, "delay_s", 0.01))
    took_s = world.time_to_direct()
    assert took_s is not None
    assert 0.8 < took_s < 3.0


def test_searches_become_rarer_and_end_with_the_traffic() -> None:
    world = World(("symmetric",), ("symmetric",))
    world.chat(700)
    begun = [at - 1000.0 for at, state, _ in world.alice.states if state is PathState.SEARCH]
    pauses = [b - a for a, b in pairwise(begun)]
    assert [round(pause) for pause in pauses] == [10, 40, 75, 145, 285]
    sent = world.alice.datagrams
    world.run(1000)
    assert world.alice.datagrams == sent
    assert world.alice.path.poll_timeout() is None


def test_a_change_of_addresses_begins_a_search_at_once() -> None:
    world = World(("symmetric",), ("port",))
    world.chat(30)
    assert not world.both_direct
    for end in (world.alice,):
        end.nats[0].kind = "port"
        end.nats[0].flush()
        end.set_address("192.168.7.7/24")
        end.path.network_changed(world.clock.now)
        end.pump()
    assert world.time_to_direct() is not None


def test_both_begin_at_once() -> None:
    world = World()
    world.alice.send(1)
    world.bob.send(1)
    world.run(0.5)
    assert world.both_direct


def test_both_begin_at_once_over_a_slow_relay() -> None:
    """The answer to one's own search says that the other side has the list: no need to wait longer."""
    world = World(relay_delay_s=0.3)
    started = world.clock.now
    world.alice.send(1)
    world.bob.send(1)
    while not world.both_direct:
        world.run(0.01)
        assert world.clock.now < started + 0.72


@pytest.mark.parametrize("stun_s", [(0.0, 0.2), (0.2, 0.0), (0.4, 0.4), (0.0, 0.4), (0.1, 0.4)])
def test_a_slow_stun_server_leads_into_no_trap(stun_s: tuple[float, float]) -> None:
    """Who learns late where it is tells the peer late, and spares the peer's router until then."""
    world = World(("trap",), ("trap",), relay_delay_s=0.05)
    world.alice.stun_s, world.bob.stun_s = stun_s
    taken_s = world.time_to_direct()
    assert taken_s is not None
    assert taken_s <= 0.5 + sum(stun_s)


def test_packets_go_by_the_relay_until_then_and_by_the_path_afterwards() -> None:
    world = World()
    taken_s = world.time_to_direct()
    assert taken_s is not None
    relayed = world.alice.relayed
    world.chat(2)
    assert world.alice.relayed == relayed
    assert len(world.bob.got) == world._number
    assert {"relay", "direct"} == set(world.bob.got.values())


def test_what_the_peer_saw_is_known() -> None:
    world = World()
    world.time_to_direct()
    assert str(world.alice.path.seen) == "203.0.113.5:41641"
    assert world.alice.around.verdict is NatVerdict.EASY


def test_a_network_without_stun_is_found_by_the_other_sides_address() -> None:
    """Nobody tells Alice her public address; Bob has one of his own."""
    world = World(("port",), ())
    silent: Any = lambda end, done: None  # noqa: E731
    world.net.ask_stun = silent  # type: ignore[method-assign]
    world.alice.around.has_stun = world.bob.around.has_stun = False
    taken_s = world.time_to_direct()
    assert taken_s is not None
    assert taken_s <= 0.3


def test_traffic_after_a_silence_begins_a_search() -> None:
    world = World(("symmetric",), ("symmetric",))
    world.chat(100)
    assert world.alice.path.state is PathState.RELAY
    world.run(20)
    world.alice.path.traffic(world.clock.now)
    assert world.alice.path.state is PathState.RELAY
    world.run(31)
    world.alice.path.traffic(world.clock.now)
    assert world.alice.path.state is PathState.SEARCH


def test_a_peer_that_is_somewhere_else_ends_the_back_off() -> None:
    world = World(("symmetric",), ("symmetric",))
    world.chat(100)
    finder = world.alice.path._finder
    assert finder._failures > 2
    before = finder.theirs
    assert before is not None
    same, moved = (
        Candidates(9, before.verdict, 1472, number, before.entries[1:] if number == 2 else before.entries)
        for number in (1, 2)
    )
    world.alice.candidates(same.encode())
    assert finder._failures > 2
    world.run(6)
    world.alice.candidates(moved.encode())
    assert finder._failures == 0
