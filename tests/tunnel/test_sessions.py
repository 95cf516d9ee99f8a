"""The life of a session in virtual time: rekeys, restarts, closing, expiry, who is not there, outages."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_network

import pytest

from nconnect.crypto.aead import CipherSuite
from nconnect.errors import DropReason
from nconnect.ip.packet import PROTOCOL_TCP
from nconnect.model import PeerConfig
from nconnect.tunnel.constants import (
    ANSWER_S,
    HANDSHAKE_JITTER_S,
    HANDSHAKE_RETRY_S,
    KEEPALIVE_S,
    PERSISTENT_KEEPALIVE_S,
    QUESTION_S,
    REJECT_AFTER_S,
    REKEY_AFTER_S,
    REKEY_ATTEMPT_S,
    RETURN_S,
)
from nconnect.tunnel.outputs import Pong, SessionUp, Settings
from nconnect.tunnel.peer import PeerState
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES
from tests.sim.network import WALL_EPOCH_NS, Faults, Host, Simulation, ip, packet, pair
from tests.tunnel.hostile import (
    attempt,
    batch_of,
    captured,
    connected,
    count,
    initiation,
    passes,
    sealed_by,
)
from tests.tunnel.sides import (
    ON_DEMAND,
    PERSISTENT,
    UP,
    both_up,
    indices,
    is_up_within,
    to_provider,
    to_user,
)

YEAR_NS = 365 * 86400 * 10**9


# Rekey


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("provider_suite", CipherSuite)
def test_rekeys_under_heavy_reordering_lose_and_double_nothing(
    seed: int, provider_suite: CipherSuite
) -> None:
    sim = Simulation(seed)
    sim.faults = Faults(delay=(0.0, 0.5), duplicate=0.2)
    user, provider = pair(sim, provider=Settings(provider_suite, persistent=False))
    assert sim.run(20, lambda: both_up(user, provider))
    sent_up, sent_down = [], []
    keys = set()
    for number in range(5 * int(REKEY_AFTER_S) * 5):
        up, down = to_provider(number), to_user(number)
        user.send_packet(*up)
        provider.send_packet(*down)
        sent_up.append(up[0])
        sent_down.append(down[0])
        sim.run(0.2)
        keys.add(indices(user, provider))
    sim.run(2)
    assert len(keys) >= 5
    assert sorted(provider.delivered) == sorted(sent_up)
    assert sorted(user.delivered) == sorted(sent_down)
    assert not user.lost()
    assert not provider.lost()
    assert set(user.dropped()) | set(provider.dropped()) <= {
        "replayed",  # the duplicates
        "no_session",  # a response that came after its attempt's end
        "handshake_replayed",
        "handshake_flood",
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_rekey_every_second_loses_nothing(seed: int) -> None:
    """A packet each way every 10 ms for half a minute, on a path that delays each by up to 0.3 s."""
    sim = Simulation(seed)
    sim.faults = Faults(delay=(0.0, 0.3))
    often = dataclasses.replace(PERSISTENT, rekey_after_s=1.0)
    user, provider = pair(sim, user=often)
    assert sim.run(20, lambda: both_up(user, provider))
    sent_up, sent_down, keys = [], [], set()
    for number in range(3000):
        up, down = to_provider(number), to_user(number)
        user.send_packet(*up)
        provider.send_packet(*down)
        sent_up.append(up[0])
        sent_down.append(down[0])
        sim.run(0.01)
        keys.add(indices(user, provider))
    sim.run(2)
    assert len(keys) >= 20
    assert sorted(provider.delivered) == sorted(sent_up)
    assert sorted(user.delivered) == sorted(sent_down)
    assert not user.dropped()
    assert not provider.dropped()


@pytest.mark.parametrize("seed", range(3))
def test_ten_thousand_messages_in_a_node_s_disorder(seed: int) -> None:
    """40 to 85 % arrive after a later one, displaced by up to 825."""
    sim = Simulation(seed)
    user, provider = pair(sim)
    assert passes(sim, user, provider)
    provider.delivered.clear()
    total = 10_000
    messages = [sealed_by(user, provider, batch_of(to_provider(n)[0])) for n in range(total)]
    place = [n + (sim.random.randrange(1, 826) if sim.random.random() < 0.6 else 0) for n in range(total)]
    order = sorted(range(total), key=lambda n: (place[n], n))
    newest = late = furthest = 0
    for position, number in enumerate(order):
        late += number < newest
        newest = max(newest, number)
        furthest = max(furthest, position - number)
        provider.receive(str(user.address), messages[number])
    assert 0.40 <= late / total <= 0.85
    assert 400 < furthest <= 825
    assert len(provider.delivered) == total
    assert set(provider.delivered) == {to_provider(n)[0] for n in range(total)}
    for number in order:
        provider.receive(str(user.address), messages[number])
    assert len(provider.delivered) == total
    assert count(provider, "replayed") == total


def test_the_initiator_renews_and_the_responder_does_not() -> None:
    sim, user, provider = connected()
    first = indices(user, provider)
    from_provider = len(captured(sim, provider, boxed_ones=True))
    for number in range(int(REKEY_AFTER_S) + 10):
        sim.run(1)
        user.send_packet(*to_provider(number))
        provider.send_packet(*to_user(number))
    sim.run(1)
    assert indices(user, provider) != first
    assert len(captured(sim, user, boxed_ones=True)) == 2
    assert len(captured(sim, provider, boxed_ones=True)) == from_provider + 1


def test_no_key_outlives_three_minutes_however_often_keys_are_renewed() -> None:
    """So nobody who gets at a device reads what was sent before, with what it holds."""
    sim, user, provider = connected()
    seen: dict[tuple[str, int], float] = {}
    for number in range(5 * int(REKEY_AFTER_S)):
        sim.run(1)
        if number < 3 * REKEY_AFTER_S:  # then both are idle
            user.send_packet(*to_provider(number))
        for host, other in ((user, provider), (provider, user)):
            session = host.peer(other).session
            for pair_ in (session.crossed, session.previous, session.current, session.next):
                if pair_ is not None:
                    since = seen.setdefault((host.name, pair_.local_index), sim.now)
                    assert sim.now - since <= REJECT_AFTER_S + 1
    assert len(seen) >= 8, "two sides, three renewals and more"


def test_keys_of_an_idle_session_on_demand_are_erased() -> None:
    sim, user, provider = connected(user=ON_DEMAND)
    sim.run(REJECT_AFTER_S + 1)
    for host, other in ((user, provider), (provider, user)):
        session = host.peer(other).session
        assert session.current is session.previous is session.next is None
        assert host.peer(other).state is PeerState.STALE
        assert len(host.lost()) == 1
    assert passes(sim, user, provider)


# Restart


@pytest.mark.parametrize("who", ["user", "provider"])
@pytest.mark.parametrize("settings", [PERSISTENT, ON_DEMAND])
def test_a_restart_of_either_side_is_noticed_within_two_seconds_of_traffic(
    who: str, settings: Settings
) -> None:
    sim, user, provider = connected(user=settings)
    host = user if who == "user" else provider
    host.stopped = True
    sim.run(3)
    host.restart()
    other = provider if host is user else user
    started = sim.now
    number = 0
    before = len(host.delivered)
    send = to_user if other is provider else to_provider
    while len(host.delivered) == before and sim.now < started + 10:
        other.send_packet(*send(number))
        number += 1
        sim.run(0.1)
    assert sim.now - started < 2.0
    assert passes(sim, user, provider)
    assert passes(sim, provider, user)


# The end of a session


def test_close_is_heard_and_nothing_begins_again_by_what_still_arrives() -> None:
    sim, user, provider = connected()
    provider.tunnel.close(sim.now)
    late = sealed_by(user, provider, batch_of(to_provider(1)[0]))
    provider.drain()
    sent = len(captured(sim, provider, boxed_ones=True))
    provider.receive(str(user.address), late)
    sim.run(1)
    assert user.lost() == ["gpu has gone offline"]
    assert user.peer(provider).session.current is None
    assert provider.tunnel.poll_timeout() is None
    assert len(captured(sim, provider, boxed_ones=True)) == sent
    provider.restart()
    assert sim.run(20, lambda: both_up(user, provider))  # it tries again by itself


def test_close_of_the_user_stays_closed() -> None:
    sim, user, provider = connected()
    user.tunnel.close(sim.now)
    user.drain()
    sim.run(60)
    assert provider.lost() == ["laptop has gone offline"]
    assert provider.peer(user).session.current is None


def expiring(sim: Simulation, at_s: float) -> tuple[Host, Host]:
    user, provider = pair(sim)
    config = dataclasses.replace(provider.peer(user).config, expires_at=WALL_EPOCH_NS / 1e9 + at_s)
    provider.tunnel.set_peers([config], sim.now)
    return user, provider


def test_a_peer_expires_on_time_and_is_refused_from_then_on() -> None:
    sim = Simulation()
    user, provider = expiring(sim, sim.now + 100)
    assert passes(sim, user, provider)
    sim.run(96)
    assert passes(sim, user, provider)
    sim.run(10)
    assert provider.peer(user).state is PeerState.EXPIRED
    assert provider.lost() == ["laptop has expired"]
    assert not passes(sim, user, provider)
    assert count(provider, "peer_expired") > 0
    before = count(provider, "peer_expired")
    provider.receive(str(user.address), initiation(user, provider, attempt(user, provider)))
    assert count(provider, "peer_expired") == before + 1
    provider.send_packet(*to_user(1))
    assert not provider.peer(user).path.lane.queue
    assert provider.peer(user).session.next is None
    # A later date lets it in again.
    config = dataclasses.replace(provider.peer(user).config, expires_at=None)
    provider.tunnel.set_peers([config], sim.now)
    sim.run(6)
    assert passes(sim, user, provider)


def test_expiry_follows_a_clock_that_was_set() -> None:
    sim = Simulation()
    user, provider = expiring(sim, 86_400)
    assert passes(sim, user, provider)
    provider.wall_offset_ns = YEAR_NS
    sim.run(61)
    assert provider.peer(user).state is PeerState.EXPIRED
    provider.wall_offset_ns = 0
    sim.run(90)
    assert passes(sim, user, provider)


# The peer table


def test_an_unchanged_peer_keeps_its_session() -> None:
    sim, user, provider = connected()
    config = provider.peer(user).config
    before = indices(provider, user)
    renamed = dataclasses.replace(
        config, name="other", allowed_ips=(ip_network("10.86.0.2/32"), ip_network("10.86.7.0/24"))
    )
    handshakes = len(captured(sim, user, boxed_ones=True))
    provider.tunnel.set_peers((peer for peer in (renamed,)), sim.now)
    assert indices(provider, user) == before
    assert provider.tunnel.peer_named("other") is provider.peer(user)
    assert provider.tunnel.peer_named("laptop") is None
    batch = batch_of(packet("10.86.7.9", "192.168.50.10"))
    provider.receive(str(user.address), sealed_by(user, provider, batch))
    assert provider.delivered[-1] == packet("10.86.7.9", "192.168.50.10")
    assert passes(sim, user, provider)
    assert len(captured(sim, user, boxed_ones=True)) == handshakes


def test_prefixes_that_are_taken_away_are_refused_at_once() -> None:
    sim, user, provider = connected()
    config = provider.peer(user).config
    provider.tunnel.set_peers(
        [dataclasses.replace(config, allowed_ips=(ip_network("10.86.0.9/32"),))], sim.now
    )
    assert not passes(sim, user, provider)
    assert count(provider, "spoofed_source") > 0
    assert provider.tunnel.routes.owner(ip("10.86.0.2")) is None


@pytest.mark.parametrize("change", ["removed", "psk"])
def test_a_removed_peer_or_changed_key_erases_the_session(change: str) -> None:
    sim, user, provider = connected()
    peer = provider.peer(user)
    provider.tunnel.enqueue(peer, bytearray(to_user(1)[0]), sim.now)
    late = sealed_by(user, provider, batch_of(to_provider(1)[0]))
    fresh = [] if change == "removed" else [dataclasses.replace(peer.config, preshared_key=b"k" * 32)]
    provider.tunnel.set_peers(fresh, sim.now)
    assert peer.session.current is peer.session.next is peer.session.previous is None
    assert not peer.path.lane.queue
    assert not provider.tunnel.backlog
    provider.receive(str(user.address), late)
    assert to_provider(1)[0] not in provider.delivered
    provider.flush()
    sim.run(30)
    assert not both_up(user, provider) if change == "psk" else not provider.tunnel.peers


def test_a_key_that_is_none_leaves_the_table_as_it_was() -> None:
    sim, user, provider = connected()
    config = provider.peer(user).config
    bad = dataclasses.replace(
        config, address=dataclasses.replace(config.address, public_key=b"\x02" + bytes(31))
    )
    with pytest.raises(ValueError, match=r"."):
        provider.tunnel.set_peers([bad], sim.now)
    assert passes(sim, user, provider)


# Timers


def test_an_unanswered_batch_is_noticed_when_a_question_is_not_answered_either_and_said_once() -> None:
    for settings in (ON_DEMAND, PERSISTENT):
        sim, user, provider = connected(user=settings)
        sim.run(KEEPALIVE_S + 1)
        provider.stopped = True
        user.send_packet(*to_provider(1))
        sim.run(QUESTION_S + ANSWER_S - 0.1)
        assert user.peer(provider).state is UP
        sim.run(0.2)
        assert user.peer(provider).state is PeerState.STALE
        for number in range(50):
            user.send_packet(*to_provider(number))
            sim.run(1)
        assert user.lost() == ["gpu does not answer"]
        provider.stopped = False
        assert passes(sim, user, provider, within_s=10)
        assert is_up_within(sim, 10, user, provider)
        assert isinstance(user.events[-1], SessionUp)


def test_a_peer_that_has_nothing_to_say_is_asked_and_not_doubted() -> None:
    sim, user, provider = connected(user=ON_DEMAND)
    sim.run(2 * KEEPALIVE_S)
    heard_at = user.peer(provider).last_received_at
    user.send_packet(*to_provider(1))
    sim.run(QUESTION_S - 0.1)
    assert user.peer(provider).last_received_at == heard_at
    sim.run(0.2)
    assert user.peer(provider).last_received_at == pytest.approx(sim.now, abs=0.2), "it answered at once"
    sim.run(KEEPALIVE_S)
    assert user.lost() == []


def test_what_is_sent_to_a_silent_peer_waits_after_a_few_seconds() -> None:
    """And is there at once when it returns: not lost, as it would be for the first fifteen seconds."""
    sim, user, provider = connected()
    sim.run(KEEPALIVE_S + 1)
    provider.stopped = True
    user.send_packet(*to_provider(1))
    sim.run(QUESTION_S + ANSWER_S + 0.1)
    newest = to_provider(2)
    user.send_packet(*newest)
    sim.run(1.0)
    assert user.peer(provider).path.lane.queue
    provider.stopped = False
    sim.run(HANDSHAKE_RETRY_S[-1] + HANDSHAKE_JITTER_S + 0.5)
    assert newest[0] in provider.delivered


def test_a_provider_that_only_sends_notices_too() -> None:
    sim, user, provider = connected()
    sim.run(KEEPALIVE_S + 1)
    user.stopped = True
    provider.send_packet(*to_user(1))
    sim.run(QUESTION_S + ANSWER_S + 0.1)
    assert provider.lost() == ["laptop does not answer"]


def test_one_way_traffic_is_answered_now_and_then() -> None:
    sim, user, provider = connected(user=ON_DEMAND)
    for number in range(100):
        user.send_packet(*to_provider(number))
        sim.run(0.99)
    sent = [s for s, _, p in sim.sent if s == str(provider.address)]
    assert not user.lost()
    assert 8 <= len(sent) <= 100 / QUESTION_S + 2


def test_a_keepalive_wants_no_answer() -> None:
    """Two idle sides do not keep each other awake."""
    sim, _, _ = connected(user=ON_DEMAND)
    sim.run(40)
    before = len(sim.sent)
    sim.run(120)
    assert len(sim.sent) == before


def test_who_is_not_there_is_given_up_and_tried_again_only_when_wanted() -> None:
    for settings, wanted in ((ON_DEMAND, False), (PERSISTENT, True)):
        sim = Simulation()
        user, provider = pair(sim, user=settings)
        provider.stopped = True
        user.send_packet(*to_provider(1))
        sim.run(REKEY_ATTEMPT_S + 1)
        assert 15 <= len(sim.sent) <= 31  # a quarter of them to spare links of the peer
        assert count(user, "no_key") == 0, "the newest packet of a flow is worth another try"
        sim.run(REKEY_ATTEMPT_S + 1)
        assert count(user, "no_key") == 1
        assert not user.peer(provider).path.lane.queue
        tries = len(sim.sent)
        assert 30 <= tries <= 62
        sim.run(60)
        assert (len(sim.sent) > tries) is wanted
        provider.stopped = False
        if not wanted:
            user.send_packet(*to_provider(2))
        assert is_up_within(sim, 40, user, provider)


@pytest.mark.parametrize(("settings", "bound"), [(ON_DEMAND, 5), (PERSISTENT, 1200)])
def test_an_idle_tunnel_wakes_rarely(settings: Settings, bound: int) -> None:
    sim, user, provider = connected(user=settings)
    sim.run(600)
    before = user.wakeups + provider.wakeups
    sim.run(3600)
    assert user.wakeups + provider.wakeups - before < bound


def test_a_lone_user_waits_without_hurry() -> None:
    """Nobody answers for an hour: retries, but no flood of them."""
    sim = Simulation()
    user, provider = pair(sim)
    provider.stopped = True
    sim.run(3600)
    assert user.wakeups < 1500
    assert len(sim.sent) < 1000


def test_a_persistent_peer_keeps_its_path_fresh_and_on_demand_keeps_silent() -> None:
    sim, user, provider = connected()
    sim.run(KEEPALIVE_S)  # until what was sent before is answered
    before, asked = len(user.events), len(provider.events)
    sim.run(10 * PERSISTENT_KEEPALIVE_S)
    pongs = [event for event in user.events[before:] if isinstance(event, Pong)]
    assert 8 <= len(pongs) <= 12
    assert all(pong.rtt_s == pytest.approx(0.02) for pong in pongs)
    assert not any(isinstance(event, Pong) for event in provider.events[asked:])


def test_persistent_connects_by_itself_and_on_demand_does_not() -> None:
    sim = Simulation()
    user, provider = pair(sim, user=ON_DEMAND)
    sim.run(100)
    assert user.peer(provider).state is PeerState.NEVER
    assert not sim.sent
    sim = Simulation()
    user, provider = pair(sim, user=PERSISTENT)
    assert sim.run(1, lambda: both_up(user, provider))


def test_a_running_tunnel_becomes_persistent_and_again_on_demand() -> None:
    def configure(persistent: bool) -> None:
        user.tunnel.configure(persistent=persistent, accept_pending=False, direct="on")
        user.tunnel.set_peers([peer.config for peer in user.tunnel.peers.values()], sim.now)
        user.drain()

    sim = Simulation()
    user, provider = pair(sim, user=dataclasses.replace(ON_DEMAND))
    sim.run(100)
    assert not sim.sent
    configure(persistent=True)
    assert sim.run(1, lambda: both_up(user, provider))
    sim.run(1.5 * PERSISTENT_KEEPALIVE_S)
    configure(persistent=False)
    sim.run(1)
    before = len(user.events)
    sim.run(10 * PERSISTENT_KEEPALIVE_S)
    assert not any(isinstance(event, Pong) for event in user.events[before:])


def test_link_up_tries_again_at_once() -> None:
    sim = Simulation()
    sim.faults.cut = True
    user, provider = pair(sim)
    sim.run(30)
    sim.faults.cut = False
    user.tunnel.link_up(sim.now)
    user.drain()
    assert sim.run(0.2, lambda: both_up(user, provider))
    # With a session it asks whether that still lives.
    sim.run(1)
    user.tunnel.link_up(sim.now)
    user.drain()
    assert sim.run(0.1, lambda: isinstance(user.events[-1], Pong))
    # So does who keeps sessions on demand only, and begins none: the other may have given it up.
    provider.tunnel.link_up(sim.now)
    provider.drain()
    assert sim.run(0.1, lambda: isinstance(provider.events[-1], Pong))
    user.stopped = True
    sim.run(200)
    before = len(sim.sent)
    provider.tunnel.link_up(sim.now)
    provider.drain()
    assert len(sim.sent) == before


@pytest.mark.parametrize("user_first", [True, False])
def test_the_second_link_that_returns_brings_the_session_at_once(user_first: bool) -> None:
    """Both sides have started handshakes by then, and the first one's is lost: nobody was there."""
    sim = Simulation()
    user, provider = pair(sim)
    sim.run(1)
    sim.faults.cut = True
    for number in range(100):
        user.send_packet(*to_provider(number))
        provider.send_packet(*to_user(number))
        sim.run(0.1)
    assert user.peer(provider).handshake.attempt is not None
    assert provider.peer(user).handshake.attempt is not None
    first, second = (user, provider) if user_first else (provider, user)
    first.tunnel.link_up(sim.now)
    first.drain()
    sim.run(0.2)
    sim.faults.cut = False
    second.tunnel.link_up(sim.now)
    second.drain()
    user.delivered.clear()
    provider.delivered.clear()
    round_trip_s = 0.02
    sim.run(2 * round_trip_s)
    assert user.delivered
    assert provider.delivered


def test_the_newest_packet_of_each_flow_outlives_an_outage() -> None:
    """What a TCP tried last gets it going at once; else it would wait as long again as it was cut off."""
    sim, user, provider = connected()
    sim.run(1)
    provider.stopped = True
    user.send_packet(*to_provider(1))
    sim.run(20)
    assert user.lost()
    for number in range(10, 20):
        user.send_packet(*to_provider(number))
        sim.run(4)
    provider.delivered.clear()
    before = count(user, "no_key")
    provider.stopped = False
    assert sim.run(6, lambda: bool(provider.delivered))
    sim.run(1)
    assert provider.delivered == [to_provider(19)[0]]
    assert count(user, "no_key") - before == 9


def test_what_waited_for_too_long_is_not_sent_at_all() -> None:
    sim, user, provider = connected()
    provider.stopped = True
    user.send_packet(*to_provider(1))
    sim.run(20)
    user.send_packet(*to_provider(2))
    sim.run(400)
    provider.delivered.clear()
    provider.stopped = False
    assert sim.run(40, lambda: both_up(user, provider))
    sim.run(5)
    assert not provider.delivered


def test_the_deadline_says_why() -> None:
    _, user, _ = connected()
    deadline = user.tunnel.poll_timeout()
    assert deadline is not None
    assert deadline.why.startswith("gpu: ")


def test_a_peer_config_may_come_in_any_order() -> None:
    sim, user, provider = connected()
    config = provider.peer(user).config
    others = [
        PeerConfig(f"p{n}", Host(sim, f"p{n}", n + 10).address, (ip_network(f"10.87.{n}.0/24"),))
        for n in range(5)
    ]
    provider.tunnel.set_peers([*others, config], sim.now)
    assert [peer.name for peer in provider.tunnel.peers.values()] == ["p0", "p1", "p2", "p3", "p4", "laptop"]
    assert passes(sim, user, provider)


# Who has gone offline


def tcp(flags: int) -> tuple[bytes, bytes]:
    """A record with a segment that has these flags, and its destination."""
    record = bytearray(packet("10.86.0.2", "192.168.50.10", bytes(12)))  # 8 bytes of UDP's header besides
    record[VIRTIO_HEADER_BYTES + 9] = PROTOCOL_TCP
    record[VIRTIO_HEADER_BYTES + 32 : VIRTIO_HEADER_BYTES + 34] = bytes((5 << 4, flags))
    return bytes(record), ip("192.168.50.10")


def test_what_is_opened_to_a_peer_that_left_is_refused_at_once_and_open_connections_after_a_while() -> None:
    sim, user, provider = connected()
    peer = user.peer(provider)
    provider.tunnel.close(sim.now)
    provider.drain()
    assert sim.run(1, lambda: user.lost() == ["gpu has gone offline"])
    left_at, before = sim.now, len(user.delivered)
    syn, later = tcp(2), tcp(16)
    user.send_packet(*syn)
    assert len(user.delivered) == before + 1
    answer = user.delivered[-1][VIRTIO_HEADER_BYTES:]
    assert (answer[9], answer[12:20], answer[33]) == (PROTOCOL_TCP, ip("192.168.50.10") + ip("10.86.0.2"), 20)
    assert peer.drops[DropReason.PEER_LEFT] == 1
    user.send_packet(*later)  # perhaps the provider only restarts
    assert len(user.delivered) == before + 1
    assert peer.path.bytes_held > 0
    sim.run(left_at + RETURN_S + 0.1 - sim.now)
    user.send_packet(*later)
    assert user.delivered[-1][VIRTIO_HEADER_BYTES + 33] == 4
    assert peer.drops[DropReason.PEER_LEFT] == 2


def test_who_comes_back_is_not_refused_any_more() -> None:
    sim, user, provider = connected()
    provider.tunnel.close(sim.now)
    provider.drain()
    assert sim.run(1, lambda: user.lost() == ["gpu has gone offline"])
    provider.restart()
    assert sim.run(20, lambda: both_up(user, provider))
    assert user.peer(provider).left_at is None
    before = len(user.delivered)
    user.send_packet(*tcp(2))
    sim.run(1)
    assert len(user.delivered) == before
    assert user.peer(provider).drops[DropReason.PEER_LEFT] == 0


def test_asking_for_a_peer_that_left_looks_for_it() -> None:
    """Two sides that both wait to be asked would refuse each other for ever."""
    sim, user, provider = connected(user=ON_DEMAND)
    provider.tunnel.close(sim.now)
    provider.drain()
    sim.run(1)
    provider.restart()
    user.send_packet(*tcp(2))
    assert sim.run(2, lambda: both_up(user, provider))
