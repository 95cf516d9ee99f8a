"""Joined datagrams: what cutting gives back is what was joined; what may not be joined stays alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.all import IP, TCP, UDP, IPOption_NOP, IPv6, IPv6ExtHdrDestOpt, Raw

from nconnect.ip import offload
from nconnect.ip.gro import MAX_DATAGRAM_BYTES, MAX_JOINED, MAX_JOINED_BYTES, Run
from nconnect.ip.packet import is_well_formed
from tests.ip.packets import datagram, noise, parse, partial, plain, tcp_super, udp_super

LEAST = 58  # what a run may look at behind a record's beginning


def join(records: Sequence[bytes | memoryview]) -> list[memoryview]:
    """Put the records into an arena one after another, as who reads a TUN does."""
    arena = bytearray(sum(map(len, records)) + LEAST)
    run = Run(arena)
    made: list[tuple[int, int]] = []
    at = 0
    for record in records:
        arena[at : at + len(record)] = record
        if len(record) == run.size and run.extend(at):
            at = run.end
            continue
        if run.count > 1:
            made[-1] = run.finish()
        run.start, run.size = at, len(record)
        made.append((at, at + len(record)))
        at += len(record)
    if run.count > 1:
        made[-1] = run.finish()
    return [memoryview(bytes(arena[start:end])) for start, end in made]


def changed(record: memoryview, at: int, value: int) -> memoryview:
    record[at] = value
    return record


def completed(record: memoryview) -> bytes:
    copy = memoryview(bytearray(record))
    offload.complete(copy)
    return bytes(copy)


@given(
    version=st.sampled_from((4, 6)),
    size=st.integers(1, 1400),
    count=st.integers(2, MAX_JOINED),
    identification=st.integers(0, 0xFFFF),
    tos=st.integers(0, 255),
)
def test_what_is_joined_is_cut_to_what_it_was(
    version: int, size: int, count: int, identification: int, tos: int
) -> None:
    fields = [
        {"id": (identification + n) & 0xFFFF, "tos": tos} if version == 4 else {"tc": tos}
        for n in range(min(count, (MAX_JOINED_BYTES - 58) // size))
    ]
    records = [
        datagram(noise(size, seed=n), version=version, **own) for n, own in enumerate(fields)
    ]  # fmt: skip
    (joined,) = join(records) if len(records) > 1 else [records[0]]
    assert is_well_formed(joined[10:])
    assert offload.check(joined)
    assert offload.split(joined) == [completed(record) for record in records]


@given(st.lists(st.sampled_from((0, 1, 2)), min_size=1, max_size=60), st.sampled_from((4, 6)))
def test_flows_that_alternate_keep_their_order(ports: list[int], version: int) -> None:
    records = [
        datagram(bytes([n]), sport=1000 + port, version=version, **({"id": 0} if version == 4 else {}))
        for n, port in enumerate(ports)
    ]
    cut = [piece for record in join(records) for piece in offload.split(record)]
    assert [parse(piece[10:])[Raw].load[0] for piece in cut] == list(range(len(ports)))
    assert [parse(piece[10:])[UDP].sport - 1000 for piece in cut] == ports


ALONE = {
    "another port": (datagram(), datagram(sport=1)),
    "another address": (datagram(), datagram(src="10.86.0.3")),
    "another TTL": (datagram(), datagram(ttl=3)),
    "another ECN mark": (datagram(tos=1), datagram(tos=3)),
    "another flow label": (datagram(version=6, fl=1), datagram(version=6, fl=2)),
    "another version": (datagram(b"x" * 20 + b"hello"), datagram(version=6)),
    "may be fragmented": (datagram(flags=0), datagram(flags=0)),
    "a fragment": (changed(datagram(), 10 + 6, 0x60), changed(datagram(), 10 + 6, 0x60)),
    "a later fragment": (changed(datagram(), 10 + 7, 4), changed(datagram(), 10 + 7, 4)),
    "IP options": (datagram(options=[IPOption_NOP()]), datagram(options=[IPOption_NOP()])),
    "finished": (plain(bytes(datagram()[10:])), plain(bytes(datagram()[10:]))),
    "one finished": (datagram(), plain(bytes(datagram()[10:]))),
    "empty": (datagram(b""), datagram(b"")),
    "super-packets": (udp_super(5000, 1000), udp_super(5000, 1000)),
    "TCP": (tcp_super(5000, 1000), tcp_super(5000, 1000)),
    "TCP without a payload": (
        partial(bytes(IP(flags="DF") / TCP(flags="A"))),
        partial(bytes(IP(flags="DF") / TCP(flags="A"))),
    ),
    "extension headers": tuple(
        partial(bytes(IPv6(src="fd86::2", dst="fd50::10") / IPv6ExtHdrDestOpt() / UDP() / Raw(b"hello")))
        for _ in range(2)
    ),
    "too long for two": (datagram(noise(MAX_DATAGRAM_BYTES)), datagram(noise(MAX_DATAGRAM_BYTES))),
}


@pytest.mark.parametrize("name", ALONE)
def test_what_is_not_of_a_kind_stays_alone(name: str) -> None:
    records = list(ALONE[name])
    assert len({len(record) for record in records}) == 1, "no run takes another size"
    assert join(records) == records


def test_a_sum_of_a_packet_inside_is_left_alone() -> None:
    """A tunnel in the tunnel: the checksum to be completed is not the datagram's own."""
    record = datagram(b"x" * 60)
    offload.HEADER.pack_into(record, 0, offload.NEEDS_CSUM, 0, 0, 0, 20 + 8 + 20, 6)
    assert join([record, record]) == [record, record]


def test_a_length_that_is_not_the_packets_is_left_alone() -> None:
    record = changed(datagram(), 10 + 20 + 5, 14)
    assert join([record, record]) == [record, record]


def test_another_size_ends_a_run_and_the_next_begins() -> None:
    sizes = [5, 5, 5, 9, 9, 5, 7]
    records = [datagram(b"x" * size, number=n) for n, size in enumerate(sizes)]
    joined = join(records)
    assert [len(record) - 38 for record in joined] == [15, 18, 5, 7]
    assert joined[2:] == records[5:]


def test_a_run_ends_at_the_most_segments() -> None:
    joined = join([datagram(number=n) for n in range(2 * MAX_JOINED + 1)])
    assert [len(offload.split(record)) for record in joined] == [MAX_JOINED, MAX_JOINED, 1]
    assert all(offload.check(record) for record in joined)


@pytest.mark.parametrize("version", [4, 6])
def test_a_run_ends_at_the_most_bytes(version: int) -> None:
    records = [datagram(noise(1400), version=version) for _ in range(60)]
    joined = join(records)
    assert len(joined) == 2
    assert MAX_JOINED_BYTES - 1400 < len(joined[0]) <= MAX_JOINED_BYTES
    assert all(is_well_formed(record[10:]) and offload.check(record) for record in joined)


def test_a_run_is_forgotten_when_a_batch_begins_anew() -> None:
    arena = bytearray(1000)
    run = Run(arena)
    record = datagram()
    for at in (0, len(record)):
        arena[at : at + len(record)] = record
    run.start, run.size = 0, len(record)
    assert run.extend(len(record))
    run.clear()
    assert run.count == 1
    assert run.size not in range(65536)
