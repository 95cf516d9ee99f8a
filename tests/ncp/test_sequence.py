"""Sequence numbers, which skip 0 when they wrap around."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nconnect.ncp.sequence import SPAN, from_wire, to_wire

COUNTS = st.integers(0, 1 << 40)


def test_the_first_is_one_and_zero_is_never_used() -> None:
    assert [to_wire(count) for count in (-1, 0, 1, SPAN - 1, SPAN, SPAN + 1)] == [SPAN, 1, 2, SPAN, 1, 2]


@given(COUNTS, st.integers(-(SPAN // 2) + 1, SPAN // 2))
def test_a_count_is_found_again_near_where_we_are(near: int, distance: int) -> None:
    assert from_wire(to_wire(near + distance), near) == near + distance
