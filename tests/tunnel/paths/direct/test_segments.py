"""Packets in datagrams: cut, joined again, and what a lost, late or forged part does."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.all import TCP, UDP, IPv6ExtHdrDestOpt, PadN, Raw

from nconnect.errors import RemoteProtocolError
from nconnect.ip import offload, packet
from nconnect.model import Buffer
from nconnect.tunnel.paths.direct.segments import (
    MAX_PARTIAL,
    MAX_PARTIAL_BYTES,
    Joiner,
    parts,
    run_of,
    runs,
)
from nconnect.wire.direct import OVERHEAD_BYTES, SEGMENT_HEAD
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES, RecordKind, put_record, read_records
from tests.ip.packets import apart, datagram, ipv6, noise, partial, plain, tcp_super, udp_super

FIRST = (1 << 32) - 5  # of the counters: they pass the lower 32 bits


def batch_of(*records: memoryview) -> memoryview:
    arena, at = bytearray(300_000), 0
    for record in records:
        at = put_record(arena, at, record)
    return memoryview(arena)[:at]


def sent(batch: memoryview, size: int = 1472) -> list[list[bytes]]:
    """The runs for a batch; each batch fits a datagram, and those of a run are equal but for the last."""
    counter, found = FIRST, []
    for run in runs(batch, size):
        made: list[list[Buffer]] = [run] if isinstance(run, list) else []
        if not isinstance(run, list):
            for record, head, part in parts(run, size):
                made.append(run_of(record, head, part, counter + sum(map(len, made))))
        for one in made:
            plain_run = [bytes(each) for each in one]
            assert all(len(each) + OVERHEAD_BYTES <= size for each in plain_run)
            assert len({len(each) for each in plain_run[:-1]}) <= 1
            assert len(plain_run[-1]) <= len(plain_run[0])
            assert len(plain_run) <= 64
            found.append(plain_run)
            counter += len(plain_run)
    return found


def numbered(found: Iterable[list[bytes]]) -> list[tuple[int, bytes]]:
    return list(enumerate((batch for run in found for batch in run), FIRST))


def one_by_one(datagrams: Iterable[tuple[int, bytes]]) -> list[memoryview]:
    """What a receiver has of these that came one after another."""
    joiner, got = Joiner(), []
    for counter, batch in datagrams:
        packets, others = read_records(memoryview(batch))
        got += packets
        for kind, body in others:
            assert kind == RecordKind.SEGMENT
            got += map(memoryview, joiner.put(counter, body))
    got += map(memoryview, joiner.flush())
    for record in got:
        assert packet.is_well_formed(record[10:])
        assert offload.check(record)
    return got


@pytest.mark.parametrize("size", [1200, 1452, 1472])
@pytest.mark.parametrize("version", [4, 6])
def test_a_super_packet_is_whole_again_with_its_own_headers(version: int, size: int) -> None:
    record = tcp_super(40_000, 1000, version=version)
    (run,) = sent(batch_of(record), size)
    assert len(run) == 40
    for cut in (40, 1, 7, 39):  # in one buffer, or in two
        joiner = Joiner()
        number, got = joiner.put_run(run[:cut], 0, FIRST)
        assert number == cut
        if cut < 40:
            assert got == []
            number, got = joiner.put_run(run, cut, FIRST + cut)
            assert number == 40 - cut
        assert got == [record]
    assert one_by_one(numbered([run])) == [record]


def test_a_super_packet_is_cut_to_the_path_and_keeps_its_bytes() -> None:
    record = tcp_super(60_000, 1448)
    found = sent(batch_of(record), 1200)
    got = one_by_one(numbered(found))
    assert len(got) == len(found) == 1
    room = 1200 - OVERHEAD_BYTES - 4 - SEGMENT_HEAD.size - 10
    assert apart(got) == apart(offload.split(record, mtu=room))


def test_a_tcp_packet_that_is_too_large_becomes_segments() -> None:
    record = tcp_super(1448, 1448)
    offload.HEADER.pack_into(record, 0, 1, 0, 0, 0, *offload.HEADER.unpack_from(record)[4:])
    (run,) = sent(batch_of(record), 1300)
    got = one_by_one(numbered([run]))
    assert len(run) == 2
    assert b"".join(bytes(each[62:]) for each in apart_records(got)) == record[62:]


def apart_records(records: Iterable[memoryview]) -> list[bytes]:
    return [one for record in records for one in offload.split(record)]


@pytest.mark.parametrize(
    "record", [datagram(noise(1460)), udp_super(9000, 1460), plain(bytes(datagram(noise(1460))[10:]))]
)
def test_other_packets_travel_in_parts_that_are_all_needed(record: memoryview) -> None:
    found = numbered(sent(batch_of(record), 1200))
    assert apart(one_by_one(found)) == apart([record])
    assert one_by_one(found[:1]) == []
    random.Random(1).shuffle(found)
    assert sorted(apart(one_by_one(found))) == sorted(apart([record]))


def test_small_packets_share_a_datagram_and_equal_ones_a_run() -> None:
    acks = [datagram(noise(20, n)) for n in range(10)]
    assert [len(run) for run in sent(batch_of(*acks))] == [1]
    full = [datagram(noise(1000, n)) for n in range(5)]
    assert [len(run) for run in sent(batch_of(*full))] == [5]
    assert one_by_one(numbered(sent(batch_of(*acks, *full)))) == [*acks, *full]


@given(st.data())
@settings(max_examples=40)
def test_whatever_is_lost_or_late_costs_no_more_than_itself(data: st.DataObject) -> None:
    size, segment = data.draw(st.integers(3000, 20_000)), data.draw(st.sampled_from([500, 1000]))
    record = tcp_super(size, segment) if data.draw(st.booleans()) else udp_super(size, segment)
    found = numbered(sent(batch_of(record)))
    came = data.draw(st.permutations(found)) if data.draw(st.booleans()) else found
    came = [each for each in came if data.draw(st.integers(0, 3))]
    whole = apart([record])
    assert len(whole) == len(found)
    assert sorted(apart(one_by_one(came))) == sorted(whole[counter - FIRST] for counter, _ in came)


def test_parts_of_many_packets_are_not_kept_for_ever() -> None:
    joiner = Joiner()
    for first in range(0, 1000, 2):
        assert joiner.put(first, memoryview(SEGMENT_HEAD.pack(first, 2, 0) + b"x")) == []
        assert len(joiner._partial) <= MAX_PARTIAL


def test_parts_that_a_peer_makes_large_are_kept_up_to_a_bound() -> None:
    """UDP takes 64 KiB in one datagram: 16 packets of 64 such parts would be 64 MiB."""
    joiner, part = Joiner(), bytes(60_000)
    for first in range(0, 64 * 40, 64):
        for at in range(63):
            assert joiner.put(first + at, memoryview(SEGMENT_HEAD.pack(first, 64, 0) + part)) == []
            kept = sum(len(each) for _, came in joiner._partial.values() for each in came.values())
            assert kept == joiner._partial_bytes <= MAX_PARTIAL_BYTES
    last = memoryview(SEGMENT_HEAD.pack(1 << 20, 2, 0) + b"x")
    assert joiner.put(1 << 20, last) == []
    assert joiner.put((1 << 20) + 1, last) == [b"xx"]


@pytest.mark.parametrize("options", [180, 240])
@pytest.mark.parametrize("kind", ["tcp", "tcp_super", "udp_super"])
def test_headers_that_no_part_can_repeat(options: int, kind: str) -> None:
    """IPv6's extension headers take up to 2 KiB each: a program, or another peer, may send such packets."""
    extension = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(options))])
    size = 3000 if kind == "tcp" else 20_000
    payload = Raw(noise(size))
    segment = 0 if kind == "tcp" else 1000
    inner = UDP(sport=1, dport=2) if kind == "udp_super" else TCP(sport=1, dport=2)
    gso = {"tcp": offload.GSO_NONE, "tcp_super": offload.GSO_TCPV6, "udp_super": offload.GSO_UDP_L4}[kind]
    record = partial(ipv6(extension / inner / payload), gso_type=gso, gso_size=segment)
    assert offload.check(record)
    got = one_by_one(numbered(sent(batch_of(record))))
    assert apart(got) == apart([record])


@given(st.binary(max_size=200), st.integers(0, 1 << 33))
def test_whatever_a_peer_sends_is_a_packet_or_refused(body: bytes, counter: int) -> None:
    joiner = Joiner()
    try:
        got = joiner.put(counter, memoryview(body)) + joiner.flush()
    except RemoteProtocolError:
        return
    for record in got:
        assert len(record) < len(body)


@given(st.integers(0, 80), st.integers(0, 255), st.data())
def test_forged_headers_are_refused_or_true(at: int, value: int, data: st.DataObject) -> None:
    """A part that lost its neighbours is made with headers that a peer wrote."""
    record = bytearray(
        data.draw(st.sampled_from([bytes(tcp_super(3000, 1000)), bytes(udp_super(3000, 1000))]))
    )
    found = numbered(sent(batch_of(memoryview(record))))
    forged = bytearray(found[1][1])
    forged[min(at, len(forged) - 1)] = value
    joiner = Joiner()
    try:
        _, others = read_records(memoryview(forged))
        for _, body in others:
            joiner.put(found[1][0], body)
    except RemoteProtocolError:
        return
    for each in joiner.flush():
        offload.check(memoryview(each))  # never raises


def test_a_run_is_not_joined_when_anything_about_it_is_wrong() -> None:
    record = tcp_super(5000, 1000)
    (run,) = sent(batch_of(record))

    def taken(batches: list[bytes], counter: int = FIRST) -> int:
        return Joiner().put_run(batches, 0, counter)[0]

    assert taken(run) == 5
    assert taken(run[1:], FIRST + 1) == 4
    assert taken(run, FIRST + 1) in (0, 4)
    for place in (0, 5, 8, 9, 20):
        for number in range(1, len(run)):
            wrong = [*run]
            wrong[number] = bytes(b ^ (n == place) for n, b in enumerate(run[number]))
            assert taken(wrong) == 0
    assert taken([run[0], run[1][:-1], *run[2:]]) == 0
    assert taken([run[0][:12]]) == 0
    assert taken([b""]) == 0
    assert taken([bytes(partial(bytes(record[10:])))]) == 0


@given(st.data())
def test_in_buffers_of_any_size_a_super_packet_is_as_one_by_one(data: st.DataObject) -> None:
    record = tcp_super(data.draw(st.integers(3000, 40_000)), 1000)
    (run,) = sent(batch_of(record))
    joiner, got, at = Joiner(), [], 0
    while at < len(run):
        size = data.draw(st.integers(1, len(run)))
        if data.draw(st.integers(0, 5)):
            taken, complete = joiner.put_run(run[at : at + size], 0, FIRST + at)
            assert taken == len(run[at : at + size])
            got += complete
        at += size
    got += joiner.flush()
    whole = apart([record])
    assert set(apart(got)) <= set(whole)
    assert len(apart(got)) <= len(whole)


@pytest.mark.parametrize("offset", [0x00, 0x10, 0x40])
def test_a_tcp_header_that_is_too_short_is_refused(offset: int) -> None:
    """Its data offset (RFC 9293) lies within the fixed header."""
    headers = bytearray(tcp_super(3000, 1000))[: VIRTIO_HEADER_BYTES + 40]
    headers[VIRTIO_HEADER_BYTES + 32] = offset
    assert offload.part(bytes(headers), b"x", 0, is_last=True) is None
