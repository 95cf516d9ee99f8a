"""Streams inside a session, in virtual time: they arrive whole over bad paths, and liars gain nothing."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nconnect.errors import DropReason
from nconnect.model import Endpoint
from nconnect.tunnel.streams import constants
from nconnect.tunnel.streams.stream import StreamState
from nconnect.wire.tunnel_streams import (
    FROM_OPENER,
    Ack,
    Opening,
    StreamKind,
    encode_ack,
    encode_frame,
    encode_opening,
    encode_sequence,
)
from tests.sim.network import Faults, Host, packet
from tests.tunnel.sides import to_provider
from tests.tunnel.stream_world import TARGET, World, pattern


def inject(world: World, host: Host, frame: bytearray) -> None:
    """A frame that the host's own machine would not send."""
    peer = host.peer(world.provider if host is world.user else world.user)
    peer.path.lane.queue.enqueue(1, frame, len(frame), world.sim.now)
    host.tunnel.backlog[peer] = None
    host.flush()


def test_a_stream_is_opened_carries_bytes_both_ways_and_ends() -> None:
    world = World()
    world.on_accept = lambda end: end.to_write.extend(b"answer")
    user, provider = world.opened()
    assert provider.stream.target == TARGET
    user.to_write += b"question"
    user.ends = provider.ends = True
    user.step()
    provider.step()
    assert world.run(1, lambda: user.saw_eof and provider.saw_eof)
    assert (bytes(user.got), bytes(provider.got)) == (b"answer", b"question")
    world.run(1)
    assert user.stream.state is provider.stream.state is StreamState.CLOSED
    assert not user.stream.why
    world.run(constants.FORGET_S + 1)
    assert not world.user.tunnel.streams.count
    assert not world.provider.tunnel.streams.count


def test_one_direction_may_end_before_the_other() -> None:
    world = World()
    user, provider = world.opened()
    user.ends = True
    user.step()
    assert world.run(1, lambda: provider.saw_eof)
    provider.to_write += pattern(100_000)
    provider.step()
    assert world.run(2, lambda: len(user.got) == 100_000)
    assert bytes(user.got) == pattern(100_000)
    assert user.stream.state is StreamState.OPEN


def test_a_refusal_is_told_at_once_with_its_reason() -> None:
    world = World()
    world.answer = lambda stream: (2, f"{stream.target} is not among what you may reach")
    began = world.sim.now
    end = world.open()
    assert world.run(1, lambda: end.stream.state is StreamState.CLOSED)
    assert (end.stream.code, end.stream.why) == (2, "192.168.50.10:8000 is not among what you may reach")
    assert world.sim.now - began < 0.05  # one round trip


def test_a_peer_that_does_not_answer_is_given_up() -> None:
    world = World()
    world.answer = lambda stream: None
    world.sim.faults.cut = True
    end = world.open()
    assert not world.run(constants.OPEN_S - 1, lambda: end.stream.state is StreamState.CLOSED)
    assert world.run(2, lambda: end.stream.state is StreamState.CLOSED)
    assert "does not answer" in end.stream.why


@settings(max_examples=8)
@given(
    seed=st.integers(0, 1 << 16),
    loss=st.floats(0, 0.15),
    duplicate=st.floats(0, 0.2),
    spread=st.floats(0, 0.2),
    sizes=st.tuples(st.integers(0, 300_000), st.integers(0, 300_000)),
)
def test_what_is_written_arrives_once_and_in_order_over_any_path(
    seed: int, loss: float, duplicate: float, spread: float, sizes: tuple[int, int]
) -> None:
    world = World(seed)
    world.sim.faults = Faults(loss=loss, duplicate=duplicate, delay=(0.005, 0.005 + spread))
    sent = [pattern(size, salt) for salt, size in enumerate(sizes)]

    def begin(end: object) -> None:
        world.accepted[0].to_write += sent[1]
        world.accepted[0].ends = True

    world.on_accept = begin
    user = world.open()
    user.to_write += sent[0]
    user.ends = True
    assert world.run(300, lambda: bool(world.accepted) and user.saw_eof and world.accepted[0].saw_eof), (
        user.stream.why
    )
    assert bytes(world.accepted[0].got) == sent[0]
    assert bytes(user.got) == sent[1]


def test_a_stream_survives_a_path_that_is_gone_for_a_while() -> None:
    world = World()
    user, provider = world.opened()
    user.to_write += pattern(9_000_000)
    user.ends = True
    user.step()
    assert world.run(1, lambda: len(provider.got) > 100_000)
    world.sim.faults.cut = True
    world.run(20)
    assert not provider.saw_eof
    world.sim.faults.cut = False
    assert world.run(60, lambda: provider.saw_eof)
    assert bytes(provider.got) == pattern(9_000_000)


def test_who_does_not_read_is_sent_no_more_than_his_window() -> None:
    world = World()
    user, provider = world.opened()
    provider.reads = False
    user.to_write += bytes(3 * constants.WINDOW_BYTES)
    user.step()
    world.run(5)
    assert provider.stream.receiver.ready_bytes <= constants.WINDOW_BYTES
    assert user.stream.sender is not None
    assert user.stream.sender.written <= constants.WINDOW_BYTES
    provider.reads = True
    provider.step()
    assert world.run(10, lambda: len(provider.got) == 3 * constants.WINDOW_BYTES)


def test_a_token_beside_bulk_waits_no_longer_than_a_round_trip() -> None:
    world = World()
    bulk, _ = world.opened()
    bulk.to_write += bytes(20_000_000)
    bulk.step()
    token, far = world.opened()
    world.run(0.2)
    for _ in range(5):
        began = world.sim.now
        before = len(far.got)
        token.to_write += b"t"
        token.step()
        assert world.run(1, lambda before=before: len(far.got) > before)
        assert world.sim.now - began < 0.02  # 10 ms there


@pytest.mark.parametrize(("rate", "most"), [(None, 300_000), (125_000.0, 6_000)])
def test_little_of_a_stream_waits_in_the_send_queue(rate: float | None, most: int) -> None:
    world = World()
    user, _ = world.opened()
    world.user.tunnel.link_rates[0] = rate
    user.to_write += bytes(1_000_000)
    user.step()
    world.user.tunnel.handle_timeout(world.sim.now)  # pulls, and sends nothing
    assert 0 < world.user.peer(world.provider).path.bytes_held < most


def test_packets_and_streams_share_one_path() -> None:
    world = World()
    user, provider = world.opened()
    user.to_write += pattern(2_000_000)
    user.step()
    for number in range(20):
        world.user.send_packet(*to_provider(number))
        world.run(0.01)
    assert world.run(5, lambda: len(provider.got) == 2_000_000)
    assert len(world.provider.delivered) == 20
    traffic = world.provider.peer(world.user).traffic
    assert traffic.rx_bytes > 2_000_000  # streams count as usage


def test_a_closed_stream_still_delivers_what_was_written() -> None:
    world = World()
    user, provider = world.opened()
    user.to_write += pattern(500_000)
    user.step()
    world.run(1, lambda: not user.to_write)
    user.stream.close(world.sim.now)
    world.user.tunnel.streams.touched(user.stream, world.sim.now)
    assert world.run(5, lambda: provider.saw_eof)
    assert bytes(provider.got) == pattern(500_000)


def test_who_writes_to_a_closed_stream_gets_a_reset() -> None:
    world = World()
    user, provider = world.opened()
    user.stream.close(world.sim.now)
    world.user.tunnel.streams.touched(user.stream, world.sim.now)
    world.run(1)
    provider.to_write += b"nobody reads this"
    provider.step()
    assert world.run(1, lambda: provider.stream.state is StreamState.CLOSED)
    assert "reads no more" in provider.stream.why


def test_an_abort_reaches_the_other_side() -> None:
    world = World()
    user, provider = world.opened()
    user.stream.abort(0, "the program is gone", world.sim.now)
    world.user.tunnel.streams.touched(user.stream, world.sim.now)
    assert world.run(1, lambda: provider.stream.state is StreamState.CLOSED)
    assert provider.stream.why == "the program is gone"
    assert not provider.saw_eof


def test_a_peer_that_restarts_ends_its_streams() -> None:
    world = World()
    user, _ = world.opened()
    world.provider.restart()
    user.to_write += b"hello?"
    user.step()
    assert world.run(30, lambda: user.stream.state is StreamState.CLOSED)
    assert "does not know this stream" in user.stream.why


def test_a_peer_that_goes_away_ends_its_streams_at_once() -> None:
    world = World()
    user, _ = world.opened()
    world.provider.tunnel.close(world.sim.now)
    world.provider.drain()
    assert world.run(0.1, lambda: user.stream.state is StreamState.CLOSED)
    assert user.stream.why == "gpu has gone offline"


def test_a_peer_that_is_removed_loses_its_streams() -> None:
    world = World()
    _, provider = world.opened()
    world.provider.tunnel.set_peers([], world.sim.now)
    world.provider.drain()
    world.step()
    assert provider.stream.state is StreamState.CLOSED
    assert not world.provider.tunnel.streams.count


def test_an_earlier_version_drops_frames_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setattr("nconnect.tunnel.receiver.is_stream_frame", lambda record: False)
    end = world.open()
    world.run(2)
    assert world.provider.peer(world.user).drops[DropReason.BAD_PACKET] >= 2
    assert end.stream.state is StreamState.ASKED
    world.user.send_packet(*to_provider(1))
    world.run(1)
    assert world.provider.delivered == [packet("10.86.0.2", "192.168.50.10", (1).to_bytes(4))]


# Liars


def test_a_window_of_zero_holds_back_everything_and_costs_little() -> None:
    world = World()
    opening = encode_opening(Opening(0, 6, TARGET))
    inject(world, world.user, encode_frame(StreamKind.OPEN, FROM_OPENER, 77, opening))
    world.run(1)
    provider = world.accepted[0]
    provider.to_write += bytes(10_000_000)
    provider.step()
    sent = len(world.sim.sent)
    world.run(30)
    assert provider.stream.sender is not None
    assert provider.stream.sender.written == 0
    assert len(world.sim.sent) - sent < 200
    assert len(provider.to_write) >= 9_000_000  # the program is held back, too


def test_acknowledgements_of_what_was_not_sent_are_ignored() -> None:
    world = World()
    user, provider = world.opened()
    ranges = [(1, 0xFFFFFFFF), (500, 100_000), (0, 1), (3, 0)]
    for flags, host, id in ((FROM_OPENER, world.user, user.stream.id), (0, world.provider, user.stream.id)):
        ack = encode_ack(Ack(1 << 60, ranges))
        inject(world, host, encode_frame(StreamKind.ACK, flags, id, ack))
    world.run(1)
    provider.to_write += pattern(1_000_000)
    provider.step()
    assert world.run(5, lambda: len(user.got) == 1_000_000)
    assert bytes(user.got) == pattern(1_000_000)


def test_data_beyond_the_credit_is_dropped() -> None:
    world = World()
    user, provider = world.opened()
    provider.reads = False
    flood = bytes(60_000)
    for sequence in range(2, 300):  # the first is missing, so that nothing can be read
        body = (encode_sequence(sequence), flood)
        inject(world, world.user, encode_frame(StreamKind.DATA, FROM_OPENER, user.stream.id, *body))
        world.run(0.001)
    receiver = provider.stream.receiver
    assert receiver.refused > 200
    assert receiver.ready_bytes == 0
    world.run(1)
    provider.stream.abort(0, "", world.sim.now)
    assert world.provider.tunnel.streams.memory_used == 0


def test_opens_by_the_thousand_are_bounded() -> None:
    world = World()
    world.answer = lambda stream: None
    for id in range(1, constants.MAX_STREAMS + 500):
        opening = encode_opening(Opening(1 << 20, 6, TARGET))
        inject(world, world.user, encode_frame(StreamKind.OPEN, FROM_OPENER, id, opening))
    world.run(1)
    assert world.provider.tunnel.streams.count == constants.MAX_STREAMS


def test_frames_of_unknown_streams_are_answered_a_little() -> None:
    world = World()
    began = len(world.sim.sent)
    for id in range(1, 2000):
        inject(world, world.user, encode_frame(StreamKind.ACK, FROM_OPENER, id, encode_ack(Ack(0, []))))
    world.run(0.5)
    assert 0 < len(world.sim.sent) - began - 1999 < 100


@given(body=st.binary(max_size=60), kind=st.integers(0, 255), flags=st.integers(0, 65535))
@settings(max_examples=60)
def test_garbage_is_counted_and_ends_no_other_stream(body: bytes, kind: int, flags: int) -> None:
    world = WORLD
    user, provider = OPENED
    frame = encode_frame(StreamKind.DATA, flags, user.stream.id + 9, body)
    frame[10] = kind & 15  # what looks like an IP packet is judged as one
    inject(world, world.user, frame)
    inject(world, world.provider, frame)
    user.to_write += b"x"
    before = len(provider.got)
    user.step()
    assert world.run(1, lambda: len(provider.got) > before)


WORLD = World()
OPENED = WORLD.opened()


# Datagrams


def test_datagrams_cross_both_ways() -> None:
    world = World()
    streams, peer = world.user.tunnel.streams, world.user.peer(world.provider)
    channel = streams.new_channel()
    assert streams.send_datagram(peer, channel, TARGET, b"ask", world.sim.now, is_ours=True)
    assert world.run(1, lambda: bool(world.datagrams))
    host, came = world.datagrams.pop()
    assert host is world.provider
    assert (came.channel, came.place, came.data, came.is_ours) == (channel, TARGET, b"ask", False)
    source = Endpoint(ip_address("192.168.50.99"), 53)
    assert world.provider.tunnel.streams.send_datagram(
        came.peer, channel, source, b"answer", world.sim.now, is_ours=False
    )
    assert world.run(1, lambda: bool(world.datagrams))
    host, came = world.datagrams.pop()
    assert host is world.user
    assert (came.channel, came.place, came.data, came.is_ours) == (channel, source, b"answer", True)


def test_datagrams_that_wait_are_bounded() -> None:
    world = World()
    streams, peer = world.user.tunnel.streams, world.user.peer(world.provider)
    sent = [
        streams.send_datagram(peer, 1, TARGET, bytes(1000), world.sim.now, is_ours=True) for _ in range(400)
    ]
    assert 0 < sent.count(True) < 300
    assert not streams.send_datagram(peer, 1, TARGET, bytes(70_000), world.sim.now, is_ours=True)
