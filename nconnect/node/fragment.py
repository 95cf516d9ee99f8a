"""A client's message on its way to another node of the cluster: cut into parts, and joined again. Pure.

One part (big-endian), which is one NATS message:

    u8 version = 1 | u8[8] run of the sending node | u32 seconds to hold it | u64 number | u16 part
    | u16 parts | u16 length of src | u16 length of dest | src | dest | a piece of the payload

The parts of a message follow each other, because a node sends on one connection. So each sending node has at
most one incomplete message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from nconnect.errors import RemoteProtocolError
from nconnect.model import Buffer
from nconnect.wire.nkn import MAX_MESSAGE_BYTES

_VERSION = 1
PIECE_BYTES = 512 << 10  # guessed: half of NATS's usual limit
_MAX_SENDERS = 1024  # incomplete messages that are kept; each until its sender begins the next one
MAX_HALF_BYTES = 32 << 20  # of all of them; beyond it the oldest goes
RUN_BYTES = 8
_HEAD = struct.Struct(">B8sIQHHHH")


@dataclass(frozen=True, slots=True)
class ForwardedMessage:
    """A message from a client of another node. `sender` is that node's run."""

    sender: bytes
    src: str
    dest: str
    payload: bytes
    holding_s: int


def cut(
    run: bytes,
    number: int,
    src: str,
    dest: str,
    payload: Buffer,
    holding_s: int,
    piece_bytes: int = PIECE_BYTES,
) -> Iterator[bytes]:
    """The parts of one message, in order."""
    src_bytes, dest_bytes = src.encode(), dest.encode()
    parts = max(1, -(-len(payload) // piece_bytes))
    view = memoryview(payload)
    for part in range(parts):
        head = _HEAD.pack(_VERSION, run, holding_s, number, part, parts, len(src_bytes), len(dest_bytes))
        yield b"".join((head, src_bytes, dest_bytes, view[part * piece_bytes : (part + 1) * piece_bytes]))


class FragmentJoiner:
    """Joins the parts of all senders."""

    def __init__(self) -> None:
        self._halves: dict[bytes, tuple[int, int, bytearray]] = {}  # run -> number, parts so far, payload
        self._half_bytes = 0

    def add(self, data: bytes) -> ForwardedMessage | None:
        """Take one part; return the message once it is complete. Raises `RemoteProtocolError`."""
        if len(data) < _HEAD.size:
            raise RemoteProtocolError("fragment: cut short")
        version, run, holding_s, number, part, parts, src_size, dest_size = _HEAD.unpack_from(data)
        start = _HEAD.size + src_size + dest_size
        if version != _VERSION or part >= parts or len(data) < start:
            raise RemoteProtocolError("fragment: malformed")
        piece = memoryview(data)[start:]
        half = self._forget(run)
        if part:
            if half is None or half[:2] != (number, part):
                raise RemoteProtocolError("fragment: a part is missing")
            payload = half[2]
        else:
            payload = bytearray()
        if len(payload) + len(piece) > MAX_MESSAGE_BYTES:
            raise RemoteProtocolError("fragment: too big")
        payload += piece
        if part + 1 < parts:
            self._halves[run] = (number, part + 1, payload)
            self._half_bytes += len(payload)
            while len(self._halves) > _MAX_SENDERS or self._half_bytes > MAX_HALF_BYTES:
                self._forget(next(iter(self._halves)))
            return None
        try:
            src = str(data[_HEAD.size : _HEAD.size + src_size], "utf-8")
            dest = str(data[_HEAD.size + src_size : start], "utf-8")
        except UnicodeDecodeError:
            raise RemoteProtocolError("fragment: an address that is not UTF-8") from None
        return ForwardedMessage(run, src, dest, bytes(payload), holding_s)

    def _forget(self, run: bytes) -> tuple[int, int, bytearray] | None:
        half = self._halves.pop(run, None)
        if half is not None:
            self._half_bytes -= len(half[2])
        return half
