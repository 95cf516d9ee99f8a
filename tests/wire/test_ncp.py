"""Packets of NCP, against the protobuf library."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.wire.ncp import MAX_ACK_RANGES, MAX_CLIENT_IDS, NcpPacket
from nconnect.wire.protobuf import bytes_field, string_field, uint_field
from tests.wire import nkn_proto

UINT32 = st.integers(0, (1 << 32) - 1)
RANGES = st.lists(UINT32, max_size=6)
FIELDS = st.fixed_dictionaries(
    {
        "sequence_id": UINT32,
        "data": st.binary(max_size=20),
        "bytes_read": st.integers(0, (1 << 64) - 1),
        "client_ids": st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=5),
        "window_size": UINT32,
        "mtu": UINT32,
        "close": st.booleans(),
        "handshake": st.booleans(),
        "features": UINT32,
        "end": st.booleans(),
    }
)


@given(FIELDS, RANGES, st.sampled_from(("both", "starts", "counts")))
def test_packets_are_read_and_written_as_the_library_does(fields: dict, ranges: list, lists: str) -> None:
    fields["ack_starts"] = ranges if lists != "counts" else []
    fields["ack_counts"] = ranges[::-1] if lists != "starts" else []
    made = nkn_proto.make("NcpPacket", **fields)
    packet = NcpPacket.decode(made)
    whole: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    assert packet == NcpPacket(**whole)
    assert packet.encode() == made


def test_repeated_numbers_are_read_unpacked_too() -> None:
    data = uint_field(3, 7) + uint_field(3, 9) + bytes_field(3, b"\x0b") + b"\x20\x00\x20\x01\x20\x02"
    packet = NcpPacket.decode(data)
    assert (packet.ack_starts, packet.ack_counts) == ((7, 9, 11), (0, 1, 2))


@pytest.mark.parametrize(
    ("packet", "ranges"),
    [
        (NcpPacket(ack_starts=(5, 9), ack_counts=(2, 1)), [(5, 2), (9, 1)]),
        (NcpPacket(ack_starts=(5, 9)), [(5, 1), (9, 1)]),
        (NcpPacket(ack_counts=(40,)), [(1, 40)]),
        (NcpPacket(), []),
    ],
)
def test_what_is_left_out_of_ranges_is_one(packet: NcpPacket, ranges: list[tuple[int, int]]) -> None:
    assert packet.ack_ranges() == ranges


@pytest.mark.parametrize(
    "data",
    [
        bytes_field(3, b"\x01\x02") + bytes_field(4, b"\x01"),
        bytes_field(3, b"\x80"),
        bytes_field(3, b"\x01" * (MAX_ACK_RANGES + 1)),
        bytes_field(4, b"\xff\xff\xff\xff\x1f"),
        string_field(6, "x") * (MAX_CLIENT_IDS + 1),
        bytes_field(6, b"\xff"),
        bytes_field(1, b"1"),
        bytes_field(5, b"1"),
        uint_field(2, 1),
        b"\x08",
    ],
)
def test_malformed_packets_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        NcpPacket.decode(data)
