"""Packets and datagrams with ECN: what shares a datagram, and where a router's mark ends up (RFC 6040)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from nconnect.errors import DropReason
from nconnect.model import Endpoint
from nconnect.tunnel.paths.ecn import CE, MAX_RECORDS, MAX_SOURCES, NOT_ECT, Marks, by_ecn
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES, RecordKind, control_batch
from tests.sim.direct import DirectWorld
from tests.sim.network import packet

SOURCE = Endpoint(ip_address("203.0.113.9"), 4000)
ECT1, ECT0 = 1, 2
IP = VIRTIO_HEADER_BYTES


def marked(record: bytes, ecn: int) -> bytes:
    """The same packet with these bits and the header's checksum."""
    made = bytearray(record)
    if made[IP] >> 4 == 6:
        made[IP + 1] = made[IP + 1] & 0xCF | ecn << 4
        return bytes(made)
    made[IP + 1] = made[IP + 1] & 0xFC | ecn
    made[IP + 10 : IP + 12] = bytes(2)
    total = sum(int.from_bytes(made[at : at + 2]) for at in range(IP, IP + 20, 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    made[IP + 10 : IP + 12] = (total ^ 0xFFFF).to_bytes(2)
    return bytes(made)


def ecn_of(record: bytes | memoryview) -> int:
    return record[IP + 1] >> 4 & 3 if record[IP] >> 4 == 6 else record[IP + 1] & 3


V4 = packet("10.86.0.2", "192.168.50.10", b"hello")
V6 = (
    bytes(VIRTIO_HEADER_BYTES)
    + bytes((0x60, 0, 0, 0, 0, 13, 17, 64))
    + ip_address("fd86::2").packed
    + ip_address("fd50::10").packed
    + bytes(8)
    + b"hello"
)


def batch(*records: bytes) -> memoryview:
    return memoryview(control_batch(*((RecordKind.PACKET, record) for record in records)))


def test_packets_in_a_row_with_the_same_bits_go_together() -> None:
    records = [marked(V4, bits) for bits in (0, 0, ECT0, ECT0, ECT1, 0)] + [marked(V6, ECT0)]
    whole = batch(*records)
    parts = list(by_ecn(whole))
    assert [bits for _, bits in parts] == [NOT_ECT, ECT0, ECT1, NOT_ECT, ECT0]
    assert b"".join(part for part, _ in parts) == whole
    assert list(by_ecn(batch(V4))) == [(batch(V4), NOT_ECT)]


def test_a_batch_of_many_small_packets_is_looked_at_so_far_only() -> None:
    whole = batch(*[V4] * MAX_RECORDS, marked(V4, ECT0))
    assert list(by_ecn(whole)) == [(whole, NOT_ECT)]


@pytest.mark.parametrize("record", [V4, V6], ids=["v4", "v6"])
def test_a_mark_waits_for_the_packet_that_its_datagram_is_a_part_of(record: bytes) -> None:
    marks = Marks()
    able = [memoryview(marked(record, ECT0))]
    assert marks.put(SOURCE, able, is_marked=False) == (able, 0)
    assert marks.put(SOURCE, [], is_marked=True) == ([], 0)
    (found,), lost = marks.put(SOURCE, able, is_marked=False)
    assert (bytes(found), lost) == (marked(record, CE), 0)
    assert marks.put(SOURCE, able, is_marked=False) == (able, 0)
    assert not marks.pending


def test_a_packet_that_knows_no_marks_is_dropped_with_a_marked_datagram_alone() -> None:
    marks = Marks()
    plain = [memoryview(V4)]
    assert marks.put(SOURCE, plain, is_marked=True) == ([], 1)
    marks.put(SOURCE, [], is_marked=True)
    assert marks.put(SOURCE, plain, is_marked=False) == (plain, 0)


def test_marks_that_wait_are_bounded() -> None:
    marks = Marks()
    for number in range(MAX_SOURCES + 10):
        marks.put(Endpoint(SOURCE.address, number), [], is_marked=True)
    assert len(marks.pending) == MAX_SOURCES


@pytest.mark.parametrize("size", [10, 900])
def test_what_a_router_marks_is_marked_when_it_comes_out(size: int) -> None:
    """Not what a stranger sends with a mark in the peer's name."""
    world = DirectWorld()
    world.chat(1.0)
    assert world.both_direct
    user, provider = world.user, world.provider
    path, pair = user.peer.datagrams, user.peer.session.current
    assert path is not None
    assert pair is not None
    assert provider.peer.direct is not None
    source = provider.peer.direct.remote
    assert source is not None
    record = marked(packet("10.86.0.2", "192.168.50.10", b"x" * size), ECT0)

    def sent(*records: bytes) -> list[tuple[bytes, int]]:
        runs = user.tunnel.seal_datagrams(user.peer, batch(*records), world.clock.now)
        return [(b"".join(parts), path.ecn) for parts, _ in runs]

    def got(datagram: bytes, ecn: int) -> list[memoryview]:
        run = memoryview(datagram)
        return provider.tunnel.receive_datagrams(source, run, len(run), world.clock.now, ecn=ecn)

    ((datagram, bits),) = sent(record)
    assert bits == ECT0
    forged = datagram[:-1] + bytes([datagram[-1] ^ 1])
    assert got(forged, CE) == []
    (found,) = got(datagram, bits)
    assert bytes(found) == record
    ((datagram, bits),) = sent(record)
    (found,) = got(datagram, CE)
    assert bytes(found) == marked(record, CE)
    ((_, ect), (second, none)) = sent(record, V4)
    assert (ect, none) == (ECT0, NOT_ECT)
    before = provider.tunnel.drops[DropReason.CONGESTION]
    assert got(second, CE) == []
    assert provider.tunnel.drops[DropReason.CONGESTION] == before + 1
    large = marked(packet("10.86.0.2", "192.168.50.10", b"x" * 3000), ECT0)
    pieces = sent(large)
    assert {bits for _, bits in pieces} == {ECT0}
