"""A peer's `rate`: what is sent is paced, what comes is policed, and nobody else is slowed down."""

from __future__ import annotations

import copy
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import DropReason
from nconnect.queueing.token_bucket import TokenBucket
from nconnect.tunnel.bounds import MIN_BURST_BYTES, MIN_TOLD_RATE, PACED_BURST_S, POLICED_ABOVE, Bounds
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.timers import NEVER
from tests.sim.network import Host, ip, packet
from tests.tunnel.hostile import connected, passes

MBIT = 1_000_000 // 8  # bytes


@given(
    st.floats(1e3, 1e9),
    st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 65_536)), min_size=1, max_size=200),
)
def test_no_more_passes_than_rate_and_burst_and_one_packet(
    rate: float, asked: list[tuple[float, int]]
) -> None:
    bucket, now, passed = TokenBucket(rate, rate * 0.05, 100.0), 100.0, 0
    for wait_s, size in asked:
        now += wait_s
        if bucket.budget(now):
            bucket.take(size)
            passed += size
        else:
            at = bucket.next_at(now, 1500)
            assert at > now
            assert copy.copy(bucket).budget(at + 1e-6 + 1 / rate)
    assert passed <= rate * (now - 100.0) + rate * 0.05 + 65_536


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(1000.0, 100.0, 10.0)
    bucket.take(bucket.budget(10.0))
    assert bucket.budget(10.0) == bucket.budget(5.0) == 0
    assert bucket.budget(10.05) == 50


def bounded(host: Host, other: Host, rate: int | None) -> Peer:
    peer = host.peer(other)
    host.tunnel.set_peers([dataclasses.replace(peer.config, rate=rate)], host.sim.now)
    assert host.peer(other) is peer
    return peer


def sent_in(host: Host, peer: Peer, seconds: float, source: str, target: str) -> int:
    """How many bytes of inner packets leave while more wait than may: the loop sleeps as the core says."""
    tunnel, now = host.tunnel, host.sim.now
    ends, before = now + seconds, peer.traffic.tx_bytes
    while now < ends:
        while True:
            while peer.path.bytes_held < 300_000:
                tunnel.enqueue(peer, bytearray(packet(source, target, bytes(1372))), now)
            if tunnel.next_batch(host.arena, now) is None:
                break
        at = tunnel.next_send_at(now)
        assert now < at < NEVER
        now = at + 0.0007  # timers are late
    return peer.traffic.tx_bytes - before


@pytest.mark.parametrize(("rate", "seconds"), [(64_000, 30), (5_000_000, 10), (100_000_000, 2)])
def test_a_rate_is_held_within_a_hundredth(rate: int, seconds: float) -> None:
    _, user, provider = connected()
    peer = bounded(provider, user, rate)
    sent = sent_in(provider, peer, seconds, "192.168.50.10", "10.86.0.2")
    assert sent == pytest.approx(rate / 8 * (seconds + PACED_BURST_S), rel=0.01)


def test_the_lower_of_both_sides_rates_holds() -> None:
    _, user, provider = connected()
    peer = user.peer(provider)
    now = user.sim.now
    user.tunnel.told_rate(peer, 4_000_000, now)
    assert sent_in(user, peer, 4.0, "10.86.0.2", "192.168.50.10") == pytest.approx(0.5 * MBIT * 32, rel=0.02)
    bounded(user, provider, 1_000_000)
    assert peer.traffic.bounds is not None
    assert peer.traffic.bounds.paced.rate == MBIT
    bounded(user, provider, 9_000_000)
    assert peer.traffic.bounds.paced.rate == 4 * MBIT
    user.tunnel.told_rate(peer, 1, now)  # a nonsense must not stop all
    assert peer.traffic.bounds.paced.rate == MIN_TOLD_RATE / 8
    user.tunnel.told_rate(peer, None, now)
    assert peer.traffic.bounds.paced.rate == 9 * MBIT
    bounded(user, provider, None)
    assert peer.traffic.bounds is None


def test_a_change_of_something_else_gives_no_new_burst() -> None:
    _, user, provider = connected()
    bounds = bounded(provider, user, 5_000_000).traffic.bounds
    assert bounded(provider, user, 5_000_000).traffic.bounds is bounds


def test_a_peer_that_tells_other_rates_again_and_again_may_not_send_more() -> None:
    _, user, provider = connected()
    peer, now, passed = bounded(provider, user, 64_000), provider.sim.now, 0
    for second in range(60):
        provider.tunnel.told_rate(peer, 1_000_000 + second % 2, now + second)
        assert peer.traffic.bounds is not None
        while peer.traffic.bounds.admits(1400, now + second):
            passed += 1400
    assert passed <= 60 * 64_000 / 8 * POLICED_ABOVE + MIN_BURST_BYTES + 1400


def test_only_a_peer_with_a_rate_is_kept_from_the_fast_way() -> None:
    sim, user, provider = connected()
    peer = provider.peer(user)
    assert provider.tunnel.may_bypass(peer, 1000, sim.now)
    bounded(provider, user, 5_000_000)
    assert not provider.tunnel.may_bypass(peer, 1000, sim.now)
    assert passes(sim, provider, user)


def test_what_comes_above_the_rate_is_dropped_and_counted() -> None:
    sim, user, provider = connected()
    peer = bounded(provider, user, 800_000)  # 100 kB a second
    before, size, seconds = peer.traffic.rx_bytes, 1400, 20
    for _ in range(seconds * 200):  # 280 kB a second
        user.send_packet(packet("10.86.0.2", "192.168.50.10", bytes(size - 28)), ip("192.168.50.10"))
        sim.run(0.005)
    sim.run(0.1)
    passed = peer.traffic.rx_bytes - before
    assert passed == pytest.approx(seconds * 100_000 * POLICED_ABOVE + MIN_BURST_BYTES, rel=0.02)
    assert peer.drops[DropReason.OVER_RATE] == seconds * 200 - passed // size
    assert passed // size == len(provider.delivered) - 1  # of what is dropped nothing is counted as received


def test_who_keeps_to_the_rate_loses_nothing() -> None:
    now = 100.0
    sender, receiver = Bounds(None, 50_000_000, now), Bounds(50_000_000, None, now)
    for turn in range(20_000):
        now += 0.0013
        if turn % 500 < 100:
            continue  # a pause, after which a burst comes
        while sender.paced.budget(now):
            sender.paced.take(14_000)
            assert receiver.admits(14_000, now)
