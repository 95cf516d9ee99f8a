"""Instances of a key: what proves that two devices use it, and what never does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nconnect.tunnel.shared_key import MAX_INSTANCES, REMEMBERED_S, SharedKey


def after(instances: str) -> SharedKey:
    """Handshakes from these instances, a letter each, one every second."""
    made = SharedKey()
    for at, instance in enumerate(instances):
        made.met(instance.encode(), float(at))
    return made


def test_two_that_take_turns_are_seen_when_the_first_comes_back() -> None:
    assert not after("aab").is_peers(2)
    assert after("aaba").seen_at == 3
    assert after("abcb").seen_at == 3


def test_it_is_forgotten_once_there_is_no_sign_of_it() -> None:
    made = after("aba")
    assert made.is_peers(2 + REMEMBERED_S - 1)
    assert not made.is_peers(2 + REMEMBERED_S)
    made.met(b"a", 500)
    assert not made.is_peers(500), "the one that is left is alone"
    made.met(b"b", 501)
    assert made.is_peers(501)


@given(st.lists(st.integers(1, 5), max_size=30))
def test_restarts_and_handshakes_of_one_process_after_the_other_are_no_sign(counts: list[int]) -> None:
    made = SharedKey()
    for at, count in enumerate(counts):
        for _ in range(count):
            made.met(at.to_bytes(8), float(at))
        made.met(b"", float(at))  # of an earlier version
    assert not made.is_peers(len(counts))


def test_only_some_are_remembered() -> None:
    restarts = "".join(chr(ord("b") + n) for n in range(MAX_INSTANCES - 1))
    assert after(f"a{restarts}a").is_peers(MAX_INSTANCES)
    assert not after(f"a{restarts}za").is_peers(MAX_INSTANCES + 1)


def test_what_a_peer_says_of_ours_is_another_matter() -> None:
    made = SharedKey()
    made.told_at = 5.0
    assert made.is_ours(6)
    assert not made.is_peers(6)
    assert not made.is_ours(5 + REMEMBERED_S)
