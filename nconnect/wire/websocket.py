"""RFC 6455 frame headers, and the joining of fragmented messages. The I/O layer does the masking.

    byte 0     FIN, RSV1-3 (0: no extensions), opcode
    byte 1     MASK, length 0-125, or 126: 2 bytes follow, or 127: 8 bytes follow (big endian, minimal)
    then       the masking key, 4 bytes, when MASK is set; then the payload

A violation of section 5 is a `RemoteProtocolError`. The caller checks whether a frame has to be masked: a
client must mask (section 5.1) unless the node waived it.
"""

from __future__ import annotations

import base64
from enum import IntEnum
from hashlib import sha1
from struct import Struct
from typing import NamedTuple

from nconnect.errors import LocalProtocolError, RemoteProtocolError
from nconnect.model import Buffer
from nconnect.wire.text import printable

MAX_HEADER_BYTES = 14  # 2, 8 for the length, 4 for the mask
MAX_CONTROL_BYTES = 125  # section 5.5
NO_MASK = bytes(4)  # leaves the payload as it is

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
_LONE_BINARY = 0x80 | 2  # FIN, and the opcode
_U16, _U64 = Struct(">BBH"), Struct(">BBQ")
_CLOSE_CODE = Struct(">H")


class Opcode(IntEnum):
    """Section 5.2."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


_OPCODES: dict[int, Opcode] = {opcode.value: opcode for opcode in Opcode}
_CLOSE = Opcode.CLOSE  # saves the look-up of the member in its class


class Header(NamedTuple):
    """A frame's header; a tuple, because one is made for each frame.

    The payload is the `payload_size` bytes after its `header_size` bytes.
    """

    opcode: Opcode
    fin: bool
    masked: bool
    mask: bytes  # 4 bytes, or empty when not masked
    header_size: int
    payload_size: int


def frame_header(opcode: Opcode, length: int, mask: bytes | None = None, *, fin: bool = True) -> bytes:
    """The header of a frame of `length` payload bytes; the caller masks them with `mask` if it is given."""
    if opcode >= _CLOSE and (length > MAX_CONTROL_BYTES or not fin):
        raise LocalProtocolError("websocket: a control frame must be unfragmented, at most 125 bytes")
    first = opcode | 0x80 if fin else opcode
    masked = 0x80 if mask is not None else 0
    if length < 126:
        head = bytes((first, masked | length))
    elif length < 1 << 16:
        head = _U16.pack(first, masked | 126, length)
    else:
        head = _U64.pack(first, masked | 127, length)
    return head if mask is None else head + mask


def parse_header(data: Buffer, *, max_payload: int) -> Header | None:
    """Read the header that `data` starts with; None when more bytes are needed.

    Raises `RemoteProtocolError` as soon as the bytes so far break the protocol or announce more than
    `max_payload` bytes.
    """
    have = len(data)
    if have < 2:
        return None
    first, second = data[0], data[1]
    if first & 0x70:
        raise RemoteProtocolError("websocket: reserved bits are set")
    opcode = _OPCODES.get(first & 0x0F)
    if opcode is None:
        raise RemoteProtocolError(f"websocket: reserved opcode {first & 0x0F}")
    fin = first >= 0x80
    size = second & 0x7F
    if opcode >= 8 and (size > MAX_CONTROL_BYTES or not fin):
        raise RemoteProtocolError("websocket: a control frame that is fragmented or over 125 bytes")
    pos = 2
    if size == 126:
        if have < 4:
            return None
        size, pos = data[2] << 8 | data[3], 4
        if size < 126:
            raise RemoteProtocolError("websocket: length not in its shortest form")
    elif size == 127:
        if have < 10:
            return None
        size, pos = int.from_bytes(data[2:10], "big"), 10
        if size < 1 << 16:
            raise RemoteProtocolError("websocket: length not in its shortest form")
    if size > max_payload:
        raise RemoteProtocolError(f"websocket: a frame of {size} bytes, at most {max_payload} are accepted")
    if second < 0x80:
        return Header(opcode, fin, False, b"", pos, size)
    if have < pos + 4:
        return None
    return Header(opcode, fin, True, bytes(data[pos : pos + 4]), pos + 4, size)


def lone_message(data: bytearray, size: int, *, masked: bool) -> int:
    """The offset of the payload if `size` bytes are exactly one binary message of 126 to 65,535 bytes.

    0 for everything else, for which `parse_header` is needed: a mask other than zeros, several frames, part
    of a frame. Most small messages arrive alone, and this shorter check shortens a round trip.
    """
    if data[0] != _LONE_BINARY:
        return 0
    if masked:
        at = 8
        if data[1] != 0x80 | 126 or data[4:8] != NO_MASK:
            return 0
    else:
        at = 4
        if data[1] != 126:
            return 0
    return at if size - at == data[2] << 8 | data[3] >= 126 else 0


class Assembler:
    """Joins the data frames of one connection into messages (section 5.4); not for control frames.

    A message in one frame, the common case, is returned without a copy.
    """

    __slots__ = ("_max_bytes", "_opcode", "_parts", "is_busy")

    def __init__(self, max_bytes: int) -> None:
        self.is_busy = False  # a fragmented message is under way
        self._max_bytes = max_bytes
        self._opcode: Opcode | None = None
        self._parts = bytearray()

    @property
    def room(self) -> int:
        """How many payload bytes the next data frame may have: the `max_payload` for `parse_header`."""
        return self._max_bytes - len(self._parts)

    @property
    def size_bytes(self) -> int:
        """The bytes held of an incomplete message."""
        return len(self._parts)

    def add(self, opcode: Opcode, fin: bool, payload: Buffer) -> tuple[Opcode, Buffer] | None:
        """Take a data frame, unmasked; return (TEXT or BINARY, message) once one is complete.

        The message is `payload` itself or a buffer that the assembler no longer holds.
        """
        if opcode == Opcode.CONTINUATION:
            if self._opcode is None:
                raise RemoteProtocolError("websocket: a continuation frame without a message")
        elif self._opcode is not None:
            raise RemoteProtocolError("websocket: a new message inside a fragmented one")
        elif opcode >= Opcode.CLOSE:
            raise LocalProtocolError("websocket: control frames are not assembled")
        if len(payload) > self.room:
            raise RemoteProtocolError(f"websocket: a message over {self._max_bytes} bytes")
        if self._opcode is None:
            if fin:
                return opcode, payload
            self._opcode, self.is_busy = opcode, True
        self._parts += payload
        if not fin:
            return None
        whole = self._opcode, self._parts
        self._opcode, self._parts, self.is_busy = None, bytearray(), False
        return whole


def close_payload(code: int, why: str = "") -> bytes:
    """The payload of a close frame (section 5.5.1); `why` is cut to what fits, between characters."""
    text = why.encode()[: MAX_CONTROL_BYTES - 2].decode(errors="ignore")
    return _CLOSE_CODE.pack(code) + text.encode()


def parse_close(payload: Buffer) -> tuple[int, str]:
    """(code, reason) of a close frame; code 1005 if it has none. Raises `RemoteProtocolError`.

    The reason is made `printable`, because it is shown to people.
    """
    if not len(payload):
        return 1005, ""
    if len(payload) == 1:
        raise RemoteProtocolError("websocket: a close frame of one byte")
    code = payload[0] << 8 | payload[1]
    # Section 7.4: 1004-1006 and 1015 are never sent, 1016-2999 are not assigned, below 1000 is not used.
    if not (1000 <= code < 1015 or 3000 <= code < 5000) or code in (1004, 1005, 1006):
        raise RemoteProtocolError(f"websocket: close code {code}")
    try:
        return code, printable(str(payload[2:], "utf-8"))
    except UnicodeDecodeError:
        raise RemoteProtocolError("websocket: a close reason that is not UTF-8") from None


def accept_key(key: str) -> str:
    """`Sec-WebSocket-Accept` for a client's `Sec-WebSocket-Key` (section 4.2.2)."""
    return base64.b64encode(sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()).decode()
