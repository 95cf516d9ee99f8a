"""Batches: what is put in comes out; any other bytes parse or are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.wire.tunnel import PING_BODY, RECORD_HEADER, RecordKind, control_batch, put_record, read_records


def batch(*records: tuple[int, bytes]) -> memoryview:
    return memoryview(b"".join(RECORD_HEADER.pack(len(body) | kind << 24) + body for kind, body in records))


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_packets_come_out_as_they_went_in(bodies: list[bytes]) -> None:
    arena, at = bytearray(5000), 0
    for body in bodies:
        at = put_record(arena, at, body)
    packets, others = read_records(memoryview(arena)[:at])
    assert [bytes(packet) for packet in packets] == bodies
    assert others == []
    assert len(arena) == 5000


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    try:
        packets, others = read_records(memoryview(data))
    except RemoteProtocolError:
        return
    assert sum(map(len, packets)) + sum(len(body) for _, body in others) <= len(data)


@given(
    st.lists(st.tuples(st.sampled_from([0, 3, 127, 130, 255]), st.binary(max_size=20)), max_size=8), st.data()
)
def test_a_prefix_of_a_batch_is_whole_records_or_refused(
    records: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    whole = batch(*records)
    cut = data.draw(st.integers(0, len(whole)))
    ends = {len(batch(*records[:n])): n for n in range(len(records) + 1)}
    number = ends.get(cut)
    if number is None or any(kind == 127 for kind, _ in records[:number]):
        with pytest.raises(RemoteProtocolError):
            read_records(whole[:cut])
    else:
        packets, _ = read_records(whole[:cut])
        assert [bytes(p) for p in packets] == [body for kind, body in records[:number] if kind == 0]


def test_control_batches() -> None:
    assert control_batch() == b""
    assert read_records(memoryview(b"")) == ([], [])
    ping = PING_BODY.pack(7)
    made = memoryview(control_batch((RecordKind.PING, ping), (RecordKind.CLOSE, b"")))
    packets, others = read_records(made)
    assert packets == []
    assert [(kind, bytes(body)) for kind, body in others] == [
        (RecordKind.PING, ping),
        (RecordKind.CLOSE, b""),
    ]


def test_unknown_kinds_from_128_on_are_skipped_and_others_refused() -> None:
    packets, others = read_records(batch((200, b"later"), (0, b"packet")))
    assert [bytes(packet) for packet in packets] == [b"packet"]
    assert others == []
    for kind in (100, 127):
        with pytest.raises(RemoteProtocolError, match="unknown kind"):
            read_records(batch((0, b"packet"), (kind, b"")))


@pytest.mark.parametrize("kind", [RecordKind.PING, RecordKind.PONG, RecordKind.LEG])
@pytest.mark.parametrize("size", [0, 7, 9])
def test_pings_have_one_size(kind: RecordKind, size: int) -> None:
    with pytest.raises(RemoteProtocolError):
        read_records(batch((kind, bytes(size))))
