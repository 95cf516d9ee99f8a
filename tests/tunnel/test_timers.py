"""A peer's timers as a script."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nconnect.model import Deadline
from nconnect.tunnel.constants import KEEPALIVE_S, QUESTION_S, UNANSWERED_S
from nconnect.tunnel.timers import Timer, Timers


def test_nothing_is_due_at_first() -> None:
    timers = Timers()
    assert timers.next() is None
    assert timers.due(1e12) == []


def test_sent_data_wants_an_answer_once() -> None:
    timers = Timers()
    timers.data_sent(100)
    timers.data_sent(110)  # the first unanswered batch counts
    assert timers.next() == Deadline(100 + QUESTION_S, "question")
    assert timers.due(100 + QUESTION_S) == [Timer.QUESTION]
    assert timers.next() == Deadline(100 + UNANSWERED_S, "unanswered")
    assert timers.due(100 + UNANSWERED_S - 0.001) == []
    assert timers.due(100 + UNANSWERED_S) == [Timer.UNANSWERED]
    assert timers.due(100 + UNANSWERED_S) == []
    assert timers.next() is None


def test_received_data_wants_a_sign_of_life() -> None:
    timers = Timers()
    timers.data_received(100)
    timers.data_received(105)
    assert timers.next() == Deadline(100 + KEEPALIVE_S, "keepalive")
    timers.data_sent(106)  # data is one
    assert not timers.is_set(Timer.KEEPALIVE)
    timers.data_received(107)
    assert not timers.is_set(Timer.UNANSWERED)
    timers.keepalive_sent()
    assert timers.next() is None


def test_a_keepalive_answers_and_wants_nothing() -> None:
    timers = Timers()
    timers.data_sent(100)
    timers.keepalive_received()
    assert timers.next() is None
    timers.keepalive_sent()
    assert timers.next() is None


def test_the_end_of_a_session_stops_what_belongs_to_it() -> None:
    timers = Timers()
    for timer in Timer:
        timers.set(timer, 5)
    timers.session_ended()
    assert timers.due(5) == [
        Timer.RETRY_HANDSHAKE,
        Timer.GIVE_UP_HANDSHAKE,
        Timer.PERSISTENT_KEEPALIVE,
        Timer.EXPIRE,
        Timer.REORDER,
        Timer.DIRECT,
        Timer.STREAMS,
    ]


def test_set_if_unset_keeps_the_earlier() -> None:
    timers = Timers()
    timers.set_if_unset(Timer.EXPIRE, 7)
    timers.set_if_unset(Timer.EXPIRE, 5)
    assert timers.next() == Deadline(7, "expire")
    timers.clear(Timer.EXPIRE)
    assert timers.next() is None


@given(st.dictionaries(st.sampled_from(Timer), st.floats(0, 100)), st.floats(0, 100))
def test_next_is_the_earliest_and_due_gives_all_that_are(deadlines: dict[Timer, float], now: float) -> None:
    timers = Timers()
    for timer, at in deadlines.items():
        timers.set(timer, at)
    first = timers.next()
    assert (first.at if first else None) == min(deadlines.values(), default=None)
    assert timers.due(now) == sorted(timer for timer, at in deadlines.items() if at <= now)
    rest = [at for at in deadlines.values() if at > now]
    left = timers.next()
    assert (left.at if left else None) == min(rest, default=None)
