"""A batch: the list of records that is sealed as one message (layout in `nconnect.wire.tunnel`)."""

from __future__ import annotations

from nconnect.errors import RemoteProtocolError
from nconnect.wire.tunnel import (
    FEEDBACK_BODY,
    LEG_BODY,
    MAX_RECORD_BYTES,
    PING_BODY,
    RECORD_HEADER,
    RECORD_HEADER_BYTES,
    SHARED_KEY_BODY,
    STRIPE_BODY,
    RecordKind,
)

_SKIP_FROM = 128  # kinds that who does not know them skips
_KNOWN = {int(kind) for kind in RecordKind}
_BODY_BYTES = {
    int(RecordKind.PING): PING_BODY.size,
    int(RecordKind.PONG): PING_BODY.size,
    int(RecordKind.FEEDBACK): FEEDBACK_BODY.size,
    int(RecordKind.STRIPE): STRIPE_BODY.size,
    int(RecordKind.LEG): LEG_BODY.size,
    int(RecordKind.SHARED_KEY): SHARED_KEY_BODY.size,
}
Record = tuple[int, memoryview]


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


STRIPE_BYTES = RECORD_HEADER_BYTES + STRIPE_BODY.size


def put_stripe(arena: bytearray, number: int, wait_s: float) -> None:
    """Begin a striped batch with its number; it takes `STRIPE_BYTES`."""
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
