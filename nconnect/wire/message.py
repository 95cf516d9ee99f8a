"""Messages between NKN clients (proto3), from the envelope down to the text of a chat message.

They are the payload of the messages in `nconnect.wire.nkn`, and opaque to nodes. A `Message` (maybe sealed)
contains a `Payload` (type, message id, data), whose data, for text, is a `TextData`.

Decoding copies no payload: payloads are views of the input and valid as long as it is. Malformed bytes raise
`RemoteProtocolError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from nconnect.errors import RemoteProtocolError
from nconnect.model import Buffer
from nconnect.wire.protobuf import (
    as_bool,
    as_bytes,
    as_string,
    as_uint32,
    bytes_field,
    fields,
    string_field,
    uint_field,
)


@dataclass(frozen=True, slots=True)
class Message:
    """The envelope between clients. `payload` is a `Payload`, sealed when `encrypted`.

    `nonce` is 24 bytes for one recipient, or 48 (key nonce, message nonce) with `encrypted_key` for several;
    the tunnel's own frames use other lengths.
    """

    payload: Buffer
    encrypted: bool = False
    nonce: bytes = b""
    encrypted_key: bytes = b""

    def encode(self) -> bytes:
        return b"".join(
            (
                bytes_field(1, self.payload),
                uint_field(2, self.encrypted),
                bytes_field(3, self.nonce),
                bytes_field(4, self.encrypted_key),
            )
        )

    @classmethod
    def decode(cls, data: Buffer) -> Message:
        """Read one; `payload` is a view of `data`."""
        payload: Buffer = b""
        encrypted, nonce, encrypted_key = False, b"", b""
        for number, value in fields(data):
            if number == 1:
                payload = as_bytes(value)
            elif number == 2:
                encrypted = as_bool(value)
            elif number == 3:
                nonce = bytes(as_bytes(value))
            elif number == 4:
                encrypted_key = bytes(as_bytes(value))
        return cls(payload, encrypted, nonce, encrypted_key)


class PayloadType(IntEnum):
    """What the data of a `Payload` is."""

    BINARY = 0
    TEXT = 1
    ACK = 2
    SESSION = 3


@dataclass(frozen=True, slots=True)
class Payload:
    """The content of a message. A reply or ACK names the message that it answers in `reply_to_id`."""

    type: PayloadType
    message_id: bytes = b""  # 8 random bytes; empty in a reply
    data: Buffer = b""
    reply_to_id: bytes = b""
    no_reply: bool = False

    def encode(self) -> bytes:
        return b"".join(
            (
                uint_field(1, self.type),
                bytes_field(2, self.message_id),
                bytes_field(3, self.data),
                bytes_field(4, self.reply_to_id),
                uint_field(5, self.no_reply),
            )
        )

    @classmethod
    def decode(cls, data: Buffer) -> Payload:
        """Read one; its `data` is a view of `data`."""
        kind, message_id, reply_to_id, no_reply = 0, b"", b"", False
        content: Buffer = b""
        for number, value in fields(data):
            if number == 1:
                kind = as_uint32(value)
            elif number == 2:
                message_id = bytes(as_bytes(value))
            elif number == 3:
                content = as_bytes(value)
            elif number == 4:
                reply_to_id = bytes(as_bytes(value))
            elif number == 5:
                no_reply = as_bool(value)
        try:
            return cls(PayloadType(kind), message_id, content, reply_to_id, no_reply)
        except ValueError:
            raise RemoteProtocolError(f"NKN: unknown payload type {kind}") from None


@dataclass(frozen=True, slots=True)
class TextData:
    """The data of a `Payload` of type TEXT."""

    text: str

    def encode(self) -> bytes:
        return string_field(1, self.text)

    @classmethod
    def decode(cls, data: Buffer) -> TextData:
        text = ""
        for number, value in fields(data):
            if number == 1:
                text = as_string(value)
        return cls(text)
