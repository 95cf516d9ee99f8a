"""The arithmetic checksum against a loop over words, and RFC 1071's own example."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.ip.checksum import checksum, word_sum


def loop_sum(data: bytes) -> int:
    """RFC 1071, section 4.1, word by word."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_the_example_of_rfc_1071() -> None:
    assert word_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2


def test_a_known_ipv4_header() -> None:
    header = bytes.fromhex("45000073000040004011b861c0a80001c0a800c7")
    assert checksum(header) == 0
    assert checksum(header[:10] + b"\0\0" + header[12:]) == 0xB861


@given(st.binary(max_size=300))
def test_equals_the_loop_over_words(data: bytes) -> None:
    assert word_sum(data) == loop_sum(data) % 0xFFFF
    assert word_sum(memoryview(bytearray(data))) == word_sum(data)


@pytest.mark.parametrize("size", [4095, 4096, 4097, 8191, 8192, 8193, 65_535, 65_536])
def test_long_buffers_are_summed_in_chunks(size: int) -> None:
    data = bytes((n * 7 + n // 251) % 256 for n in range(size))
    assert word_sum(data) == loop_sum(data) % 0xFFFF


@given(st.binary(min_size=1, max_size=64), st.integers(0, 0xFFFF))
def test_a_buffer_with_its_checksum_sums_to_nothing(data: bytes, initial: int) -> None:
    data = data.ljust(len(data) + len(data) % 2, b"\0")
    whole = data + checksum(data, initial).to_bytes(2, "big")
    assert checksum(whole, initial) == 0
