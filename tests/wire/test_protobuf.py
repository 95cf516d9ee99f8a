"""The field scanner, against the protobuf library and against malformed bytes."""

from __future__ import annotations

import pytest
from google.protobuf.internal import decoder, encoder
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.wire.protobuf import (
    MAX_FIELDS,
    as_bool,
    as_bytes,
    as_string,
    as_uint32,
    bytes_field,
    bytes_head,
    fields,
    read_varint,
    string_field,
    uint_field,
    varint,
)

U64 = st.integers(0, 2**64 - 1) | st.sampled_from(
    [0, 127, 128, 2**14 - 1, 2**14, 2**21, 2**32, 2**63, 2**64 - 1]
)


@given(U64)
def test_varints_are_the_librarys(value: int) -> None:
    written = varint(value)
    assert written == encoder._VarintBytes(value)
    assert read_varint(memoryview(written), 0) == (value, len(written))
    assert read_varint(memoryview(b"??" + written + b"\x01\x02"), 2) == (value, 2 + len(written))
    with pytest.raises(RemoteProtocolError, match="truncated"):
        read_varint(memoryview(written[:-1]), 0)


@given(st.binary(min_size=1, max_size=12))
def test_any_bytes_read_as_the_librarys_varint_or_are_refused(data: bytes) -> None:
    try:
        value, end = read_varint(memoryview(data), 0)
    except RemoteProtocolError:
        return
    assert decoder._DecodeVarint(data, 0) == (value, end)
    assert varint(value) == data[:end]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("8000", "overlong"),
        ("ff00", "overlong"),
        ("808000", "overlong"),
        ("80808000", "overlong"),
        ("ffffffffffffffffff00", "overlong"),
        ("ffffffffffffffffff02", "64 bits"),
        ("ffffffffffffffffffff01", "64 bits"),
        ("80", "truncated"),
        ("8080", "truncated"),
        ("808080", "truncated"),
        ("", "truncated"),
    ],
)
def test_malformed_varints(data: str, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        read_varint(memoryview(bytes.fromhex(data)), 0)


def test_one_field_of_each_type() -> None:
    data = bytes.fromhex("089601 110100000000000080 1a0461626364 2501000080 820100")
    # Those of fixed width, 2 and 4, are passed over.
    assert list(fields(data)) == [(1, 150), (3, b"abcd"), (16, b"")]


def test_values_are_views_of_the_input() -> None:
    data = bytearray(bytes_field(1, b"abcd"))
    ((_, value),) = fields(data)
    data[2] = ord("z")
    assert as_bytes(value) == b"zbcd"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("08", "truncated"),  # no value
        ("0a", "truncated"),  # no length
        ("0a01610a0261", "truncated"),  # less than the length
        ("0aff", "truncated"),
        ("0affffffffffffffffff01", "truncated"),  # a length of 2^64 - 1
        ("1100000000000000", "truncated"),
        ("15000000", "truncated"),
        ("0000", "field number"),
        ("0200", "field number"),
        ("808080801000", "field number"),  # 2^29
        ("0b", "wire type 3"),
        ("0c", "wire type 4"),
        ("0e", "wire type 6"),
        ("0f", "wire type 7"),
        ("8a0000", "overlong"),  # the tag 0x0a in two bytes
        ("0a810061", "overlong"),  # the length 1 in two bytes
    ],
)
def test_malformed_fields(data: str, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        list(fields(bytes.fromhex(data)))


def test_the_number_of_fields_is_bounded() -> None:
    assert len(list(fields(b"\x0a\x00" * MAX_FIELDS))) == MAX_FIELDS
    with pytest.raises(RemoteProtocolError, match="too many"):
        list(fields(b"\x0a\x00" * (MAX_FIELDS + 1)))
    assert len(list(fields(b"\x0a\x00" * 1000, max_fields=1000))) == 1000


@given(st.binary(max_size=80))
def test_any_bytes_are_fields_or_refused(data: bytes) -> None:
    try:
        found = list(fields(data))
    except RemoteProtocolError:
        return
    assert all(isinstance(value, int | memoryview) and number > 0 for number, value in found)


@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), U64 | st.binary(max_size=200)), max_size=20))
def test_what_is_written_is_read(values: list[tuple[int, int | bytes]]) -> None:
    data = b"".join(
        varint(number << 3) + varint(value)
        if isinstance(value, int)
        else bytes_head(number, len(value)) + value
        for number, value in values
    )
    assert list(fields(data)) == values


def test_defaults_are_not_written() -> None:
    assert bytes_field(1, b"") == string_field(1, "") == uint_field(1, 0) == b""
    assert uint_field(5, 300) == bytes.fromhex("28ac02")
    assert string_field(2, "ж") == bytes.fromhex("1202d0b6")


def test_values_of_another_type_are_refused() -> None:
    view = memoryview(b"\xff")
    for wrong in (
        lambda: as_bytes(1),
        lambda: as_string(1),
        lambda: as_string(view),
        lambda: as_uint32(view),
        lambda: as_uint32(1 << 32),
        lambda: as_bool(view),
    ):
        with pytest.raises(RemoteProtocolError):
            wrong()
    assert as_uint32((1 << 32) - 1) == (1 << 32) - 1
    assert as_bool(2) is True
    assert as_bool(0) is False
