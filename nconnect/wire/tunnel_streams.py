"""Frames of the streams and datagrams that run inside a tunnel session (docs/protocol.md, "Streams").

A frame is the body of a packet record, so every path carries, cuts and counts it as it does a packet. It is
told apart by the virtio-net header, whose flags byte is 0x80 (no such flag exists) and whose other bytes are
0. What follows is no IP packet, since its first nibble is 0; an earlier version drops it as "bad_packet".

    0      10     11         12      14         18
    | virtio| kind | 0        | flags | id u32   | body

`id` is chosen by the side that opens the stream; FROM_OPENER says which side sends. Bodies, by kind:

    OPEN      window u32, port u16, protocol u8 (6: TCP), address (4 or 16 bytes)
    ANSWER    window u32, code u8 (0: accepted), text: why not, UTF-8
    DATA      sequence u32, bytes of the stream; END in flags: the direction ends behind them
    ACK       bytes read u64, then ranges of (first sequence u32, number u32); ASK in flags: answer with one
    RESET     code u8, text: why, UTF-8
    DATAGRAM  port u16, size of the address u8, 0, address, data: to it from the opener, from it otherwise

Sequences count DATA frames of a direction: 1 to 2^32 - 1, and then 1 again. All integers are little-endian.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from ipaddress import ip_address
from typing import NamedTuple

from nconnect.errors import RemoteProtocolError
from nconnect.model import Address, Buffer, Endpoint
from nconnect.wire.tunnel import MAX_PACKET_BODY_BYTES, VIRTIO_HEADER_BYTES

STREAM_FLAG = 0x80  # the first byte of the record
RECORD_HEAD = bytes((STREAM_FLAG,)) + bytes(VIRTIO_HEADER_BYTES - 1)
FROM_OPENER, END, ASK = 1, 2, 4
PROTOCOL_TCP, PROTOCOL_UDP = 6, 17
ACCEPTED = 0
MAX_TEXT_BYTES = 400
MAX_RANGES = 128

_HEAD = struct.Struct("<BBHI")
_OPEN = struct.Struct("<IHB")
_ANSWER = struct.Struct("<IB")
_SEQUENCE = struct.Struct("<I")
_READ = struct.Struct("<Q")
_RANGE = struct.Struct("<II")
_FROM = struct.Struct("<HBB")

FRAME_HEAD_BYTES = VIRTIO_HEADER_BYTES + _HEAD.size
DATA_HEAD_BYTES = FRAME_HEAD_BYTES + _SEQUENCE.size
MAX_DATA_BYTES = MAX_PACKET_BODY_BYTES - DATA_HEAD_BYTES
MAX_CARRIED_BYTES = 65507


class StreamKind(IntEnum):
    """What a frame says."""

    OPEN = 1
    ANSWER = 2
    DATA = 3
    ACK = 4
    RESET = 5
    DATAGRAM = 6


class StreamFrame(NamedTuple):
    """A frame's head, and its body as a view of the record."""

    kind: StreamKind
    flags: int
    id: int
    body: memoryview


class Opening(NamedTuple):
    """The body of OPEN: how much the opener takes, and where the stream is to lead."""

    window: int
    protocol: int
    target: Endpoint


class StreamAnswer(NamedTuple):
    """The body of ANSWER."""

    window: int
    code: int
    text: str


class Ack(NamedTuple):
    """The body of ACK: ranges are (first sequence, number)."""

    bytes_read: int
    ranges: list[tuple[int, int]]


def is_stream_frame(record: memoryview) -> bool:
    """Whether a record that is no IP packet is a frame."""
    return len(record) > VIRTIO_HEADER_BYTES and record[0] == STREAM_FLAG


def is_acknowledgement(frame: bytearray) -> bool:
    """Whether a frame that was encoded here is an ACK."""
    return frame[VIRTIO_HEADER_BYTES] == StreamKind.ACK


def encode_frame(kind: StreamKind, flags: int, id: int, *body: Buffer) -> bytearray:
    """A frame as the body of a packet record."""
    return bytearray().join((RECORD_HEAD, _HEAD.pack(kind, 0, flags, id), *body))


def decode_frame(record: memoryview) -> StreamFrame:
    """Raises `RemoteProtocolError` when it is cut off or of an unknown kind."""
    if len(record) < FRAME_HEAD_BYTES:
        raise RemoteProtocolError("a stream's frame is too short")
    kind, _, flags, id = _HEAD.unpack_from(record, VIRTIO_HEADER_BYTES)
    if kind not in _KINDS:
        raise RemoteProtocolError(f"a stream's frame of unknown kind {kind}")
    return StreamFrame(_KINDS[kind], flags, id, record[FRAME_HEAD_BYTES:])


def encode_opening(opening: Opening) -> bytes:
    window, protocol, (address, port) = opening
    return _OPEN.pack(window, port, protocol) + address.packed


def decode_opening(body: memoryview) -> Opening:
    """Raises `RemoteProtocolError`."""
    if len(body) not in (_OPEN.size + 4, _OPEN.size + 16):
        raise RemoteProtocolError("the opening of a stream has a wrong size")
    window, port, protocol = _OPEN.unpack_from(body)
    return Opening(window, protocol, Endpoint(ip_address(bytes(body[_OPEN.size :])), port))


def encode_answer(answer: StreamAnswer) -> bytes:
    return _ANSWER.pack(answer.window, answer.code) + _cut(answer.text)


def decode_answer(body: memoryview) -> StreamAnswer:
    """Raises `RemoteProtocolError`."""
    if len(body) < _ANSWER.size:
        raise RemoteProtocolError("the answer to a stream's opening is too short")
    window, code = _ANSWER.unpack_from(body)
    return StreamAnswer(window, code, _text(body[_ANSWER.size :]))


def encode_sequence(sequence: int) -> bytes:
    """What precedes the bytes of DATA."""
    return _SEQUENCE.pack(sequence)


def decode_data(body: memoryview) -> tuple[int, memoryview]:
    """(sequence, bytes) of DATA. Raises `RemoteProtocolError`."""
    if len(body) < _SEQUENCE.size:
        raise RemoteProtocolError("data of a stream without a sequence number")
    (sequence,) = _SEQUENCE.unpack_from(body)
    if not sequence:
        raise RemoteProtocolError("data of a stream with sequence number 0")
    return sequence, body[_SEQUENCE.size :]


def encode_ack(ack: Ack) -> bytes:
    return _READ.pack(ack.bytes_read) + b"".join(_RANGE.pack(*each) for each in ack.ranges)


def decode_ack(body: memoryview) -> Ack:
    """Raises `RemoteProtocolError`."""
    size = len(body) - _READ.size
    if size < 0 or size % _RANGE.size or size > MAX_RANGES * _RANGE.size:
        raise RemoteProtocolError("an acknowledgement of a stream has a wrong size")
    return Ack(_READ.unpack_from(body)[0], list(_RANGE.iter_unpack(body[_READ.size :])))


def encode_reset(code: int, text: str) -> bytes:
    return bytes((code,)) + _cut(text)


def decode_reset(body: memoryview) -> tuple[int, str]:
    """(code, why). Raises `RemoteProtocolError`."""
    if not len(body):
        raise RemoteProtocolError("the reset of a stream is too short")
    return body[0], _text(body[1:])


def encode_carried(place: Endpoint, data: Buffer) -> bytes:
    packed = place.address.packed
    return b"".join((_FROM.pack(place.port, len(packed), 0), packed, data))


def decode_carried(body: memoryview) -> tuple[Endpoint, memoryview]:
    """(where to or from, data). Raises `RemoteProtocolError`."""
    if len(body) < _FROM.size:
        raise RemoteProtocolError("a datagram is too short")
    port, size, _ = _FROM.unpack_from(body)
    at = _FROM.size + size
    if size not in (4, 16) or at > len(body):
        raise RemoteProtocolError("a datagram without an address")
    address: Address = ip_address(bytes(body[_FROM.size : at]))
    return Endpoint(address, port), body[at:]


def _cut(text: str) -> bytes:
    return text.encode(errors="replace")[:MAX_TEXT_BYTES]


def _text(body: memoryview) -> str:
    """What the other side says, as one printable line."""
    text = bytes(body[:MAX_TEXT_BYTES]).decode(errors="replace")
    return "".join(c if c.isprintable() else " " for c in text).strip()


_KINDS = {int(kind): kind for kind in StreamKind}
