"""Joined datagrams: what cutting gives back is what was joined; what may not be joined stays alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.all import IP, TCP, UDP, IPOption_NOP, IPv6, IPv6ExtHdrDestOpt, Raw

from nconnect.ip import offload
from nconnect.ip.gro import MAX_DATAGRAM_BYTES, MAX_JOINED_BYTES, Run
from nconnect.ip.packet import is_well_formed
from tests.ip.packets import apart, datagram, noise, parse, partial, plain, tcp_super

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


@given(
    version=st.sampled_from((4, 6)),
    size=st.integers(1, 1400),
    count=st.integers(2, 64),
    identification=st.integers(0, 0xFFFF),
    tos=st.integers(0, 255),
    host=st.integers(1, 0xFFFF),
)
def test_what_is_joined_is_cut_to_what_it_was(
    version: int, size: int, count: int, identification: int, tos: int, host: int
) -> None:
    count = max(2, min(count, (MAX_JOINED_BYTES - 58) // size))
    payloads = [noise(size, seed=n) for n in range(count)]
    same: dict[str, Any]
    own: list[dict[str, Any]]
    if version == 4:
        same = {"tos": tos, "src": f"10.86.{host >> 8}.{host & 255}"}
        own = [{"id": (identification + n) & 0xFFFF} for n in range(count)]
    else:
        same = {"tc": tos, "src": f"fd86::{host:x}"}
        own = [{} for _ in range(count)]
    records = [
        datagram(payload, version=version, **same, **more)
        for payload, more in zip(payloads, own, strict=True)
    ]
    (joined,) = join(records)
    assert joined == datagram(b"".join(payloads), version=version, gso_size=size, **same, **own[0])
    assert is_well_formed(joined[10:])
    assert offload.check(joined)
    assert apart([joined]) == apart(records)


@given(st.lists(st.sampled_from((0, 1, 2)), min_size=1, max_size=60), st.sampled_from((4, 6)))
def test_flows_that_alternate_keep_their_order(ports: list[int], version: int) -> None:
    records = [
        datagram(bytes([n]), sport=1000 + port, version=version, **({"id": 0} if version == 4 else {}))
        for n, port in enumerate(ports)
    ]
    cut = apart(join(records))
    assert [parse(piece[10:])[Raw].load[0] for piece in cut] == list(range(len(ports)))
    assert [parse(piece[10:])[UDP].sport - 1000 for piece in cut] == ports


def twice(record: memoryview) -> tuple[memoryview, memoryview]:
    return record, record


ALONE = {
    "another source port": (datagram(), datagram(sport=1)),
    "another port": (datagram(), changed(datagram(), 10 + 20 + 3, 54)),
    "another port, IPv6": (datagram(version=6), changed(datagram(version=6), 10 + 40 + 3, 54)),
    "another address": (datagram(), datagram(src="10.86.0.3")),
    "another address, IPv6": (datagram(version=6), datagram(version=6, src="fd86::3")),
    "another source of the same sum": (datagram(src="10.86.1.2"), datagram(src="1.2.10.86")),
    "another destination of the same sum": (datagram(dst="10.86.1.2"), datagram(dst="1.2.10.86")),
    "another source of the same sum, IPv6": (
        datagram(version=6, src="fd86::1:2"),
        datagram(version=6, src="fd86::2:1"),
    ),
    "another destination of the same sum, IPv6": (
        datagram(version=6, dst="fd86::1:2"),
        datagram(version=6, dst="fd86::2:1"),
    ),
    "another IP length": (datagram(), changed(datagram(), 10 + 3, 32)),
    "another IP length, IPv6": (datagram(version=6), changed(datagram(version=6), 10 + 5, 12)),
    "an IP length that is not the packet's": twice(changed(datagram(), 10 + 3, 32)),
    "an IP length that is not the packet's, IPv6": twice(changed(datagram(version=6), 10 + 5, 12)),
    "one with the sum of a packet inside": (
        datagram(b"x" * 60),
        changed(datagram(b"x" * 60), 6, 20 + 8 + 20),
    ),
    "another TTL": (datagram(), datagram(ttl=3)),
    "another hop limit": (datagram(version=6), datagram(version=6, hlim=3)),
    "another ECN mark": (datagram(tos=1), datagram(tos=3)),
    "another ECN mark, IPv6": (datagram(version=6, tc=1), datagram(version=6, tc=3)),
    "another flow label": (datagram(version=6, fl=1), datagram(version=6, fl=2)),
    "another version": (datagram(b"x" * 20 + b"hello"), datagram(version=6)),
    "another protocol": (datagram(), changed(datagram(), 10 + 9, 136)),
    "another protocol, IPv6": (datagram(version=6), changed(datagram(version=6), 10 + 6, 136)),
    "another length": (datagram(), changed(datagram(), 10 + 20 + 5, 14)),
    "another sum to begin with": (datagram(), changed(datagram(), 10 + 20 + 7, 1)),
    "another sum to begin with, IPv6": (datagram(version=6), changed(datagram(version=6), 10 + 40 + 7, 1)),
    "one that may be fragmented": (datagram(), datagram(flags=0)),
    "one finished": (datagram(), plain(bytes(datagram()[10:]))),
    "one finished, IPv6": (datagram(version=6), plain(bytes(datagram(version=6)[10:]))),
    "may be fragmented": twice(datagram(flags=0)),
    "a reserved flag": twice(changed(datagram(), 10 + 6, 0xC0)),
    "a fragment": twice(changed(datagram(), 10 + 6, 0x60)),
    "a later fragment": twice(changed(datagram(), 10 + 7, 4)),
    "IP options": twice(datagram(noise(60), options=[IPOption_NOP()])),
    "extension headers": twice(
        partial(bytes(IPv6(src="fd86::2", dst="fd50::10") / IPv6ExtHdrDestOpt() / UDP() / Raw(b"hello")))
    ),
    "UDP-Lite": twice(changed(datagram(), 10 + 9, 136)),
    "UDP-Lite, IPv6": twice(changed(datagram(version=6), 10 + 6, 136)),
    "finished": twice(plain(bytes(datagram()[10:]))),
    "no checksum to complete": twice(changed(datagram(), 0, 0)),
    "more flags": twice(changed(datagram(), 0, offload.NEEDS_CSUM | offload.DATA_VALID)),
    "a sum elsewhere": twice(changed(datagram(), 8, 16)),
    "a packet inside, with its sum": twice(changed(datagram(b"x" * 60), 6, 20 + 8 + 20)),
    "a length that is not the packet's": twice(changed(datagram(), 10 + 20 + 5, 14)),
    "empty": twice(datagram(b"")),
    "super-packets": twice(datagram(noise(5000), gso_size=1000)),
    "of another kind": twice(changed(datagram(), 1, offload.GSO_UDP_L4)),
    "TCP": twice(tcp_super(5000, 1000)),
    "TCP without a payload": twice(partial(bytes(IP(flags="DF") / TCP(flags="A")))),
    "too long for two": twice(datagram(noise(MAX_DATAGRAM_BYTES))),
}


@pytest.mark.parametrize("name", ALONE)
def test_what_is_not_of_a_kind_stays_alone(name: str) -> None:
    records = list(ALONE[name])
    assert len({len(record) for record in records}) == 1, "no run takes another size"
    assert join(records) == records


@pytest.mark.parametrize("fields", [{"src": "10.86.165.29"}, {"version": 6, "src": "fd86::a73e"}], ids=str)
def test_a_sum_of_zero_is_not_written_as_no_checksum(fields: dict[str, Any]) -> None:
    """Of these addresses and that length. Nor is it in the pieces that a slow link gets."""
    records = [datagram(noise(1200, seed=n), **fields) for n in range(20)]
    (joined,) = join(records)
    at = len(joined) - 20 * 1200 - 2
    assert bytes(joined[at : at + 2]) == b"\xff\xff"
    (longer,) = join([*records, *records])
    halves = offload.cut(longer, 20 * 1200 + 100)
    assert [bytes(half[at : at + 2]) for half in halves] == [b"\xff\xff"] * 2


@pytest.mark.parametrize(("version", "at"), [(4, 10 + 10), (4, 10 + 26), (6, 10 + 46)])
def test_a_checksum_that_is_wrong_stays_wrong(version: int, at: int) -> None:
    """Of the IP header, or what the datagram's begins with."""
    records = [datagram(noise(100, seed=n), version=version) for n in range(5)]
    (right,) = join(records)
    for record in records:
        record[at] ^= 0x10
    (wrong,) = join(records)
    assert bytes(wrong[at : at + 2]) != bytes(right[at : at + 2])
    assert wrong[:at] == right[:at]
    assert wrong[at + 2 :] == right[at + 2 :]


def test_another_size_ends_a_run_and_the_next_begins() -> None:
    sizes = [5, 5, 5, 9, 9, 5, 7]
    records = [datagram(b"x" * size, number=n) for n, size in enumerate(sizes)]
    joined = join(records)
    assert [len(record) - 38 for record in joined] == [15, 18, 5, 7]
    assert joined[2:] == records[5:]


def test_a_run_ends_at_the_most_segments() -> None:
    """64 (UDP_MAX_SEGMENTS): older kernels count."""
    joined = join([datagram(number=n) for n in range(2 * 64 + 1)])
    assert [len(offload.split(record)) for record in joined] == [64, 64, 1]
    assert all(offload.check(record) for record in joined)


@pytest.mark.parametrize(
    ("version", "size", "sizes"),
    [
        (4, 5039, [13, 1]),  # 13 are 65,535 bytes with their headers, the most that IPv4 can tell
        (4, 5459, [11, 3]),  # 12 would be one byte more
        (6, 1400, [46, 4]),
    ],
)
def test_a_run_ends_at_the_most_bytes(version: int, size: int, sizes: list[int]) -> None:
    joined = join([datagram(noise(size), version=version) for _ in range(sum(sizes))])
    assert [len(offload.split(record)) for record in joined] == sizes
    assert all(is_well_formed(record[10:]) and offload.check(record) for record in joined)


def test_a_run_is_forgotten_when_it_is_finished() -> None:
    arena = bytearray(1000)
    run = Run(arena)
    record = datagram()
    for at in (0, len(record)):
        arena[at : at + len(record)] = record
    run.start, run.size = 0, len(record)
    assert run.extend(len(record))
    run.finish()
    assert run.count == 1
    assert run.size not in range(65536)
