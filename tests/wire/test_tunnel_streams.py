"""Frames of streams: golden bytes, round trips, and any bytes parse or are refused."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.ip.packet import is_well_formed
from nconnect.model import Endpoint
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES
from nconnect.wire.tunnel_streams import (
    ASK,
    END,
    FROM_OPENER,
    MAX_DATA_BYTES,
    MAX_RANGES,
    Ack,
    Opening,
    StreamAnswer,
    StreamKind,
    decode_ack,
    decode_answer,
    decode_carried,
    decode_data,
    decode_frame,
    decode_opening,
    decode_reset,
    encode_ack,
    encode_answer,
    encode_carried,
    encode_frame,
    encode_opening,
    encode_reset,
    encode_sequence,
    is_stream_frame,
)

U32 = st.integers(0, 2**32 - 1)
PLACE = Endpoint(ip_address("192.168.50.10"), 8000)
PLACE6 = Endpoint(ip_address("fd00::10"), 443)
HEAD = "80000000000000000000"
VECTORS = [
    (
        encode_frame(StreamKind.OPEN, FROM_OPENER, 7, encode_opening(Opening(1 << 20, 6, PLACE))),
        HEAD + "01000100" + "07000000" + "00001000" + "401f" + "06" + "c0a8320a",
    ),
    (
        encode_frame(StreamKind.ANSWER, 0, 7, encode_answer(StreamAnswer(1 << 22, 0, ""))),
        HEAD + "02000000" + "07000000" + "00004000" + "00",
    ),
    (
        encode_frame(StreamKind.ANSWER, 0, 7, encode_answer(StreamAnswer(0, 2, "not allowed"))),
        HEAD + "02000000" + "07000000" + "00000000" + "02" + b"not allowed".hex(),
    ),
    (
        encode_frame(StreamKind.DATA, FROM_OPENER | END, 7, encode_sequence(1), b"hello"),
        HEAD + "03000300" + "07000000" + "01000000" + b"hello".hex(),
    ),
    (
        encode_frame(StreamKind.ACK, ASK, 7, encode_ack(Ack(5, [(1, 3), (9, 1)]))),
        HEAD + "04000400" + "07000000" + "0500000000000000" + "0100000003000000" + "0900000001000000",
    ),
    (
        encode_frame(StreamKind.RESET, 0, 7, encode_reset(0, "gone")),
        HEAD + "05000000" + "07000000" + "00" + b"gone".hex(),
    ),
    (
        encode_frame(StreamKind.DATAGRAM, FROM_OPENER, 9, encode_carried(PLACE, b"hi")),
        HEAD + "06000100" + "09000000" + "401f" + "04" + "00" + "c0a8320a" + b"hi".hex(),
    ),
]


@pytest.mark.parametrize(("frame", "golden"), VECTORS)
def test_golden_bytes(frame: bytearray, golden: str) -> None:
    assert frame.hex() == golden


@pytest.mark.parametrize(("frame", "golden"), VECTORS)
def test_no_frame_is_an_ip_packet(frame: bytearray, golden: str) -> None:
    record = memoryview(frame)
    assert is_stream_frame(record)
    assert not is_well_formed(record[VIRTIO_HEADER_BYTES:])


@given(
    window=U32,
    port=st.integers(0, 65535),
    address=st.ip_addresses(),
    code=st.integers(0, 255),
    text=st.text(),
)
def test_what_is_encoded_is_decoded(window: int, port: int, address: object, code: int, text: str) -> None:
    place = Endpoint(ip_address(str(address).partition("%")[0]), port)
    opening = Opening(window, 6, place)
    assert decode_opening(memoryview(encode_opening(opening))) == opening
    answer = decode_answer(memoryview(encode_answer(StreamAnswer(window, code, text))))
    assert (answer.window, answer.code) == (window, code)
    assert answer.text.isprintable()
    assert decode_carried(memoryview(encode_carried(place, b"data"))) == (place, b"data")
    assert decode_reset(memoryview(encode_reset(code, "why"))) == (code, "why")


@given(read=st.integers(0, 2**64 - 1), ranges=st.lists(st.tuples(U32, U32), max_size=MAX_RANGES))
def test_acknowledgements_are_decoded(read: int, ranges: list[tuple[int, int]]) -> None:
    assert decode_ack(memoryview(encode_ack(Ack(read, ranges)))) == (read, ranges)


def test_too_many_ranges_are_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        decode_ack(memoryview(encode_ack(Ack(0, [(1, 1)] * (MAX_RANGES + 1)))))


def test_the_largest_data_fits_into_a_record() -> None:
    encode_frame(StreamKind.DATA, 0, 1, encode_sequence(1), bytes(MAX_DATA_BYTES))


@given(st.binary(max_size=120))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    for read in (
        decode_frame,
        decode_opening,
        decode_answer,
        decode_data,
        decode_ack,
        decode_reset,
        decode_carried,
    ):
        try:
            read(memoryview(data))
        except RemoteProtocolError:
            continue


def test_a_text_is_one_printable_line_of_bounded_length() -> None:
    answer = decode_answer(memoryview(encode_answer(StreamAnswer(0, 1, "a\nb\x1b[31m" + "x" * 5000))))
    assert answer.text.startswith("a b [31m")
    assert len(answer.text) <= 400
