"""NKN's message types in the protobuf library, built without generated code: the oracle for our codec."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "string": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
    "uint32": _FIELD.TYPE_UINT32,
    "uint64": _FIELD.TYPE_UINT64,
    "bool": _FIELD.TYPE_BOOL,
}
# Enums are uint32 here: the same on the wire. A star: repeated.
_MESSAGES = {
    "ClientMessage": ["uint32 message_type 1", "bytes message 2", "uint32 compression_type 3"],
    "OutboundMessage": [
        "string dest 1", "bytes payload 2", "string* dests 3", "uint32 max_holding_seconds 4",
        "uint32 nonce 5", "bytes block_hash 6", "bytes* signatures 7", "bytes* payloads 8",
    ],
    "InboundMessage": ["string src 1", "bytes payload 2", "bytes prev_hash 3"],
    "Receipt": ["bytes prev_hash 1", "bytes signature 2"],
    "Message": ["bytes payload 1", "bool encrypted 2", "bytes nonce 3", "bytes encrypted_key 4"],
    "Payload": [
        "uint32 type 1", "bytes message_id 2", "bytes data 3", "bytes reply_to_id 4", "bool no_reply 5",
    ],
    "TextData": ["string text 1"],
    "NcpPacket": [
        "uint32 sequence_id 1", "bytes data 2", "uint32* ack_starts 3", "uint32* ack_counts 4",
        "uint64 bytes_read 5", "string* client_ids 6", "uint32 window_size 7", "uint32 mtu 8", "bool close 9",
        "bool handshake 10", "uint32 features 20", "bool end 21",
    ],
}  # fmt: skip


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="nconnect_test.proto", package="nconnect_test", syntax="proto3"
    )
    for name, members in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for member in members:
            kind, field, number = member.split()
            label = _FIELD.LABEL_REPEATED if kind.endswith("*") else _FIELD.LABEL_OPTIONAL
            message.field.add(name=field, number=int(number), type=_TYPES[kind.rstrip("*")], label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"nconnect_test.{name}"))
        for name in _MESSAGES
    }


CLASSES = _build()


def make(name: str, **values: Any) -> bytes:
    """A serialized message."""
    data: bytes = CLASSES[name](**values).SerializeToString()
    return data


def read(name: str, data: bytes) -> Any:
    """The parsed message; raises the library's DecodeError."""
    return CLASSES[name].FromString(data)
