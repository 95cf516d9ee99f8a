"""Sessions over a network that loses, delays, doubles and reorders, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nconnect.ncp import sequence
from nconnect.ncp.delivery import FIRST_FLIGHT_BYTES
from nconnect.ncp.session import NcpSession, NcpState
from nconnect.ncp.settings import GONE_S, GRACE_S, SessionSettings
from nconnect.wire.ncp import NcpPacket
from tests.ncp.world import IDS, Faults, Side, World

MTU_1024 = SessionSettings(mtu=1024)


def pattern(size: int) -> bytes:
    return bytes(i * 31 + (i >> 8) & 0xFF for i in range(size))


def as_official(world: World) -> None:
    """Neither side tells the other of features: as between one of ours and an official client."""
    for side in (world.a, world.b):
        whole = side.receive

        def receive(
            src: str, id: bytes, local: str, remote: str, packet: bytes, whole: Callable[..., None] = whole
        ) -> None:
            whole(src, id, local, remote, replace(NcpPacket.decode(packet), features=0).encode())

        side.receive = receive  # type: ignore[method-assign]


def transferred(world: World, data: bytes, *, chunk: int = 100_000) -> tuple[NcpSession, NcpSession]:
    session, other = world.established()
    for at in range(0, len(data), chunk):
        world.a.write(session, data[at : at + chunk])
    world.a.close(session)
    world.until(lambda: session.state is NcpState.CLOSED and other.state is NcpState.CLOSED)
    world.b.read(other)
    return session, other


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1 << 16),
    loss=st.sampled_from((0.0, 0.02, 0.1, 0.3)),
    twice=st.sampled_from((0.0, 0.3)),
    jitter_s=st.sampled_from((0.0, 0.05, 0.5)),
    size=st.sampled_from((0, 1, 1024, 1025, 150_000)),
    mtu=st.sampled_from((1, 1000, 60_000)),
    official=st.booleans(),
)
def test_all_arrives_once_in_order_whatever_the_network_does(
    seed: int, loss: float, twice: float, jitter_s: float, size: int, mtu: int, official: bool
) -> None:
    world = World(Faults(loss=loss, twice=twice, jitter_s=jitter_s), seed=seed, b=SessionSettings(mtu=mtu))
    if official:
        as_official(world)
    data = pattern(min(size, 300 * mtu))
    session, other = transferred(world, data)
    if session.why:
        assert loss == 0.3, "nothing got through for the 30 s after which a close gives up"
        assert "within 30 s" in session.why
    else:
        assert bytes(world.b.got.get(other.id, b"")) == data
        assert not session.undelivered
    if not loss:
        assert other.why == ""
    assert world.a.sessions.memory.used == world.b.sessions.memory.used == 0


def test_both_ways_at_once_over_a_bad_network() -> None:
    world = World(Faults(loss=0.05, twice=0.05, jitter_s=0.1), a=MTU_1024)
    session, other = world.established()
    data, back = pattern(300_000), pattern(200_000)[::-1]
    world.a.write(session, data)
    world.b.write(other, back)
    world.until(lambda: (len(world.b.got[other.id]), len(world.a.got[session.id])) == (len(data), len(back)))
    assert (bytes(world.b.got[other.id]), bytes(world.a.got[session.id])) == (data, back)


@pytest.mark.parametrize("start", [0, sequence.SPAN - 70])
def test_sequence_numbers_wrap_around(start: int) -> None:
    world = World(Faults(loss=0.05, jitter_s=0.02), a=MTU_1024)
    session, other = world.established()
    assert session.sender is not None
    session.sender.next = session.sender.base = other.receiver.next = start
    data = pattern(200 * 1024)
    world.a.write(session, data)
    world.until(lambda: len(world.b.got[other.id]) == len(data))
    assert bytes(world.b.got[other.id]) == data
    world.a.close(session)
    world.until(lambda: session.is_over)
    assert session.why == ""


# The handshake


def test_the_handshake_is_repeated_until_it_is_answered() -> None:
    world = World(Faults(refuses=lambda packet: packet.handshake))
    session = world.a.dial(world.b)
    world.run(3.5)
    assert session.state is NcpState.DIALLING
    world.faults.refuses = lambda packet: False
    world.until(lambda: session.state is NcpState.OPEN, within_s=5.0)
    assert len(world.b.accepted) == 1


def test_an_answer_that_was_lost_is_given_again() -> None:
    world = World()
    answers = 0

    def refuses(packet: NcpPacket) -> bool:
        nonlocal answers
        answers += packet.handshake and bool(world.b.accepted)
        return packet.handshake and bool(world.b.accepted) and answers <= 4

    world.faults.refuses = refuses
    session = world.a.dial(world.b)
    world.until(lambda: session.state is NcpState.OPEN, within_s=3.0)
    assert len(world.b.accepted) == 1


def test_data_that_overtakes_the_handshake_is_kept() -> None:
    world = World()
    session = world.a.dial(world.b)
    late: list[tuple] = []
    whole = world.a.receive

    def receive(src: str, id: bytes, local: str, remote: str, packet: bytes) -> None:
        if NcpPacket.decode(packet).handshake:
            late.append((src, id, local, remote, packet))
        else:
            whole(src, id, local, remote, packet)

    world.a.receive = receive  # type: ignore[method-assign]
    world.until(lambda: world.b.accepted)
    world.b.write(world.b.accepted[0], b"first")
    world.run(0.1)
    whole(*late[0])
    assert bytes(world.a.got[session.id]) == b"first"


@pytest.mark.parametrize(
    "handshake",
    [
        NcpPacket(handshake=True, client_ids=IDS, window_size=0, mtu=1024),
        NcpPacket(handshake=True, client_ids=IDS, window_size=1024, mtu=0),
        NcpPacket(handshake=True, window_size=1024, mtu=1024),
    ],
)
def test_a_handshake_that_allows_nothing_opens_nothing(handshake: NcpPacket) -> None:
    world = World()
    world.b.receive(world.a.name, b"12345678", "__0__", "__0__", handshake.encode())
    assert not world.b.accepted
    assert len(world.b.sessions) == 0
    session = world.a.dial(world.b)
    world.a.receive(world.b.name, session.id, "__0__", "__0__", handshake.encode())
    assert session.state is NcpState.DIALLING


def test_the_smaller_window_and_mtu_count() -> None:
    world = World(a=SessionSettings(mtu=5000, window=40_000), b=SessionSettings(mtu=3000, window=100_000))
    session, other = world.established()
    world.b.reads = False
    world.a.write(session, bytes(1_000_000))
    world.run(2.0)
    assert max(len(packet.data) for packet in world.a.sent_packets) == 3000
    assert 37_000 < other.receiver.ready_bytes <= 40_000
    world.b.write(other, bytes(10_000))
    world.run(1.0)
    assert max(len(packet.data) for packet in world.b.sent_packets) == 3000


def test_each_side_uses_the_sub_clients_that_both_have() -> None:
    world = World(ids=(IDS[:2], IDS))
    session, other = world.established()
    pairs = [(pair.local, pair.remote) for pair in session.pairs]
    assert pairs == [(pair.local, pair.remote) for pair in other.pairs] == [(id, id) for id in IDS[:2]]


# Flow and acknowledgements


def test_a_reader_that_stops_holds_the_writer_back_and_memory_stays_bounded() -> None:
    world = World(a=SessionSettings(mtu=1024, window=64 << 10), b=SessionSettings(window=64 << 10))
    session, other = world.established()
    world.b.reads = False
    world.a.write(session, bytes(300_000))
    world.run(15.0)
    assert other.receiver.ready_bytes == 64 << 10
    assert session.state is NcpState.OPEN
    world.b.reads = True
    world.b.read(other)
    world.b.pump(other)
    world.until(lambda: len(world.b.got[other.id]) == 300_000)


def test_a_window_that_opens_is_told_again_when_that_was_lost() -> None:
    world = World(a=SessionSettings(window=64 << 10))
    session, other = world.established()
    world.b.reads = False
    world.a.write(session, bytes(200_000))
    world.run(5.0)
    world.faults.refuses = lambda packet: bool(packet.bytes_read)
    world.b.reads = True
    world.b.read(other)
    world.b.pump(other)
    world.run(0.5)
    world.faults.refuses = lambda packet: False
    world.until(lambda: len(world.b.got[other.id]) == 200_000, within_s=5.0)


def test_packets_are_sent_in_runs_so_that_few_ranges_acknowledge_them() -> None:
    world = World(a=MTU_1024)
    session, _ = world.established()
    world.a.write(session, bytes(1 << 20))
    ids = [session.sender.pairs[packet.pair].local for packet in session.sender._unacked.values()]  # type: ignore[union-attr]
    changes = sum(a != b for a, b in pairwise(ids))
    assert changes == FIRST_FLIGHT_BYTES // 1024 // 128 - 1
    assert set(ids) == set(IDS)
    world.run(1.0)
    acks = [packet for packet in world.b.sent_packets if packet.ack_starts]
    assert sum(len(packet.ack_starts) for packet in acks) < 32


def test_nothing_is_sent_twice_to_a_receiver_that_acknowledges_slowly() -> None:
    """As an official one: at most 32 ranges for each pair in 50 ms."""
    world = World(Faults(delay_s=0.4), a=MTU_1024)
    session, other = world.established()
    world.a.write(session, bytes(4 << 20))
    world.until(lambda: len(world.b.got.get(other.id, b"")) == 4 << 20)
    world.run(3.0)
    assert session.sender is not None
    assert (session.sender.resent, other.receiver.duplicates) == (0, 0)


def test_a_silent_network_is_not_flooded() -> None:
    world = World(a=MTU_1024)
    session, _ = world.established()
    world.faults.loss = 1.0
    world.a.write(session, bytes(4 << 20))
    world.run(30.0)
    assert session.sender is not None
    assert session.sender.resent < 1000


def test_a_pair_that_loses_everything_carries_little() -> None:
    world = World(Faults(dead_pairs={"__2__"}), a=MTU_1024)
    session, other = world.established()
    for _ in range(64):
        world.a.write(session, bytes(64 << 10))
    took_s = world.until(lambda: len(world.b.got.get(other.id, b"")) == 4 << 20)
    assert took_s < 6.0
    assert session.sender is not None
    assert session.sender.resent < 1400, "its share of the first window, and little more"
    assert session.pairs[2].window < session.pairs[0].window / 2


def test_what_a_broken_link_carried_goes_over_the_others_at_once() -> None:
    world = World()
    session, other = world.established()
    world.faults.dead_pairs.add("__1__")
    world.a.write(session, bytes(2 << 20))
    world.faults.down.add("__1__")
    session.pair_is_down("__1__")
    world.a.pump(session)
    assert world.until(lambda: len(world.b.got.get(other.id, b"")) == 2 << 20) < 0.5


@given(
    starts=st.lists(st.integers(0, (1 << 32) - 1), max_size=8),
    counts=st.lists(st.integers(0, (1 << 32) - 1), max_size=8),
    read=st.integers(0, (1 << 64) - 1),
)
@settings(max_examples=200)
def test_acknowledgements_of_what_was_not_sent_change_nothing(
    starts: list[int], counts: list[int], read: int
) -> None:
    world = World(a=MTU_1024)
    session, other = world.established()
    counts = counts[: len(starts)] + [1] * (len(starts) - len(counts))
    hostile = NcpPacket(ack_starts=tuple(starts), ack_counts=tuple(counts), bytes_read=read).encode()
    world.a.receive(world.b.name, session.id, "__0__", "__0__", hostile)
    world.a.write(session, b"data")
    world.until(lambda: bytes(world.b.got.get(other.id, b"")) == b"data", within_s=5.0)


# The end


def test_a_close_waits_until_everything_is_read() -> None:
    world = World(Faults(delay_s=0.2))
    as_official(world)
    session, other = world.established()
    world.b.reads = False
    world.a.write(session, pattern(200_000))
    world.a.close(session)
    world.run(20.0)
    assert session.state is NcpState.CLOSING, "acknowledged, but an official reader would lose it"
    world.b.reads = True
    world.b.read(other)
    world.b.pump(other)
    world.until(lambda: session.state is NcpState.CLOSED, within_s=2.0)
    assert bytes(world.b.got[other.id]) == pattern(200_000)


def test_a_reader_that_makes_no_progress_does_not_hold_a_close_for_ever() -> None:
    world = World()
    as_official(world)
    session, _ = world.established()
    world.b.reads = False
    world.a.write(session, b"data")
    world.a.close(session)
    world.until(lambda: session.state is NcpState.CLOSED, within_s=40.0)
    assert "has not read everything within 30 s" in session.why


def test_what_came_before_a_close_can_still_be_read() -> None:
    world = World()
    session, other = world.established()
    world.b.reads = False
    world.a.write(session, b"the rest")
    world.a.close(session)
    world.until(lambda: other.state is NcpState.CLOSED)
    assert not other.at_eof
    world.b.read(other)
    assert (bytes(world.b.got[other.id]), other.at_eof, other.why) == (b"the rest", True, "")


@pytest.mark.parametrize("official", [False, True])
def test_a_gap_at_the_end_is_an_error(official: bool) -> None:
    world = World()
    if official:
        as_official(world)
    session, other = world.established()
    world.a.write(session, b"1" * 100)
    world.faults.refuses = lambda packet: packet.sequence_id == 2
    world.a.write(session, b"2" * 100)
    world.a.write(session, b"3" * 100)
    session.abort("gives up", world.clock.now)
    world.a.pump(session)
    world.until(lambda: other.state is NcpState.CLOSED)
    assert bytes(world.b.got[other.id]) == b"1" * 100
    assert "cut" in other.why


def test_an_abort_between_two_of_ours_is_never_a_short_success() -> None:
    world = World()
    session, other = world.established()
    world.a.write(session, b"some of it")
    world.run(0.1)
    session.abort("gives up", world.clock.now)
    world.a.pump(session)
    world.until(lambda: other.state is NcpState.CLOSED)
    assert "cut" in other.why


def test_data_that_is_overtaken_by_the_close_still_arrives() -> None:
    world = World()
    as_official(world)
    _, other = world.established()
    close = NcpPacket(close=True).encode()
    for id in IDS[:3]:
        world.b.receive(world.a.name, other.id, id, id, close)
    assert other.state is NcpState.OPEN
    world.b.receive(world.a.name, other.id, "__3__", "__3__", NcpPacket(1, b"late").encode())
    world.b.receive(world.a.name, other.id, "__3__", "__3__", close)
    assert (bytes(world.b.got[other.id]), other.state, other.why) == (b"late", NcpState.CLOSED, "")


def test_pairs_may_be_far_apart_when_an_official_client_closes() -> None:
    # Each pair has its own queue in the node: over a slow link the last ones come seconds after the first.
    world = World()
    as_official(world)
    _, other = world.established()
    close = NcpPacket(close=True).encode()
    world.b.receive(world.a.name, other.id, "__0__", "__0__", NcpPacket(5, b"5").encode())
    for id in IDS[:3]:
        world.b.receive(world.a.name, other.id, id, id, close)
    for count in range(1, 5):
        world.run(GRACE_S * 0.9)
        world.b.receive(world.a.name, other.id, "__3__", "__3__", NcpPacket(count, b"%d" % count).encode())
    world.b.receive(world.a.name, other.id, "__3__", "__3__", close)
    assert (bytes(world.b.got[other.id]), other.state, other.why) == (b"12345", NcpState.CLOSED, "")


def test_what_never_comes_after_a_close_is_waited_for_once() -> None:
    world = World()
    as_official(world)
    _, other = world.established()
    world.b.receive(world.a.name, other.id, "__0__", "__0__", NcpPacket(2, b"2").encode())
    world.b.receive(world.a.name, other.id, "__0__", "__0__", NcpPacket(close=True).encode())
    world.run(GRACE_S * 0.9)
    world.b.receive(world.a.name, other.id, "__0__", "__0__", NcpPacket(2, b"2").encode())  # a copy
    world.run(GRACE_S * 0.2)
    assert other.state is NcpState.CLOSED
    assert "cut" in other.why


def test_one_direction_can_end_between_two_of_ours() -> None:
    world = World()
    session, other = world.established()
    world.a.write(session, b"question")
    session.end(world.clock.now)
    world.a.pump(session)
    world.until(lambda: other.at_eof)
    assert session.state is other.state is NcpState.OPEN
    assert not session.can_write
    world.b.write(other, b"answer")
    world.b.close(other)
    world.until(lambda: session.at_eof)
    assert (bytes(world.a.got[session.id]), session.why, other.why) == (b"answer", "", "")


def test_a_close_right_after_reading_tells_that_it_was_read() -> None:
    world = World()
    session, other = world.established()
    world.a.write(session, b"question")
    world.until(lambda: bytes(world.b.got.get(other.id, b"")) == b"question", within_s=0.1)
    world.b.close(other)
    world.until(lambda: session.state is NcpState.CLOSED)
    assert (session.why, session.undelivered) == ("", False)


def test_what_was_written_to_one_that_closed_is_an_error() -> None:
    world = World()
    session, other = world.established()
    world.b.close(other)
    world.a.write(session, b"too late")
    world.until(lambda: session.state is NcpState.CLOSED)
    assert session.undelivered


# Who has gone


@pytest.mark.parametrize("busy", [False, True])
def test_a_dead_peer_is_noticed(busy: bool) -> None:
    world = World()
    session, _ = world.established()
    world.faults.loss = 1.0
    if busy:
        world.a.write(session, bytes(100_000))
    took_s = world.until(lambda: session.state is NcpState.CLOSED)
    assert GONE_S <= took_s <= GONE_S + 11.0
    assert "silent" in session.why


def test_an_idle_peer_that_lives_is_kept() -> None:
    world = World()
    session, other = world.established()
    world.run(600.0)
    assert session.state is other.state is NcpState.OPEN
    assert world.a.sent < 4 + 600 / 20 * 2 + 4


def test_one_that_never_heard_of_the_end_is_told_when_it_asks() -> None:
    world = World()
    session, other = world.established()
    world.faults.loss = 1.0
    session.abort("gone", world.clock.now)
    world.a.pump(session)
    world.run(3.0)
    assert session.is_over
    assert len(world.a.sessions) == 0
    world.faults.loss = 0.0
    world.until(lambda: other.state is NcpState.CLOSED, within_s=25.0)
    assert other.why


# The table


def test_a_recorded_session_opens_nothing_a_second_time() -> None:
    world = World()
    session, other = world.established()
    recorded = NcpPacket(handshake=True, client_ids=IDS, window_size=1 << 20, mtu=1024).encode()
    world.a.write(session, b"pay")
    world.a.close(session)
    world.until(lambda: session.is_over and other.is_over)
    world.b.close(other)
    world.run(5.0)
    assert len(world.b.sessions) == 0
    world.b.receive(world.a.name, session.id, "__0__", "__0__", recorded)
    assert len(world.b.accepted) == 1
    assert {refusal.value: count for refusal, count in world.b.sessions.refusals.items()}["seen_before"] >= 1


@pytest.mark.parametrize(
    ("accepts", "packet", "why"),
    [
        (None, NcpPacket(handshake=True, client_ids=IDS, window_size=1, mtu=1), "not_accepted"),
        (
            lambda remote: False,
            NcpPacket(handshake=True, client_ids=IDS, window_size=1, mtu=1),
            "not_accepted",
        ),
        (lambda remote: True, NcpPacket(1, b"data"), "no_session"),
        (lambda remote: True, NcpPacket(close=True), "no_session"),
        (lambda remote: True, None, "malformed"),
    ],
)
def test_what_is_not_taken_is_counted(
    accepts: Callable[[str], bool] | None, packet: NcpPacket | None, why: str
) -> None:
    world = World()
    side: Side = world.b
    side.sessions.accepts = accepts
    side.receive(world.a.name, b"12345678", "__0__", "__0__", b"\xff" if packet is None else packet.encode())
    assert {refusal.value: count for refusal, count in side.sessions.refusals.items()} == {why: 1}
    assert len(side.sessions) == 0
    assert not side.sent_packets


def test_one_key_cannot_open_all_sessions() -> None:
    world = World()
    handshake = NcpPacket(handshake=True, client_ids=IDS, window_size=1, mtu=1).encode()
    for number in range(2100):
        name = f"name{number % 7}." + "c" * 64
        world.b.sessions.receive(
            name, number.to_bytes(8, "big"), "__0__", "__0__", handshake, world.clock.now, local_ids=IDS
        )
    assert len(world.b.sessions) == 2048
    session, _ = world.established()
    assert session.is_established


def test_what_timed_out_delays_nothing_else_that_was_sent_before() -> None:
    """All that a dead pair carries is sent again at once, not after a longer time for each part."""
    world = World(Faults(dead_pairs={"__2__"}), a=MTU_1024)
    session, other = world.established()
    for _ in range(16):
        world.a.write(session, bytes(64 << 10))
        world.run(0.02)
    assert world.until(lambda: len(world.b.got.get(other.id, b"")) == 1 << 20) < 3.5


@pytest.mark.parametrize("chosen", [SessionSettings(), MTU_1024], ids=["60000", "1024"])
def test_a_slow_link_is_full_and_nothing_is_sent_twice(chosen: SessionSettings) -> None:
    """20 Mbit/s, and a queue without an end, as a node has it."""
    rate = 2.5e6
    world = World(Faults(bytes_per_s=rate), a=chosen)
    session, other = world.established()
    size = 16 << 20
    sent = 0

    def write_some() -> bool:
        nonlocal sent
        while sent < size and session.unsent < 1 << 18:
            world.a.write(session, bytes(1 << 16))
            sent += 1 << 16
        return len(world.b.got.get(other.id, b"")) == size

    took_s = world.until(write_some, 30)
    assert session.sender is not None
    assert not session.sender.resent
    assert size / rate / took_s > 0.95
    assert world.longest_queue_s < 0.6, "other streams and the other side's answers do not wait for long"
