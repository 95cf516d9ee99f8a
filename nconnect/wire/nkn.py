"""NKN's binary messages between clients and nodes (proto3).

A websocket binary frame holds a `ClientMessage`, which is one of three:

    OutboundMessage   client to node: dests, payloads, and a signature for each dest
    InboundMessage    node to client: src, payload, and prev_hash when a receipt is owed
    Receipt           client to node: prev_hash signed

The payload is opaque to nodes; `nconnect.wire.message` decodes it for clients.

Decoding copies no payload: payloads are views of the input and valid as long as it is. For sending there are
prefixes: a prefix followed by the payload is the message, so the payload is not copied. Malformed bytes raise
`RemoteProtocolError`.

`nconnect.wire.sigchain` has the digests that are signed, `nconnect.wire.actions` the JSON actions.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

from nconnect.errors import RemoteProtocolError
from nconnect.model import Buffer
from nconnect.wire.protobuf import (
    as_bytes,
    as_string,
    as_uint32,
    bytes_field,
    bytes_head,
    fields,
    read_varint,
    string_field,
    uint_field,
)

MAX_MESSAGE_BYTES = 4_000_000  # the largest payload that the SDKs send
MAX_FRAME_BYTES = 4 << 20  # the official node's limit for one frame; also our limit for decompressed data
MAX_DESTS = 4096  # guessed: far above what SDKs send at once; bounds the work that one frame can cause

MAX_RECURRING_BYTES = 4096  # guessed: for larger messages the cost of decoding does not matter
MAX_HEADS = 256

_OUTBOUND, _INBOUND, _RECEIPT = 0, 1, 2
_NONE, _ZLIB = 0, 1


@dataclass(frozen=True, slots=True)
class OutboundMessage:
    """Client to node. One payload serves all dests, or there is one for each.

    `signatures` holds one for each dest, or none where the node waived them.
    """

    dests: tuple[str, ...]
    payloads: tuple[Buffer, ...]
    nonce: int = 0
    block_hash: bytes = b""
    signatures: tuple[bytes, ...] = ()
    max_holding_seconds: int = 0

    def payload_for(self, index: int) -> Buffer:
        """The payload for `dests[index]`."""
        return self.payloads[0] if len(self.payloads) == 1 else self.payloads[index]

    def encode(self, *, compress: bool | None = None) -> bytes:
        """The `ClientMessage`. `compress` None: compress if there are several payloads, as the SDKs do."""
        body = b"".join(
            (
                *(_repeated(3, dest.encode()) for dest in self.dests),
                uint_field(4, self.max_holding_seconds),
                uint_field(5, self.nonce),
                bytes_field(6, self.block_hash),
                *(_repeated(7, signature) for signature in self.signatures),
                *(_repeated(8, payload) for payload in self.payloads),
            )
        )
        if len(self.payloads) > 1 if compress is None else compress:
            return _client_message(_OUTBOUND, zlib.compress(body)) + uint_field(3, _ZLIB)
        return _client_message(_OUTBOUND, body)


@dataclass(slots=True)
class InboundMessage:
    """Node to client. A receipt is owed when `prev_hash` is not empty.

    One is made for each message, so it is not frozen: that would cost a microsecond.
    """

    src: str
    payload: Buffer
    prev_hash: bytes = b""

    def encode(self) -> bytes:
        """The `ClientMessage`."""
        return _client_message(
            _INBOUND,
            b"".join(
                (string_field(1, self.src), bytes_field(2, self.payload), bytes_field(3, self.prev_hash))
            ),
        )


@dataclass(frozen=True, slots=True)
class Receipt:
    """Client to node: a signed statement that a message with this `prev_hash` arrived."""

    prev_hash: bytes
    signature: bytes

    def encode(self) -> bytes:
        """The `ClientMessage`."""
        return _client_message(_RECEIPT, bytes_field(1, self.prev_hash) + bytes_field(2, self.signature))


class InflatesTooFar(RemoteProtocolError):
    """A compressed message exceeds the limit when decompressed."""


def inflate(body: Buffer, most: int = MAX_FRAME_BYTES) -> bytes:
    """Decompress a body to at most `most` bytes (at least 1); raise `InflatesTooFar` if it has more."""
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(body, most)
    except zlib.error as error:
        raise RemoteProtocolError(f"NKN: bad compressed message: {error}") from None
    if not stream.eof and len(plain) == most:
        raise InflatesTooFar("NKN: a compressed message that is too large")
    if not stream.eof or stream.unused_data:
        raise RemoteProtocolError("NKN: a compressed message that is cut short or followed by more")
    return plain


def decode_client_message(
    data: Buffer, inflate: Callable[[Buffer], bytes] = inflate
) -> OutboundMessage | InboundMessage | Receipt:
    """Read one binary frame. Payloads are views of `data`, or of its decompressed content.

    `inflate` replaces the decompressor, for a receiver that limits the work of decompression.
    """
    view = data if type(data) is memoryview else memoryview(data)
    body: Buffer
    kind, compression, body = _client_message_head(view) or _client_message_fields(view)
    if compression:
        if compression != _ZLIB:
            raise RemoteProtocolError(f"NKN: unknown compression {compression}")
        body = inflate(body)
    if kind == _INBOUND:
        return _inbound(body)
    if kind == _OUTBOUND:
        return _outbound(body)
    if kind == _RECEIPT:
        return _receipt(body)
    raise RemoteProtocolError(f"NKN: unknown message type {kind}")


def outbound_prefix(
    dest: str,
    payload_size: int,
    *,
    nonce: int,
    block_hash: bytes,
    signature: bytes,
    max_holding_seconds: int = 0,
) -> bytes:
    """All of a `ClientMessage` with one dest up to its payload, whose `payload_size` bytes come last.

    An empty `signature` leaves the field out (the node waived it).
    """
    head = b"".join(
        (
            string_field(3, dest),
            uint_field(4, max_holding_seconds),
            uint_field(5, nonce),
            bytes_field(6, block_hash),
            bytes_field(7, signature),
            bytes_head(8, payload_size),
        )
    )
    return bytes_head(2, len(head) + payload_size) + head


def inbound_prefix(src: str, payload_size: int, prev_hash: bytes = b"") -> bytes:
    """All of a `ClientMessage` to a client up to its payload, whose `payload_size` bytes come last."""
    head = string_field(1, src) + bytes_field(3, prev_hash) + bytes_head(2, payload_size)
    return b"\x08\x01" + bytes_head(2, len(head) + payload_size) + head


class HeadCache:
    """Recognises messages of one sender that differ in the payload only: acknowledgements, tokens, pings.

    For each message size it keeps the bytes before the payload of the newest message, if the payload comes
    last. A message of the same size that begins with the same bytes need not be decoded again.
    """

    __slots__ = ("by_size",)

    def __init__(self) -> None:
        self.by_size: dict[int, tuple[bytes, str]] = {}  # message size -> bytes before the payload, address

    def find(self, data: memoryview) -> tuple[str, memoryview] | None:
        """(the sender's or receiver's address, the payload) if such a message was kept; otherwise None."""
        kept = self.by_size.get(len(data))
        if kept is None:
            return None
        head, address = kept
        size = len(head)
        return (address, data[size:]) if data[:size] == head else None

    def keep(self, data: memoryview, address: str, payload_size: int, payload: Buffer) -> None:
        """Remember a decoded message, unless it is large or its payload does not come last."""
        head_size = len(data) - payload_size
        if len(data) > MAX_RECURRING_BYTES or not payload_size or data[head_size:] != payload:
            return
        if len(self.by_size) >= MAX_HEADS:
            self.by_size.clear()
        self.by_size[len(data)] = (bytes(data[:head_size]), address)


# --- below: decoding of the three client messages ---


def _client_message_head(view: memoryview) -> tuple[int, int, memoryview] | None:
    """(type, compression, message) of a frame in the usual form: an optional type, then a message to the end.

    None for other forms. Most frames have this one; it saves 0.7 us of the 3.3 us for an inbound message.
    """
    size = len(view)
    if size < 8:
        return None
    kind, pos = 0, 0
    if view[0] == 0x08:
        kind, pos = view[1], 2
        if kind > 127:
            return None
    if view[pos] != 0x12:
        return None
    length, pos = read_varint(view, pos + 1)
    return (kind, _NONE, view[pos:]) if pos + length == size else None


def _client_message_fields(view: memoryview) -> tuple[int, int, memoryview]:
    """(type, compression, message) of any frame."""
    kind = compression = 0
    body = view[:0]
    for number, value in fields(view):
        if number == 2:
            body = as_bytes(value)
        elif number == 1:
            kind = as_uint32(value)
        elif number == 3:
            compression = as_uint32(value)
    return kind, compression, body


def _outbound(body: Buffer) -> OutboundMessage:
    dest, dests = "", []
    payload: Buffer = b""
    payloads: list[Buffer] = []
    signatures = []
    holding = nonce = 0
    block_hash = b""
    # Fields: a tag each for dest, signature and payload, and those that occur once. Types are checked inline
    # and not by as_bytes: this is the node's data path, and five calls cost 0.3 us of 5.
    for number, value in fields(body, max_fields=3 * MAX_DESTS + 16):
        if type(value) is memoryview:
            if number == 8:
                payloads.append(value)
            elif number == 7:
                signatures.append(bytes(value))
            elif number == 3:
                dests.append(as_string(value))
            elif number == 6:
                block_hash = bytes(value)
            elif number == 2:
                payload = value
            elif number == 1:
                dest = as_string(value)
            elif number in (4, 5):
                as_uint32(value)  # raises
        elif number == 5:
            nonce = as_uint32(value)
        elif number == 4:
            holding = as_uint32(value)
        elif number in (1, 2, 3, 6, 7, 8):
            as_bytes(value)  # raises
    # Fields 1 and 2 are the older form of 3 and 8; the official node reads them if the newer ones are absent.
    if not dests:
        if not dest:
            raise RemoteProtocolError("NKN: an outbound message without a destination")
        dests.append(dest)
    if not payloads:
        payloads.append(payload)
    if len(dests) > MAX_DESTS:
        raise RemoteProtocolError(f"NKN: more than {MAX_DESTS} destinations")
    if len(payloads) not in (1, len(dests)):
        raise RemoteProtocolError("NKN: neither one payload nor one for each destination")
    if signatures and len(signatures) != len(dests):
        raise RemoteProtocolError("NKN: not one signature for each destination")
    return OutboundMessage(tuple(dests), tuple(payloads), nonce, block_hash, tuple(signatures), holding)


def _inbound(body: Buffer) -> InboundMessage:
    src, prev_hash = "", b""
    payload: Buffer = b""
    for number, value in fields(body):
        if number == 2:
            payload = as_bytes(value)
        elif number == 1:
            src = as_string(value)
        elif number == 3:
            prev_hash = bytes(as_bytes(value))
    return InboundMessage(src, payload, prev_hash)


def _receipt(body: Buffer) -> Receipt:
    prev_hash = signature = b""
    for number, value in fields(body):
        if number == 1:
            prev_hash = bytes(as_bytes(value))
        elif number == 2:
            signature = bytes(as_bytes(value))
    return Receipt(prev_hash, signature)


def _client_message(kind: int, body: bytes) -> bytes:
    return uint_field(1, kind) + bytes_field(2, body)


def _repeated(number: int, value: Buffer) -> bytes:
    """One element of a repeated field. It is sent even when empty, because its position counts."""
    return b"".join((bytes_head(number, len(value)), value))
