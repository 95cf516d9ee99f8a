"""JSON from strangers: all mistakes raise the same error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.wire import strict_json
from nconnect.wire.strict_json import MAX_JSON_BYTES

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_what_is_dumped_is_loaded(value: object) -> None:
    text = strict_json.dump(value)
    assert strict_json.load(text) == value
    assert strict_json.load(memoryview(text.encode())) == value


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_anything_is_loaded_or_refused(data: bytes | str) -> None:
    try:
        strict_json.load(data)
    except RemoteProtocolError:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{}x",
        b"\xff",
        b"\xff\xfe{\x00}\x00",  # UTF-16
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 5000,  # more digits than Python converts
        b" " * (MAX_JSON_BYTES + 1),
        "'single'",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_malformed(data: bytes | str) -> None:
    with pytest.raises(RemoteProtocolError, match="JSON"):
        strict_json.load(data)


@pytest.mark.parametrize("value", [None, 1, "x", [], [{}], True])
def test_an_object_is_an_object(value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        strict_json.obj(value)
    assert strict_json.obj({"a": 1}) == {"a": 1}


@pytest.mark.parametrize("value", [None, 1, 1.0, True, [], {}, "\ud800"])
def test_a_string_is_a_string(value: object) -> None:
    with pytest.raises(RemoteProtocolError, match="a "):
        strict_json.text({"a": value}, "a")


@pytest.mark.parametrize("value", [None, "1", 1.0, True, [], {}])
def test_an_integer_is_an_integer(value: object) -> None:
    with pytest.raises(RemoteProtocolError, match="a must"):
        strict_json.number({"a": value}, "a")


@pytest.mark.parametrize("value", ["0", "0x", "zz", "ab cd", "ab\n", "é0", 12])
def test_hex_is_hex(value: object) -> None:
    with pytest.raises(RemoteProtocolError, match="a must"):
        strict_json.hex_bytes({"a": value}, "a")


def test_members_of_the_right_type() -> None:
    members = strict_json.load('{"s":"\\u0436","n":-5,"h":"AbCd","z":null}')
    assert strict_json.text(members, "s") == "ж"
    assert strict_json.number(members, "n") == -5
    assert strict_json.hex_bytes(members, "h", 2) == b"\xab\xcd"
    with pytest.raises(RemoteProtocolError, match="3 bytes"):
        strict_json.hex_bytes(members, "h", 3)
    for name in ("z", "absent"):
        assert strict_json.text(members, name, "d") == "d"
        assert strict_json.number(members, name, 9) == 9
        assert strict_json.hex_bytes(members, name, default="") == b""


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 30 + "E" + "1" * 38])
def test_a_number_that_would_be_an_infinity_is_refused(number: str) -> None:
    """Found by the fuzzer: it was read as one, and could not be answered with."""
    with pytest.raises(RemoteProtocolError):
        strict_json.load(number)
