"""The test seam must disturb the order as much as was measured, and lose nothing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.node.reorder import MAX_DISPLACEMENT, MAX_HELD_BYTES, Reorderer


@pytest.mark.parametrize("seed", range(5))
def test_the_disorder_is_like_the_official_nodes(seed: int) -> None:
    reorderer = Reorderer(seed)
    arrived = [int(m) for n in range(5000) for m in reorderer.push(b"%d" % n)]
    arrived += [int(m) for m in reorderer.flush()]
    assert sorted(arrived) == list(range(5000))
    highest = itertools.accumulate(arrived, max)
    late = [number < top for number, top in zip(arrived, highest, strict=True)]
    assert 0.40 <= sum(late) / len(late) <= 0.85
    displaced = [position - number for position, number in enumerate(arrived)]
    assert 40 < max(displaced) <= MAX_DISPLACEMENT


def test_it_can_be_repeated() -> None:
    def run() -> list[bytes]:
        reorderer = Reorderer(7)
        return [m for n in range(300) for m in reorderer.push(b"%d" % n)]

    assert run() == run()


def test_what_it_holds_is_bounded() -> None:
    reorderer = Reorderer(1)
    for _ in range(100):
        reorderer.push(bytes(1 << 20))
        assert reorderer.held_bytes <= MAX_HELD_BYTES
        assert len(reorderer) <= MAX_DISPLACEMENT + 1


@given(st.integers(0, 1 << 70), st.lists(st.booleans(), max_size=200))
def test_nothing_is_lost_or_doubled(seed: int, flushes: list[bool]) -> None:
    reorderer = Reorderer(seed)
    arrived: list[bytes] = []
    for number, flush in enumerate(flushes):
        arrived += reorderer.push(b"%d" % number)
        if flush:
            arrived += reorderer.flush()
            assert len(reorderer) == reorderer.held_bytes == 0
    arrived += reorderer.flush()
    assert sorted(map(int, arrived)) == list(range(len(flushes)))
