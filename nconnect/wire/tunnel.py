"""Our own frames inside NKN messages (docs/protocol.md is their specification).

Handshake frame: the data of an ordinary box-encrypted NKN payload of type BINARY.

    0       2        3     4      5          8            12
    | "nc"  | version| kind| suite| reserved | sender u32 | [receiver u32, response only] | Noise message |

Data frame: an NKN message {encrypted: true, nonce, payload}. Its nonce field holds our 16-byte header, which
is also the associated data of the seal; its payload is the sealed batch. Lane: the sender's link number times
8, plus the receiver's.

    0        1     2          4              8              16
    | version| kind| lane u16 | receiver u32 | counter u64  |

A batch is a list of records. Each starts with a u32, length in the lower 24 bits, kind in the upper 8. A
packet's body is a virtio-net header of 10 bytes and the IP packet.

All integers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from nconnect.errors import RemoteProtocolError
from nconnect.wire.protobuf import read_varint, varint

VERSION = 1
MAGIC = b"nc"

DATA_HEADER = struct.Struct("<BBHIQ")
RECORD_HEADER = struct.Struct("<I")
RECORD_HEADER_BYTES = RECORD_HEADER.size
MAX_RECORD_BYTES = (1 << 24) - 1
VIRTIO_HEADER_BYTES = 10
MAX_PACKET_BODY_BYTES = VIRTIO_HEADER_BYTES + 40 + 65535  # the largest IPv6 packet, without jumbograms
PING_BODY = struct.Struct("<Q")
SHARED_KEY_BODY = struct.Struct("<H")  # seconds since the last sign of another device
LEG_BODY = struct.Struct("<I")  # microseconds
# Of the newest batch that arrived: u32 key index, u32 microseconds since then, u64 counter. Then u64 bytes of
# batches that arrived so far, and u8: 1 if the receiver itself can't keep up, else 0.
FEEDBACK_BODY = struct.Struct("<IIQQB")

# Which packet of the relay this is too: u64 counter of its batch, under the same session keys, and u16 its
# place among the packets of that batch.
COPY_BODY = struct.Struct("<QH")

# Before a part of a statement: u32 epoch, u32 revision, u32 size of the statement, u32 offset of the part.
STATEMENT_HEAD = struct.Struct("<IIII")
# u32 epoch, u32 revision, u32 bytes of it that arrived, from the beginning and without a gap.
STATEMENT_ACK_BODY = struct.Struct("<III")

LINKS_HEAD = struct.Struct("<I")  # revision, which rises with each change; then the links that are up
LINKS_ENTRY = struct.Struct("<BI")  # the link's number, and a tag that identifies its node (0: unknown)
STRIPE_BODY = struct.Struct("<IH")  # number of the striped batch, milliseconds it may wait for earlier ones
MAX_LINKS = 8  # of one side
SPARES = 2  # initiations also go to sub-clients 1 and 2, where a peer may be whose other links are down

# NKN's Message: field 2 (encrypted) true, field 3 (nonce) of 16 bytes; then field 1 (payload).
_MESSAGE_HEAD = b"\x10\x01\x1a\x10"
_SEALED_AT = 22  # the least offset of the sealed bytes: head, header, tag, one byte of length
_HANDSHAKE_HEAD = struct.Struct("<2sBBB3xI")
_RECEIVER = struct.Struct("<I")
_HELLO = struct.Struct("<QIBBHIQ")
INSTANCE_BYTES = 8  # in a Hello: long enough that two processes never draw the same one


class FrameKind(IntEnum):
    DATA = 0
    INITIATION = 1
    RESPONSE = 2


class RecordKind(IntEnum):
    """What a record contains. Receivers skip unknown kinds from 128 on, and refuse a batch for others."""

    PACKET = 0
    PING = 1  # u64 that the pong repeats
    PONG = 2
    CLOSE = 3  # the sender is going away: forget the session
    FEEDBACK = 4  # what has arrived from you: FEEDBACK_BODY
    LINKS = 5  # the sender's links that are up: `encode_links`
    STRIPE = 6  # first record of a batch that may overtake others and must be put in order: STRIPE_BODY
    LEG = 128  # before a pong: the round trip between its sender and the node by which it leaves: LEG_BODY
    SHARED_KEY = 129  # another device uses the receiver's key too: SHARED_KEY_BODY
    CANDIDATES = 130  # where the sender may be reached directly: `nconnect.wire.direct`, as the next two
    PROBE = 131  # in a datagram: is there a path from here to you?
    PROBE_ACK = 132  # the answer, by the same path
    DIRECT_FEEDBACK = 133  # what has arrived from you in datagrams: FEEDBACK_BODY
    SEGMENT = 134  # in a datagram: a part of a packet
    COPY = 135  # in a datagram: its packet went by the relay too
    HANDSHAKE = 136  # in a datagram from a proven address: a handshake frame, for new keys
    STATEMENT = 137  # a part of the sender's statement: STATEMENT_HEAD, and what follows
    STATEMENT_ACK = 138  # how much of the receiver's statement has arrived: STATEMENT_ACK_BODY


class Feature(IntFlag):
    """What the sender's TUN accepts from the other side."""

    CHECKSUM = 1  # packets with a partial transport checksum
    TSO4 = 2
    TSO6 = 4
    USO = 8  # UDP super-packets, both IP versions
    ALL = 15


@dataclass(frozen=True, slots=True)
class Hello:
    """The payload inside both handshake messages; bytes after it are for later versions.

    u64 counter (initiation: above all earlier ones; response: 0), u32 features, u8 links that are up (bit
    k: sub-client k; bit 0: the bare address; none means bit 0), u8 reserved,
    u16 mtu, u32 largest batch in bytes, u64 wall clock (nanoseconds since the Unix epoch; a hint only),
    8 bytes instance: drawn by the sender each time it starts; absent in earlier versions (b"").
    """

    counter: int
    features: Feature
    links: int
    mtu: int
    batch_bytes: int
    wall_clock_ns: int = 0
    instance: bytes = b""

    def encode(self) -> bytes:
        head = _HELLO.pack(
            self.counter, self.features, self.links, 0, self.mtu, self.batch_bytes, self.wall_clock_ns
        )
        return head + self.instance

    @classmethod
    def decode(cls, data: bytes) -> Hello:
        if len(data) < _HELLO.size:
            raise RemoteProtocolError("a handshake's payload is too short")
        counter, features, links, _, mtu, batch_bytes, wall_clock_ns = _HELLO.unpack_from(data)
        instance = data[_HELLO.size : _HELLO.size + INSTANCE_BYTES]
        if len(instance) < INSTANCE_BYTES:
            instance = b""
        return cls(counter, Feature(features & Feature.ALL), links, mtu, batch_bytes, wall_clock_ns, instance)


@dataclass(frozen=True, slots=True)
class HandshakeFrame:
    """An initiation or a response; `receiver` is 0 in an initiation."""

    kind: FrameKind
    suite: int
    sender: int
    receiver: int
    noise: bytes

    def encode(self) -> bytes:
        head = _HANDSHAKE_HEAD.pack(MAGIC, VERSION, self.kind, self.suite, self.sender)
        receiver = _RECEIVER.pack(self.receiver) if self.kind is FrameKind.RESPONSE else b""
        return head + receiver + self.noise


def encode_links(revision: int, links: Mapping[int, int]) -> bytes:
    """The body of a LINKS record: number -> tag."""
    return LINKS_HEAD.pack(revision) + b"".join(LINKS_ENTRY.pack(*link) for link in sorted(links.items()))


def decode_links(body: bytes | memoryview) -> tuple[int, dict[int, int]]:
    """(revision, links) of a LINKS record; raises `RemoteProtocolError`."""
    size = len(body) - LINKS_HEAD.size
    if size <= 0 or size % LINKS_ENTRY.size or size > MAX_LINKS * LINKS_ENTRY.size:
        raise RemoteProtocolError("a list of links of the wrong size")
    (revision,) = LINKS_HEAD.unpack_from(body)
    links = dict(LINKS_ENTRY.iter_unpack(body[LINKS_HEAD.size :]))
    if len(links) * LINKS_ENTRY.size != size or max(links) >= MAX_LINKS:
        raise RemoteProtocolError("a list of links with one twice, or out of range")
    return revision, links


class WrongVersionError(RemoteProtocolError):
    """A frame of ours of an unsupported version."""


def data_frame(header: bytes, sealed_size: int) -> bytes:
    """A data frame's NKN message {encrypted: true, nonce: header} up to its `sealed_size` sealed bytes."""
    if sealed_size < 128:
        return b"%b%b\x0a%c" % (_MESSAGE_HEAD, header, sealed_size)
    return _MESSAGE_HEAD + header + b"\x0a" + varint(sealed_size)


def split_data_frame(payload: memoryview) -> tuple[bytes, memoryview] | None:
    """(header, sealed batch) of an NKN message in the layout of `data_frame`; None for any other layout.

    Other layouts of the same message are equally valid; the slower general decoder reads them.
    """
    if payload[:4] != _MESSAGE_HEAD or len(payload) < _SEALED_AT or payload[20] != 0x0A:
        return None
    size, at = payload[_SEALED_AT - 1], _SEALED_AT
    if size > 127:
        size, at = read_varint(payload, _SEALED_AT - 1)
    return (bytes(payload[4:20]), payload[at:]) if at + size == len(payload) else None


def is_handshake(data: bytes) -> bool:
    """Whether an NKN payload's data begins like a frame of ours."""
    return data[:2] == MAGIC


def decode_handshake(data: bytes) -> HandshakeFrame:
    """Read a handshake frame; raises `RemoteProtocolError` (`WrongVersionError` for another version)."""
    if len(data) < _HANDSHAKE_HEAD.size:
        raise RemoteProtocolError("a handshake frame is too short")
    _, version, kind, suite, sender = _HANDSHAKE_HEAD.unpack_from(data)
    if version != VERSION:
        raise WrongVersionError(f"a handshake frame of version {version}")
    at = _HANDSHAKE_HEAD.size
    receiver = 0
    if kind == FrameKind.RESPONSE:
        if len(data) < at + _RECEIVER.size:
            raise RemoteProtocolError("a handshake response is too short")
        (receiver,) = _RECEIVER.unpack_from(data, at)
        at += _RECEIVER.size
    elif kind != FrameKind.INITIATION:
        raise RemoteProtocolError(f"a handshake frame of unknown kind {kind}")
    return HandshakeFrame(FrameKind(kind), suite, sender, receiver, data[at:])


# Batches

_SKIP_FROM = 128  # kinds that who does not know them skips
_KNOWN = {int(kind) for kind in RecordKind}
_BODY_BYTES = {
    int(RecordKind.PING): PING_BODY.size,
    int(RecordKind.PONG): PING_BODY.size,
    int(RecordKind.FEEDBACK): FEEDBACK_BODY.size,
    int(RecordKind.DIRECT_FEEDBACK): FEEDBACK_BODY.size,
    int(RecordKind.COPY): COPY_BODY.size,
    int(RecordKind.STRIPE): STRIPE_BODY.size,
    int(RecordKind.LEG): LEG_BODY.size,
    int(RecordKind.SHARED_KEY): SHARED_KEY_BODY.size,
    int(RecordKind.STATEMENT_ACK): STATEMENT_ACK_BODY.size,
}
Record = tuple[int, memoryview]
STRIPE_RECORD_BYTES = RECORD_HEADER_BYTES + STRIPE_BODY.size


def control_batch(*records: tuple[RecordKind, bytes]) -> bytes:
    """A batch of records that are no packets; without any, a keepalive."""
    return b"".join(RECORD_HEADER.pack(len(body) | kind << 24) + body for kind, body in records)


def put_record(arena: bytearray, at: int, body: bytes | bytearray | memoryview) -> int:
    """Append a packet's record to a batch under construction; returns where the next one goes."""
    size = len(body)
    RECORD_HEADER.pack_into(arena, at, size)
    start = at + RECORD_HEADER_BYTES
    arena[start : start + size] = body
    return start + size


def put_stripe(arena: bytearray, number: int, wait_s: float) -> None:
    """Begin a striped batch with its number; it takes `STRIPE_RECORD_BYTES`."""
    RECORD_HEADER.pack_into(arena, 0, STRIPE_BODY.size | RecordKind.STRIPE << 24)
    STRIPE_BODY.pack_into(arena, RECORD_HEADER_BYTES, number, min(int(wait_s * 1e3) + 1, 0xFFFF))


def read_records(batch: memoryview) -> tuple[list[memoryview], list[Record]]:
    """The packets' bodies and the other records, in order, as views of `batch`.

    Raises `RemoteProtocolError` when the list is not well-formed: an authentic peer that sends such a batch
    is broken or hostile, and none of it is used.
    """
    packets: list[memoryview] = []
    others: list[Record] = []
    at, end = 0, len(batch)
    unpack = RECORD_HEADER.unpack_from
    if end >= RECORD_HEADER_BYTES and unpack(batch)[0] == end - RECORD_HEADER_BYTES:
        packets.append(batch[RECORD_HEADER_BYTES:])  # one packet, and nothing else
        return packets, others
    while at < end:
        start = at + RECORD_HEADER_BYTES
        if start > end:
            raise RemoteProtocolError("a record's header is cut off")
        (head,) = unpack(batch, at)
        at = start + (head & MAX_RECORD_BYTES)
        if at > end:
            raise RemoteProtocolError("a record is cut off")
        kind = head >> 24
        if not kind:
            packets.append(batch[start:at])
        elif kind in _KNOWN:
            body = batch[start:at]
            if len(body) != _BODY_BYTES.get(kind, len(body)):
                raise RemoteProtocolError("a record of the wrong size")
            others.append((kind, body))
        elif kind < _SKIP_FROM:
            raise RemoteProtocolError(f"a record of unknown kind {kind}")
    return packets, others
