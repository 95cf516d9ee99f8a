"""Websocket frames, against the websockets library and against malformed bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame
from websockets.frames import Opcode as TheirOpcode
from websockets.utils import accept_key as their_accept_key

from nconnect.errors import LocalProtocolError, RemoteProtocolError
from nconnect.wire.websocket import (
    MAX_HEADER_BYTES,
    Assembler,
    Header,
    Opcode,
    accept_key,
    close_payload,
    frame_header,
    lone_message,
    parse_close,
    parse_header,
)

MASK = b"\x01\x02\x03\x04"
SIZES = (0, 1, 125, 126, 127, 65535, 65536, 4 << 20)
DATA_OPCODES = (Opcode.CONTINUATION, Opcode.TEXT, Opcode.BINARY)
CONTROL_OPCODES = (Opcode.CLOSE, Opcode.PING, Opcode.PONG)
LIMIT = 4 << 20


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("opcode", DATA_OPCODES)
def test_data_headers(opcode: Opcode, fin: bool, mask: bytes | None, size: int) -> None:
    written = frame_header(opcode, size, mask, fin=fin)
    assert len(written) <= MAX_HEADER_BYTES
    expected = Header(opcode, fin, mask is not None, mask or b"", len(written), size)
    assert parse_header(written, max_payload=LIMIT) == expected
    assert parse_header(memoryview(written + b"payload"), max_payload=LIMIT) == expected
    for cut in range(len(written)):
        assert parse_header(written[:cut], max_payload=LIMIT) is None


@pytest.mark.parametrize("opcode", [*DATA_OPCODES[1:], *CONTROL_OPCODES])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_headers_are_the_librarys(opcode: Opcode, size: int) -> None:
    if opcode in CONTROL_OPCODES and size > 125:
        return
    theirs = Frame(TheirOpcode(opcode), bytes(size)).serialize(mask=False)
    assert frame_header(opcode, size) == theirs[: len(theirs) - size]


@pytest.mark.parametrize("opcode", CONTROL_OPCODES)
def test_control_frames_are_whole_and_short(opcode: Opcode) -> None:
    header = parse_header(frame_header(opcode, 125, MASK), max_payload=0xFF)
    assert header is not None
    assert header.opcode is opcode
    for wrong in ({"length": 126}, {"length": 0, "fin": False}):
        with pytest.raises(LocalProtocolError):
            frame_header(opcode, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("c200", "reserved bits"),
        ("a200", "reserved bits"),
        ("9200", "reserved bits"),
        ("8300", "opcode 3"),
        ("8700", "opcode 7"),
        ("8b00", "opcode 11"),
        ("8f00", "opcode 15"),
        ("0800", "control frame"),  # fragmented
        ("0980", "control frame"),
        ("897e", "control frame"),  # over 125, refused before the length is there
        ("8aff", "control frame"),
        ("827e0000", "shortest"),
        ("827e007d", "shortest"),
        ("827f0000000000000000", "shortest"),
        ("827f000000000000ffff", "shortest"),
        ("827f0000000000400001", "at most"),
        ("827f8000000000000000", "at most"),
        ("82fffffffffffffffffe", "at most"),  # masked, refused before the mask is there
    ],
)
def test_malformed_headers(data: str, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        parse_header(bytes.fromhex(data), max_payload=LIMIT)


def test_the_limit_is_inclusive() -> None:
    assert parse_header(frame_header(Opcode.BINARY, 1000), max_payload=1000) is not None
    with pytest.raises(RemoteProtocolError, match="1001"):
        parse_header(frame_header(Opcode.BINARY, 1001), max_payload=1000)


@given(st.binary(max_size=20))
def test_any_bytes_are_a_header_or_refused_or_too_few(data: bytes) -> None:
    try:
        header = parse_header(data, max_payload=LIMIT)
    except RemoteProtocolError:
        return
    if header is None:
        assert len(data) < MAX_HEADER_BYTES
        return
    mask = header.mask if header.masked else None
    assert (
        frame_header(header.opcode, header.payload_size, mask, fin=header.fin) == data[: header.header_size]
    )


# --- messages of several frames ---


def test_a_whole_message_is_not_copied() -> None:
    payload = memoryview(b"whole")
    assembler = Assembler(10)
    message = assembler.add(Opcode.BINARY, True, payload)
    assert message is not None
    assert message[0] is Opcode.BINARY
    assert message[1] is payload


@given(
    st.lists(st.binary(max_size=10), min_size=2, max_size=6), st.sampled_from([Opcode.TEXT, Opcode.BINARY])
)
def test_fragments_are_joined(parts: list[bytes], opcode: Opcode) -> None:
    assembler = Assembler(60)
    for _ in range(2):  # the second time as good as the first
        assert assembler.room == 60
        assert assembler.add(opcode, False, parts[0]) is None
        for part in parts[1:-1]:
            assert assembler.add(Opcode.CONTINUATION, False, part) is None
        assert assembler.add(Opcode.CONTINUATION, True, parts[-1]) == (opcode, b"".join(parts))


def test_fragments_out_of_turn() -> None:
    with pytest.raises(RemoteProtocolError, match="continuation frame without a message"):
        Assembler(10).add(Opcode.CONTINUATION, True, b"")
    assembler = Assembler(10)
    assembler.add(Opcode.TEXT, False, b"a")
    with pytest.raises(RemoteProtocolError, match="inside a fragmented"):
        assembler.add(Opcode.TEXT, True, b"b")
    with pytest.raises(LocalProtocolError):
        Assembler(10).add(Opcode.PING, True, b"")


def test_a_message_of_fragments_is_bounded() -> None:
    assembler = Assembler(10)
    assembler.add(Opcode.BINARY, False, b"12345")
    assembler.add(Opcode.CONTINUATION, False, b"6789")
    assert assembler.room == 1
    with pytest.raises(RemoteProtocolError, match="over 10"):
        assembler.add(Opcode.CONTINUATION, True, b"ab")
    with pytest.raises(RemoteProtocolError, match="over 10"):
        Assembler(10).add(Opcode.BINARY, True, bytes(11))


# --- close and handshake ---


@pytest.mark.parametrize(("code", "why"), [(1000, ""), (1001, "leaving"), (4999, "ж"), (3000, "x" * 123)])
def test_close(code: int, why: str) -> None:
    assert close_payload(code, why) == Close(code, why).serialize()
    assert parse_close(close_payload(code, why)) == (code, why)


def test_a_long_reason_is_cut_at_a_character() -> None:
    payload = close_payload(1000, "ж" * 100)
    assert len(payload) == 124
    assert parse_close(payload) == (1000, "ж" * 61)


def test_a_reason_is_fit_for_a_terminal() -> None:
    said = "\x1b[2J\x1b]0;title\x07 left\u202egnp.exe\r\nroot# "
    assert parse_close(close_payload(1000, said)) == (1000, "[2J ]0;title  left gnp.exe  root#")


def test_close_without_a_code() -> None:
    assert parse_close(b"") == (1005, "")


@pytest.mark.parametrize(
    "payload", ["03", "0000", "03e7", "03ec", "03ed", "03ee", "03f7", "0bb7", "1388", "03e8ff"]
)
def test_malformed_close(payload: str) -> None:
    with pytest.raises(RemoteProtocolError, match="close"):
        parse_close(bytes.fromhex(payload))


def test_accept_key() -> None:
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, section 1.3
    assert accept_key("AAAAAAAAAAAAAAAAAAAAAA==") == their_accept_key("AAAAAAAAAAAAAAAAAAAAAA==")


@given(
    opcode=st.sampled_from(list(Opcode)[:3]),
    mask=st.sampled_from([None, bytes(4), MASK]),
    fin=st.booleans(),
    size=st.sampled_from([0, 125, 126, 300, 65535, 65536]),
    more=st.integers(-1, 1),
    masked=st.booleans(),
)
def test_a_lone_message_is_what_its_header_says(
    opcode: Opcode, mask: bytes | None, fin: bool, size: int, more: int, masked: bool
) -> None:
    """The short way takes exactly what the long way would hand on as it is."""
    written = frame_header(opcode, size, mask, fin=fin)
    data = bytearray(written + bytes(size) + b"?")
    whole = opcode is Opcode.BINARY and fin and more == 0 and 126 <= size <= 65535
    expected = len(written) if whole and mask == (bytes(4) if masked else None) else 0
    assert lone_message(data, len(written) + size + more, masked=masked) == expected


@given(data=st.binary(min_size=10, max_size=200), masked=st.booleans())
def test_a_lone_message_of_any_bytes(data: bytes, masked: bool) -> None:
    at = lone_message(bytearray(b"\x82" + data), 1 + len(data), masked=masked)
    if at:
        header = parse_header(b"\x82" + data, max_payload=LIMIT)
        assert header is not None
        assert (header.masked, header.header_size) == (masked, at)
        assert header.header_size + header.payload_size == 1 + len(data)
