from __future__ import annotations

import struct

import pytest

from lab.ping import echo_request, quantile


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([7.0], 0.5, 7.0),
        ([7.0], 0.99, 7.0),
        ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0.5, 3.0),
        (list(map(float, range(1, 101))), 0.99, 99.0),
        (list(map(float, range(1, 201))), 0.99, 198.0),
        ([1.0, 2.0], 1.0, 2.0),
    ],
)
def test_quantile(values: list[float], share: float, expected: float) -> None:
    assert quantile(values, share) == expected


@pytest.mark.parametrize("identifier", [0, 1, 0x1234, 0xFFFF])
@pytest.mark.parametrize("sequence", [1, 0x8000, 0xFFFF])
def test_anecho_request_sums_to_all_ones(identifier: int, sequence: int) -> None:
    """RFC 1071: the sum over a message with a correct checksum is 0xffff."""
    total = sum(struct.unpack("!4H", echo_request(identifier, sequence)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF
