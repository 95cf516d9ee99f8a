from __future__ import annotations

import pytest

from lab.servers import PATTERN_BYTES, pattern


@pytest.mark.parametrize("size", [0, 1, 5, PATTERN_BYTES, PATTERN_BYTES + 1, 3 * PATTERN_BYTES - 1])
def test_the_pattern_has_the_size_and_repeats_after_a_block(size: int) -> None:
    found = pattern(size)
    assert len(found) == size
    assert found[PATTERN_BYTES:] == found[: max(0, size - PATTERN_BYTES)]


def test_a_shifted_pattern_is_another() -> None:
    found = pattern(1000)
    assert all(found[shift:] != found[:-shift] for shift in range(1, 100))
