"""The liveness of one connection, in virtual time (its life inside a link: test_link.py)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nconnect.nkn.liveness import BUSY_QUIET_S, DEAD_AFTER_S, LATE_S, PROBE_S, Liveness, Step


def test_the_first_ping_is_due_at_once_and_later_calls_before_the_deadline_do_nothing() -> None:
    life = Liveness(100.0)
    assert life.poll_timeout().at == 100.0
    assert life.handle_timeout(100.0) is Step.PING
    assert life.handle_timeout(100.0) is Step.WAIT
    assert life.poll_timeout().at == 108.0


def test_the_round_trip_is_that_of_the_oldest_ping_in_flight() -> None:
    life = Liveness(100.0)
    life.handle_timeout(100.0)
    life.heard_at = 107.9
    life.handle_timeout(108.0)
    life.pong(109.0)
    assert life.rtt_s == 9.0
    life.pong(109.5)  # nobody asked for this one
    assert life.rtt_s == 9.0


def test_a_look_at_the_round_trip_measures_it_again_but_not_over_and_over() -> None:
    life = Liveness(100.0)
    life.handle_timeout(100.0)
    life.measure(100.01)  # one is under way
    assert life.poll_timeout().at == 108.0
    life.pong(100.02)
    life.measure(100.1)  # just measured
    assert life.poll_timeout().at == 108.0
    life.measure(103.0)
    assert life.poll_timeout().at == 103.0
    assert life.handle_timeout(103.0) is Step.PING
    life.pong(103.5)
    assert life.rtt_s == 0.5
    assert life.poll_timeout().at == 111.0  # silence is judged as before, from that answer: it was no probe


def test_a_second_probe_does_not_put_off_the_verdict_of_the_first() -> None:
    life = Liveness(100.0)
    life.handle_timeout(100.0)
    life.pong(100.01)
    for tenths in range(19):
        life.probe(103.0 + tenths / 10)
        assert life.handle_timeout(103.0 + tenths / 10) is Step.PING
    assert life.handle_timeout(103.0 + PROBE_S) is Step.DEAD


def test_a_loop_that_was_held_up_gives_the_node_a_fair_chance() -> None:
    life = Liveness(100.0)
    life.handle_timeout(100.0)
    life.pong(100.02)
    assert life.handle_timeout(110.4) is Step.PING  # due at 108: what came meanwhile is not read yet
    life.pong(110.41)
    assert life.handle_timeout(112.4) is Step.WAIT
    assert life.poll_timeout().at > 115.0

    life = Liveness(100.0)
    life.handle_timeout(100.0)
    life.pong(100.02)
    assert life.handle_timeout(110.4) is Step.PING
    assert life.handle_timeout(110.4 + PROBE_S) is Step.DEAD


def busy(rtt_s: float = 0.02) -> Liveness:
    """Pinged at 100, answered, and messages follow each other until 103."""
    life = Liveness(100.0)
    life.handle_timeout(100.0)
    life.pong(100.0 + rtt_s)
    life.became_busy(102.0)
    life.heard_at = 103.0
    assert life.handle_timeout(102.0 + BUSY_QUIET_S) is Step.WAIT
    assert life.poll_timeout().at == 103.0 + BUSY_QUIET_S
    return life


def test_a_busy_link_that_falls_silent_is_dead_soon() -> None:
    life = busy()
    assert life.handle_timeout(103.0 + BUSY_QUIET_S) is Step.PING
    assert life.poll_timeout().at == 103.0 + BUSY_QUIET_S + PROBE_S
    assert life.handle_timeout(103.0 + BUSY_QUIET_S + PROBE_S) is Step.DEAD


def test_a_busy_link_whose_ping_is_answered_is_idle_then() -> None:
    life = busy()
    life.handle_timeout(103.0 + BUSY_QUIET_S)
    life.pong(105.0)
    assert life.handle_timeout(103.0 + BUSY_QUIET_S + PROBE_S) is Step.WAIT
    assert not life.is_busy
    assert life.poll_timeout().at == 103.0 + BUSY_QUIET_S + 8.0


def test_a_busy_link_with_long_round_trips_is_waited_for() -> None:
    life = busy(rtt_s=1.5)
    life.handle_timeout(103.0 + BUSY_QUIET_S)
    assert life.poll_timeout().at == 103.0 + BUSY_QUIET_S + 4.5


def test_a_verdict_that_comes_late_lets_the_socket_be_read_first() -> None:
    life = busy()
    life.handle_timeout(103.0 + BUSY_QUIET_S)
    assert life.handle_timeout(103.0 + BUSY_QUIET_S + PROBE_S + 1.0) is Step.WAIT
    again = life.poll_timeout().at
    assert again == 103.0 + BUSY_QUIET_S + PROBE_S + 1.25
    assert life.handle_timeout(again + 1.0) is Step.DEAD, "once"


@given(st.lists(st.floats(0.001, 9.0), min_size=1, max_size=30))
def test_a_node_that_is_heard_within_ten_seconds_is_never_dead(gaps: list[float]) -> None:
    now = 100.0
    life = Liveness(now)
    for gap in gaps:
        until = now + gap
        while (deadline := life.poll_timeout().at) <= until:
            assert life.handle_timeout(max(now, deadline)) is not Step.DEAD
        now = life.heard_at = until


@given(st.floats(0.0, LATE_S))
def test_a_node_that_is_not_heard_is_dead_after_ten_seconds_however_late_the_timer(late: float) -> None:
    life = Liveness(100.0)
    verdict = Step.WAIT
    while verdict is not Step.DEAD:
        at = life.poll_timeout().at + late
        verdict = life.handle_timeout(at)
        assert at < 100.0 + DEAD_AFTER_S + 8.0 + 2 * LATE_S
    assert at >= 100.0 + DEAD_AFTER_S
