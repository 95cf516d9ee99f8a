"""A small proto3 codec: a strict field scanner that copies nothing, and writers.

It replaces a library because the relay decodes two messages for each NKN message that it carries:
length-delimited values are views of the input, valid as long as the input is (decision 0003).

A field is a tag varint (number << 3 | wire type), then by wire type: 0 a varint, 1 eight bytes little
endian, 2 a varint length and that many bytes, 5 four bytes little endian. The group wire types 3 and 4 are
not proto3 and are refused. (Specification: Protocol Buffers, "Encoding".)
"""

from __future__ import annotations

from collections.abc import Iterator

from nconnect.errors import RemoteProtocolError
from nconnect.model import Buffer

MAX_FIELDS = 64  # guessed: our messages have at most 8 fields; bounds the work that hostile bytes can cause
_LAST_SHIFT = 63  # specification: a varint has at most 64 bits, 7 in each byte, the tenth byte one
_SHIFTS = range(7, _LAST_SHIFT + 1, 7)
_MAX_TAG = (1 << 32) - 1  # specification: field numbers have 29 bits


def fields(data: Buffer, *, max_fields: int = MAX_FIELDS) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value): an int for a varint, a view of `data` for a length-delimited field.

    Fields of fixed width are checked and skipped: NKN's messages have none, so they are unknown fields here,
    which proto3 ignores.

    Raises `RemoteProtocolError` if the bytes end early, a varint is longer than its value needs or exceeds
    64 bits, a wire type or field number is not proto3, or there are more than `max_fields` fields. The caller
    must then discard what was yielded before.
    """
    view = data if type(data) is memoryview else memoryview(data)
    pos, end = 0, len(view)
    while pos < end:
        tag = view[pos]
        pos += 1
        if tag > 127:
            tag, pos = read_varint(view, pos - 1)
        if not 8 <= tag <= _MAX_TAG:
            raise RemoteProtocolError("protobuf: field number out of range")
        number, kind = tag >> 3, tag & 7
        max_fields -= 1
        if max_fields < 0:
            raise RemoteProtocolError("protobuf: too many fields")
        if kind == 2:
            if pos < end and (size := view[pos]) < 128:
                pos += 1
            else:
                size, pos = read_varint(view, pos)
            stop = pos + size
            if stop > end:
                raise RemoteProtocolError("protobuf: truncated field")
            yield number, view[pos:stop]
            pos = stop
        elif kind == 0:
            value, pos = read_varint(view, pos)
            yield number, value
        elif kind == 1 or kind == 5:
            pos += 8 if kind == 1 else 4
            if pos > end:
                raise RemoteProtocolError("protobuf: truncated field")
        else:
            raise RemoteProtocolError(f"protobuf: wire type {kind} is not proto3")


def read_varint(view: memoryview, pos: int) -> tuple[int, int]:
    """Read the varint at `pos`: (value, position after it). Raises `RemoteProtocolError`."""
    try:
        byte = view[pos]
        if byte < 128:
            return byte, pos + 1
        value = byte & 0x7F
        for shift in _SHIFTS:
            pos += 1
            byte = view[pos]
            if byte < 128:
                if not byte:
                    raise RemoteProtocolError("protobuf: overlong varint")
                if shift == _LAST_SHIFT and byte > 1:
                    break
                return value | byte << shift, pos + 1
            value |= (byte & 0x7F) << shift
    except IndexError:
        raise RemoteProtocolError("protobuf: truncated varint") from None
    raise RemoteProtocolError("protobuf: varint over 64 bits")


def as_bytes(value: int | memoryview) -> memoryview:
    """The value of a `bytes` field; raise `RemoteProtocolError` if it has another wire type."""
    if type(value) is not memoryview:
        raise RemoteProtocolError("protobuf: a number where bytes belong")
    return value


def as_string(value: int | memoryview) -> str:
    """The value of a `string` field; raise `RemoteProtocolError` when it is not UTF-8 text."""
    try:
        return str(as_bytes(value), "utf-8")
    except UnicodeDecodeError:
        raise RemoteProtocolError("protobuf: a string that is not UTF-8") from None


def as_uint32(value: int | memoryview) -> int:
    """The value of a `uint32` field. The specification truncates wider numbers; we refuse them."""
    if type(value) is not int or value >> 32:
        raise RemoteProtocolError("protobuf: not a 32-bit number")
    return value


def as_bool(value: int | memoryview) -> bool:
    """The value of a `bool` field: any varint, true unless 0."""
    if type(value) is not int:
        raise RemoteProtocolError("protobuf: bytes where a number belongs")
    return value != 0


def varint(value: int) -> bytes:
    """`value` (0 to 2^64 - 1) as a varint."""
    if value < 128:
        return _ONE_BYTE[value]
    out = bytearray()
    while value > 127:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_ONE_BYTE = tuple(bytes([value]) for value in range(128))


def bytes_head(number: int, size: int) -> bytes:
    """Tag and length of a length-delimited field; its `size` bytes follow."""
    return varint(number << 3 | 2) + varint(size)


def bytes_field(number: int, value: Buffer) -> bytes:
    """An encoded `bytes` field; b"" if the value is empty (proto3 does not send defaults)."""
    return b"".join((bytes_head(number, len(value)), value)) if len(value) else b""


def string_field(number: int, value: str) -> bytes:
    """An encoded `string` field; b"" if the value is empty."""
    return bytes_field(number, value.encode())


def uint_field(number: int, value: int) -> bytes:
    """An encoded varint field (`uint32`, `bool`, an enum); b"" if the value is 0."""
    return varint(number << 3) + varint(value) if value else b""
