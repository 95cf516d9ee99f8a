"""How a cluster's message proves that it comes from a node and is not replayed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.node.seal import CONTROL, FRAGMENTS, TOLERANCE_S, Seal

KEY = b"k" * 32
NOW = 1.8e9


def two() -> tuple[Seal, Seal]:
    return Seal(KEY, b"one     "), Seal(KEY, b"two     ")


def test_what_is_sealed_is_opened_once() -> None:
    one, other = two()
    first, second = (one.close("nodes", body, NOW) for body in (b"first", b"second"))
    assert other.open("nodes", CONTROL, first, NOW) == b"first"
    assert other.open("nodes", CONTROL, second, NOW) == b"second"
    for again in (first, second):
        with pytest.raises(RemoteProtocolError, match="a repeated message"):
            other.open("nodes", CONTROL, again, NOW)


def test_control_and_fragments_may_pass_each_other() -> None:
    one, other = two()
    control, fragment = one.close("nodes", b"c", NOW), one.close("to.x", b"p", NOW)
    assert other.open("to.x", FRAGMENTS, fragment, NOW) == b"p"
    assert other.open("nodes", CONTROL, control, NOW) == b"c"


def test_who_has_not_the_key_is_refused() -> None:
    _, other = two()
    forged = Seal(b"x" * 32, b"one     ").close("nodes", b'{"t":"bye"}', NOW)
    for data in (forged, b'{"t":"bye"}', b"", bytes(31), bytes(100)):
        with pytest.raises(RemoteProtocolError):
            other.open("nodes", CONTROL, data, NOW)


def test_what_was_for_another_subject_is_refused() -> None:
    one, other = two()
    with pytest.raises(RemoteProtocolError, match="not made with the cluster's key"):
        other.open("to.y", FRAGMENTS, one.close("to.x", b"p", NOW), NOW)


@pytest.mark.parametrize("late", [TOLERANCE_S + 1, -TOLERANCE_S - 1])
def test_a_recorded_message_is_of_no_use_later(late: float) -> None:
    one, other = two()
    with pytest.raises(RemoteProtocolError, match="old message"):
        other.open("nodes", CONTROL, one.close("nodes", b"x", NOW), NOW + late)


def test_a_clock_that_was_a_day_ahead_does_not_stop_the_sender_for_a_day() -> None:
    """As at the start of a machine whose clock is set by the network a moment later."""
    one, other = two()
    early = one.close("nodes", b"early", NOW + 86_400)
    with pytest.raises(RemoteProtocolError, match="a wrong clock"):
        other.open("nodes", CONTROL, early, NOW)
    for second in range(3):
        now = NOW + second
        assert other.open("nodes", CONTROL, one.close("nodes", b"right", now), now) == b"right"


def test_a_clock_that_goes_back_does_not_stop_the_sender() -> None:
    one, other = two()
    assert other.open("nodes", CONTROL, one.close("nodes", b"1", NOW), NOW) == b"1"
    assert other.open("nodes", CONTROL, one.close("nodes", b"2", NOW - 5), NOW) == b"2"


@given(st.integers(0, 39), st.integers(1, 255))
def test_any_changed_byte_is_noticed(at: int, change: int) -> None:
    one, other = two()
    sealed = bytearray(one.close("nodes", b"12345678", NOW))
    sealed[at] ^= change
    with pytest.raises(RemoteProtocolError):
        other.open("nodes", CONTROL, bytes(sealed), NOW)
