"""One heap for all peers' timers."""

from __future__ import annotations

from nconnect.crypto.keys import Identity
from nconnect.model import NknAddress, PeerConfig
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.timer_heap import TimerHeap
from nconnect.tunnel.timers import NEVER, Timer


def peer(number: int) -> Peer:
    address = NknAddress(f"p{number}", Identity(bytes([number]) * 32).public_key)
    return Peer(PeerConfig(f"p{number}", address, ()), Identity(bytes([99]) * 32), 0.0)


def test_peers_come_by_their_earliest_deadline_and_it_says_why() -> None:
    timer_heap, one, two = TimerHeap(), peer(1), peer(2)
    assert timer_heap.next_at == NEVER
    assert timer_heap.next() is None
    one.timers.set(Timer.KEEPALIVE, 20.0)
    two.timers.set(Timer.EXPIRE, 10.0)
    two.timers.set(Timer.KEEPALIVE, 30.0)
    timer_heap.schedule(one)
    timer_heap.schedule(two)
    deadline = timer_heap.next()
    assert deadline is not None
    assert (deadline.at, deadline.why) == (10.0, "p2: expire")
    assert list(timer_heap.due(9.9)) == []
    assert list(timer_heap.due(25.0)) == [(two, Timer.EXPIRE), (one, Timer.KEEPALIVE)]
    assert timer_heap.next_at == 30.0


def test_a_deadline_that_was_put_off_costs_one_look_and_is_kept() -> None:
    timer_heap, one = TimerHeap(), peer(1)
    one.timers.set(Timer.UNANSWERED, 5.0)
    timer_heap.schedule(one)
    one.timers.set(Timer.UNANSWERED, 50.0)
    timer_heap.schedule(one)
    assert timer_heap.next_at == 5.0, "too early does no harm"
    assert list(timer_heap.due(6.0)) == []
    assert timer_heap.next_at == 50.0
    one.timers.set(Timer.KEEPALIVE, 40.0)
    timer_heap.schedule(one)
    assert timer_heap.next_at == 40.0, "never too late"
    assert list(timer_heap.due(60.0)) == [(one, Timer.UNANSWERED), (one, Timer.KEEPALIVE)]


def test_what_a_firing_timer_sets_is_seen() -> None:
    timer_heap, one = TimerHeap(), peer(1)
    one.timers.set(Timer.RETRY_HANDSHAKE, 1.0)
    timer_heap.schedule(one)
    fired = []
    for _, timer in timer_heap.due(1.0):
        fired.append(timer)
        if len(fired) == 1:
            one.timers.set(Timer.RETRY_HANDSHAKE, 1.0)
        else:
            one.timers.set(Timer.RETRY_HANDSHAKE, 2.0)
    assert len(fired) == 2
    assert timer_heap.next_at == 2.0


def test_a_removed_peer_is_not_looked_at_again() -> None:
    timer_heap, one = TimerHeap(), peer(1)
    one.timers.set(Timer.EXPIRE, 1.0)
    timer_heap.schedule(one)
    timer_heap.forget(one)
    assert timer_heap.next_at == NEVER
    assert list(timer_heap.due(100.0)) == []
