"""Our own frames: golden bytes, round trips, and any bytes parse or are refused."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.wire.message import Message
from nconnect.wire.tunnel import (
    DATA_HEADER,
    MAX_PACKET_BODY_BYTES,
    MAX_RECORD_BYTES,
    VERSION,
    Feature,
    FrameKind,
    HandshakeFrame,
    Hello,
    WrongVersionError,
    data_frame,
    decode_handshake,
    is_handshake,
    split_data_frame,
)
from tests.wire import nkn_proto

U32 = st.integers(0, 2**32 - 1)


def test_the_bytes_of_a_data_header() -> None:
    header = DATA_HEADER.pack(VERSION, FrameKind.DATA, 0, 0x04030201, 0x0807060504030201)
    assert header.hex() == "01000000010203040102030405060708"
    assert len(header) == 16  # never a NaCl nonce, which is 24


def test_the_bytes_of_handshake_frames() -> None:
    initiation = HandshakeFrame(FrameKind.INITIATION, 1, 0x04030201, 0, b"noise")
    assert initiation.encode().hex() == "6e6301010100000001020304" + b"noise".hex()
    response = HandshakeFrame(FrameKind.RESPONSE, 2, 0x04030201, 0x08070605, b"noise")
    assert response.encode().hex() == "6e630102020000000102030405060708" + b"noise".hex()


def test_the_bytes_of_a_hello() -> None:
    hello = Hello(0x0807060504030201, Feature.CHECKSUM | Feature.USO, 4, 1500, 262144)
    assert hello.encode()[:20].hex() == "0102030405060708090000000400dc0500000400"
    assert Hello.decode(hello.encode()) == hello
    assert dataclasses.replace(hello, instance=b"instance").encode() == hello.encode() + b"instance"


@given(
    st.sampled_from([FrameKind.INITIATION, FrameKind.RESPONSE]),
    st.integers(0, 255),
    U32,
    U32,
    st.binary(max_size=200),
)
def test_handshakes_round_trip(kind: FrameKind, suite: int, sender: int, receiver: int, noise: bytes) -> None:
    frame = HandshakeFrame(kind, suite, sender, receiver if kind is FrameKind.RESPONSE else 0, noise)
    assert is_handshake(frame.encode())
    assert decode_handshake(frame.encode()) == frame


@given(
    st.integers(0, 2**64 - 1), st.integers(0, 15), st.integers(0, 255), st.integers(0, 65535), U32,
    st.binary(max_size=20),
)  # fmt: skip
def test_a_hello_round_trips_and_later_versions_may_add_to_it(
    counter: int, features: int, links: int, mtu: int, batch_bytes: int, more: bytes
) -> None:
    hello = Hello(counter, Feature(features), links, mtu, batch_bytes, instance=b"instance")
    assert Hello.decode(hello.encode() + more) == hello


@given(st.binary(max_size=7))
def test_a_hello_of_an_earlier_version_has_no_instance(more: bytes) -> None:
    hello = Hello(1, Feature.ALL, 1, 1500, 0)
    assert len(hello.encode()) == 28
    assert Hello.decode(hello.encode() + more) == hello


@given(st.binary(max_size=60))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    for candidate in (data, b"nc" + data, b"nc\x01" + data):
        try:
            frame = decode_handshake(candidate)
        except RemoteProtocolError:
            continue
        assert frame.kind in (FrameKind.INITIATION, FrameKind.RESPONSE)
    try:
        Hello.decode(data)
    except RemoteProtocolError:
        assert len(data) < len(Hello(0, Feature(0), 0, 0, 0).encode())


def test_features_that_we_do_not_know_are_left_out() -> None:
    unknown = bytearray(Hello(1, Feature.ALL, 1, 1500, 0).encode())
    unknown[8:12] = b"\xff\xff\xff\xff"
    assert Hello.decode(bytes(unknown)).features == Feature.ALL


def test_what_is_refused() -> None:
    for data in (b"", b"nc", b"nc\x01\x01\x01", b"nc\x01\x02\x01" + bytes(10), b"nc\x01\x00\x01" + bytes(7)):
        with pytest.raises(RemoteProtocolError):
            decode_handshake(data)
    with pytest.raises(WrongVersionError):
        decode_handshake(b"nc\x02\x01\x01" + bytes(7))
    assert not is_handshake(b"n")
    assert not is_handshake(b"")


def test_the_largest_packet_fits_a_record() -> None:
    assert MAX_PACKET_BODY_BYTES <= MAX_RECORD_BYTES


@given(header=st.binary(min_size=16, max_size=16), sealed=st.binary(max_size=300))
def test_a_data_frame_is_an_nkn_message(header: bytes, sealed: bytes) -> None:
    whole = memoryview(data_frame(header, len(sealed)) + sealed)
    read = nkn_proto.read("Message", bytes(whole))
    assert (read.payload, read.encrypted, read.nonce) == (sealed, True, header)
    assert split_data_frame(whole) == (header, sealed)
    message = Message.decode(whole)
    assert (message.nonce, bytes(message.payload), message.encrypted) == (header, sealed, True)
    for other in (whole[:-1], whole[1:], memoryview(bytes(whole) + b"x")):
        assert split_data_frame(other) is None or len(sealed) == 0


@given(st.binary(max_size=100))
def test_what_splits_as_a_data_frame_is_one(data: bytes) -> None:
    try:
        split = split_data_frame(memoryview(b"\x10\x01\x1a\x10" + data))
    except RemoteProtocolError:
        return
    if split is not None:
        message = Message.decode(b"\x10\x01\x1a\x10" + data)
        assert (message.nonce, message.payload) == split
