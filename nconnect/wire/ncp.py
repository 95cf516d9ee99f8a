"""The packets of NKN's session protocol, NCP (proto3): each is the data of a `Payload` of type SESSION.

    1 sequence_id     uint32            of a data packet, 1 to 2^32 - 1; absent: no data
    2 data            bytes             bytes of the stream
    3 ack_start_seq   repeated uint32   first sequence of each acknowledged range
    4 ack_seq_count   repeated uint32   its length
    5 bytes_read      uint64            bytes that the sender's application has taken from the stream so far
    6 client_ids      repeated string   handshake: the sender's sub-clients
    7 window_size     uint32            handshake: its receive window in bytes
    8 mtu             uint32            handshake: the largest `data` that it takes
    9 close           bool              end of the session
   10 handshake       bool
   20 features        uint32            handshake: what the sender knows beyond the official SDKs
   21 end             bool              of a data packet: the stream ends behind it

The official SDKs (ncp-go, ncp-js) have fields 1 to 10 and skip others. Field 21 is sent only to those that
named `FEATURE_END` in their handshake.
"""

from __future__ import annotations

from dataclasses import dataclass

from nconnect.errors import RemoteProtocolError
from nconnect.model import Buffer
from nconnect.wire.protobuf import (
    as_bool,
    as_bytes,
    as_string,
    as_uint32,
    bytes_field,
    bytes_head,
    fields,
    read_varint,
    string_field,
    uint_field,
    varint,
)

FEATURE_END = 1  # knows the field `end`
MAX_ACK_RANGES = 512  # guessed; the official SDKs send at most 32 in a packet
MAX_CLIENT_IDS = 256  # guessed; clients have 4 sub-clients unless told
_MAX_FIELDS = 2 * MAX_ACK_RANGES + MAX_CLIENT_IDS + 16


@dataclass(frozen=True, slots=True)
class NcpPacket:
    """One packet, as it stands on the wire; fields that are absent have their default."""

    sequence_id: int = 0
    data: Buffer = b""
    ack_starts: tuple[int, ...] = ()
    ack_counts: tuple[int, ...] = ()
    bytes_read: int = 0
    client_ids: tuple[str, ...] = ()
    window_size: int = 0
    mtu: int = 0
    close: bool = False
    handshake: bool = False
    features: int = 0
    end: bool = False

    def encode(self) -> bytes:
        """Numbers that repeat are packed, as the official SDKs send them."""
        return b"".join(
            (
                *((b"\x08", varint(self.sequence_id)) if self.sequence_id else ()),
                *((bytes_head(2, len(self.data)), self.data) if len(self.data) else ()),
                _packed(3, self.ack_starts),
                _packed(4, self.ack_counts),
                uint_field(5, self.bytes_read),
                *(string_field(6, id) or b"\x32\x00" for id in self.client_ids),
                uint_field(7, self.window_size),
                uint_field(8, self.mtu),
                uint_field(9, self.close),
                uint_field(10, self.handshake),
                uint_field(20, self.features),
                uint_field(21, self.end),
            )
        )

    @classmethod
    def decode(cls, packet: Buffer) -> NcpPacket:
        """Read one; its `data` is a view of `packet`. Raises `RemoteProtocolError`."""
        sequence_id = bytes_read = window_size = mtu = features = 0
        content: Buffer = b""
        starts: list[int] = []
        counts: list[int] = []
        client_ids: list[str] = []
        close = handshake = end = False
        for number, value in fields(packet, max_fields=_MAX_FIELDS):
            if number == 1:
                sequence_id = as_uint32(value)
            elif number == 2:
                content = as_bytes(value)
            elif number == 3:
                _add(starts, value)
            elif number == 4:
                _add(counts, value)
            elif number == 5:
                if type(value) is not int:
                    raise RemoteProtocolError("NCP: bytes where a number belongs")
                bytes_read = value
            elif number == 6:
                client_ids.append(as_string(value))
                if len(client_ids) > MAX_CLIENT_IDS:
                    raise RemoteProtocolError("NCP: too many sub-clients")
            elif number == 7:
                window_size = as_uint32(value)
            elif number == 8:
                mtu = as_uint32(value)
            elif number == 9:
                close = as_bool(value)
            elif number == 10:
                handshake = as_bool(value)
            elif number == 20:
                features = as_uint32(value)
            elif number == 21:
                end = as_bool(value)
        if starts and counts and len(starts) != len(counts):
            raise RemoteProtocolError("NCP: acknowledged ranges without a start or a length")
        return cls(
            sequence_id, content, tuple(starts), tuple(counts), bytes_read, tuple(client_ids), window_size,
            mtu, close, handshake, features, end,
        )  # fmt: skip

    def ack_ranges(self) -> list[tuple[int, int]]:
        """(start, length) of each range. The SDKs leave lengths out if all are 1, and starts if all are 1."""
        starts, counts = self.ack_starts, self.ack_counts
        return list(zip(starts or (1,) * len(counts), counts or (1,) * len(starts), strict=True))


def _packed(number: int, values: tuple[int, ...]) -> bytes:
    return bytes_field(number, b"".join(map(varint, values))) if values else b""


def _add(values: list[int], value: int | memoryview) -> None:
    """A repeated uint32, packed (a field for all) or not (a field for each): decoders must take both."""
    if type(value) is int:
        values.append(as_uint32(value))
    else:
        view, pos = as_bytes(value), 0
        while pos < len(view):
            number, pos = read_varint(view, pos)
            values.append(as_uint32(number))
            if len(values) > MAX_ACK_RANGES:
                break
    if len(values) > MAX_ACK_RANGES:
        raise RemoteProtocolError("NCP: too many acknowledged ranges")
