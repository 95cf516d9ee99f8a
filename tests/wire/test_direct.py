"""The direct path's records and header: golden bytes, round trips, and any bytes parse or are refused."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.model import Endpoint
from nconnect.wire.direct import (
    INDEX_MASK,
    MAX_CANDIDATES,
    MAX_COUNTER,
    OVERHEAD_BYTES,
    Candidate,
    CandidateKind,
    Candidates,
    NatVerdict,
    ProbeAck,
    decode_header,
    decode_probe,
    encode_header,
    encode_probe,
)
from nconnect.wire.tunnel import RECORD_HEADER_BYTES

U64 = st.integers(0, 2**64 - 1)
ENDPOINTS = st.builds(Endpoint, st.ip_addresses(), st.integers(1, 65535))
ENTRIES = st.builds(Candidate, st.sampled_from(CandidateKind), ENDPOINTS)
LISTS = st.builds(
    Candidates,
    st.integers(0, 2**32 - 1),
    st.sampled_from(NatVerdict),
    st.integers(0, 65535),
    U64,
    st.lists(ENTRIES, max_size=MAX_CANDIDATES).map(tuple),
)
V4 = Candidate(CandidateKind.REFLEXIVE, Endpoint(IPv4Address("203.0.113.9"), 0x0201))
V6 = Candidate(CandidateKind.HOST, Endpoint(IPv6Address("2001:db8::1"), 41641))


def test_the_bytes_of_candidates() -> None:
    made = Candidates(0x04030201, NatVerdict.HARD, 1472, 0x0807060504030201, (V4, V6)).encode()
    assert made.hex() == (
        "010203040200c0050102030405060708"  # revision, verdict, largest, search id
        "03040102cb007109"  # an IPv4 candidate
        "0106a9a220010db8000000000000000000000001"
    )


def test_the_bytes_of_a_probe_and_its_answer() -> None:
    assert encode_probe(0x0807060504030201).hex() == "0102030405060708" + "00" * 28
    assert ProbeAck(0x0807060504030201, V4.endpoint).encode().hex() == (
        "010203040506070804000102cb007109" + "00" * 12
    )


def test_the_bytes_of_a_header() -> None:
    assert encode_header(0xFF030201, 0x0504030201).hex() == "0102030102030405"
    assert decode_header(encode_header(0xFF030201, 5) + bytes(16)) == (0x030201, 5)


def test_no_answer_is_larger_than_its_probe() -> None:
    assert len(ProbeAck(1, V6.endpoint).encode()) <= len(encode_probe(1))


@pytest.mark.parametrize("size", [64, 65, 1200, 1472, 8972])
def test_a_probe_makes_a_datagram_of_the_size_that_is_tried(size: int) -> None:
    assert len(encode_probe(1, size)) + RECORD_HEADER_BYTES + OVERHEAD_BYTES == size


@given(LISTS)
def test_candidates_round_trip(made: Candidates) -> None:
    assert Candidates.decode(made.encode()) == made


@given(st.builds(ProbeAck, U64, ENDPOINTS))
def test_answers_round_trip(ack: ProbeAck) -> None:
    assert ProbeAck.decode(ack.encode()) == ack


@given(U64, st.integers(0, 9000))
def test_probes_round_trip(probe_id: int, size: int) -> None:
    assert decode_probe(encode_probe(probe_id, size)) == probe_id


@given(st.integers(0, 2**32 - 1), st.integers(0, MAX_COUNTER))
def test_headers_round_trip(index: int, counter: int) -> None:
    assert decode_header(encode_header(index, counter) + bytes(16)) == (index & INDEX_MASK, counter)


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    for decode in (Candidates.decode, ProbeAck.decode, decode_probe, decode_header):
        try:
            found = decode(data)
        except RemoteProtocolError:
            continue
        if isinstance(found, Candidates):
            assert Candidates.decode(found.encode()) == found
        elif isinstance(found, ProbeAck):
            assert found.encode()[:9] == data[:9]


@given(LISTS, st.data())
def test_a_list_that_is_cut_off_is_refused(made: Candidates, data: st.DataObject) -> None:
    """Except at the end of an entry: what is there is whole then."""
    body = made.encode()
    size = data.draw(st.integers(0, len(body) - 1))
    whole = {16}
    for entry in made.entries:
        whole.add(max(whole) + (8 if entry.endpoint.address.version == 4 else 20))
    if size in whole:
        assert len(Candidates.decode(body[:size]).entries) == sorted(whole).index(size)
    else:
        with pytest.raises(RemoteProtocolError):
            Candidates.decode(body[:size])


GOOD = Candidates(1, NatVerdict.EASY, 1472, 7, (V4,)).encode()
BAD = {
    "an unknown verdict": GOOD[:4] + b"\x05" + GOOD[5:],
    "kind 0": GOOD[:16] + b"\0" + GOOD[17:],
    "kind 5": GOOD[:16] + b"\x05" + GOOD[17:],
    "IP version 5": GOOD[:17] + b"\x05" + GOOD[18:],
    "port 0": GOOD[:18] + b"\0\0" + GOOD[20:],
    "nine entries": GOOD[:16] + GOOD[16:] * 9,
}


@pytest.mark.parametrize("what", BAD)
def test_malformed_candidates_are_refused(what: str) -> None:
    assert len(Candidates.decode(GOOD[:16] + GOOD[16:] * 8).entries) == 8
    with pytest.raises(RemoteProtocolError):
        Candidates.decode(BAD[what])


def test_malformed_answers_and_probes_are_refused() -> None:
    good = ProbeAck(1, V4.endpoint).encode()
    for bad in (good[:-1], good + b"\0", good[:-1] + b"\1", good[:8] + b"\5" + good[9:]):
        with pytest.raises(RemoteProtocolError):
            ProbeAck.decode(bad)
    with pytest.raises(RemoteProtocolError):
        decode_probe(encode_probe(1)[:-1])
    with pytest.raises(RemoteProtocolError):
        decode_header(bytes(OVERHEAD_BYTES - 1))
