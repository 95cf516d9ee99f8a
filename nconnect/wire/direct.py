"""The direct UDP path on the wire: the datagram's header, and the bodies of its records.

A datagram is a batch of records (`nconnect.wire.tunnel`), sealed under keys of its own; its 8-byte header is
the associated data. Integers are little-endian.

    0                    3               8
    | receiver index u24 | counter u40   | sealed batch |

A counter is below 2^39. The highest bit of the counter's field tells a piece of a block: a batch that was
sealed once, under this counter, with the header of the first piece as associated data. All pieces but the
last are of equal size:

    0                    3               8          9           10
    | receiver index u24 | counter u40   | place u8 | number u8 | piece of the sealed batch |

CANDIDATES, sent by the relay; at most `MAX_CANDIDATES` entries, each of 8 or 20 bytes:

    0            4          5        6                     8              16
    | revision u32 | verdict u8 | 0 u8 | largest datagram u16 | search id u64 | entry | entry | …
    entry: | kind u8 | IP version u8 (4, 6) | port u16 | address 4 or 16 |

PROBE, filled up with zeros so that no answer is larger than it, or to the size that is tried:

    0          8
    | id u64   | zeros, 28 bytes or more |

PROBE_ACK, sent to where the probe came from, and says what that was:

    0          8                9      10         12
    | id u64   | IP version u8  | 0 u8 | port u16 | address 16, an IPv4 address first and then zeros |

SEGMENT, a part of a packet's record body (virtio-net header and packet). All parts but the last are of equal
size, and travel in datagrams whose counters follow one another:

    0                  4                     5
    | first part's u32 | number of parts u8  | size of the headers u8 | headers | part |

The first field is the lower 32 bits of the counter of the first part's datagram. With headers (virtio-net, IP
and TCP or UDP, of the whole, the same in all) each part is a segment of a super-packet, and of use by itself.
With none, the parts one after another are the body, and all are needed.

Every decoder raises `RemoteProtocolError` for bytes that no encoder makes, except that reserved bytes and a
probe's filling may hold anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import NamedTuple

from nconnect.errors import RemoteProtocolError
from nconnect.model import Address, Endpoint
from nconnect.wire.tunnel import RECORD_HEADER_BYTES

HEADER_BYTES = 8
_TAG_BYTES = 16
MAX_COUNTER = (1 << 39) - 1
IN_BLOCK = 1 << 63  # in a header as one integer: the datagram is a piece of a block
INDEX_MASK = (1 << 24) - 1
OVERHEAD_BYTES = HEADER_BYTES + _TAG_BYTES  # of a datagram beside its batch

MAX_CANDIDATES = 8
PROBE_BYTES = 36  # the smallest body: a datagram of 64 bytes, and its answer has 56

_HEADER = Struct("<Q")
BLOCK_HEADER = Struct("<QBB")
BLOCK_HEADER_BYTES = BLOCK_HEADER.size
BLOCK_HEAD = _HEADER  # what is the same in all pieces
MAX_PIECES = 255
_CANDIDATES = Struct("<IBxHQ")
_ENTRY = Struct("<BBH")
_ID = Struct("<Q")
_ACK = Struct("<QBxH16s")
SEGMENT_HEAD = Struct("<IBB")
MAX_RUN_BYTES = 65507  # of UDP payload in one call: IPv4's largest
MAX_PARTS = 64  # what UDP_SEGMENT takes in one call before Linux 6.9
_ADDRESS_BYTES = {4: 4, 6: 16}


class NatVerdict(IntEnum):
    """What a side knows of the NAT before it."""

    UNKNOWN = 0
    EASY = 1  # the same public port for every destination, or no NAT (RFC 4787: endpoint-independent mapping)
    HARD = 2  # another public port for each destination
    BLOCKED = 3  # no answer to UDP at all
    OFF = 4  # this side wants no direct path


class CandidateKind(IntEnum):
    """How a candidate was learnt. Lower numbers are preferred."""

    HOST = 1  # an address of the device itself
    MAPPED = 2  # the router was asked for it (PCP, NAT-PMP, UPnP)
    REFLEXIVE = 3  # a STUN server saw it
    FORWARDED = 4  # the reflexive address with the device's own port: for a forward made by hand


class Candidate(NamedTuple):
    """Where its sender may be reached."""

    kind: CandidateKind
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a side tells its peer about how to reach it.

    `revision` rises with each change of the list. `search_id` is drawn by the side that begins a search; the
    other side's answer repeats it. `largest` is the largest UDP payload that the sender's interfaces take.
    """

    revision: int
    verdict: NatVerdict
    largest: int
    search_id: int
    entries: tuple[Candidate, ...]

    def encode(self) -> bytes:
        """The body of a CANDIDATES record; `entries` are at most `MAX_CANDIDATES`."""
        assert len(self.entries) <= MAX_CANDIDATES
        head = _CANDIDATES.pack(self.revision, self.verdict, self.largest, self.search_id)
        return head + b"".join(
            _ENTRY.pack(kind, address.version, port) + address.packed
            for kind, (address, port) in self.entries
        )

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Candidates:
        """Read the body of a CANDIDATES record; raises `RemoteProtocolError`."""
        body = bytes(body)
        if len(body) < _CANDIDATES.size:
            raise RemoteProtocolError("a list of candidates is too short")
        revision, verdict, largest, search_id = _CANDIDATES.unpack_from(body)
        if verdict > max(NatVerdict):
            raise RemoteProtocolError(f"a list of candidates with unknown verdict {verdict}")
        entries: list[Candidate] = []
        at = _CANDIDATES.size
        while at < len(body):
            if len(entries) == MAX_CANDIDATES:
                raise RemoteProtocolError(f"more than {MAX_CANDIDATES} candidates")
            entry, at = _decode_entry(body, at)
            entries.append(entry)
        return cls(revision, NatVerdict(verdict), largest, search_id, tuple(entries))


def _decode_entry(body: bytes, at: int) -> tuple[Candidate, int]:
    start = at + _ENTRY.size
    if start > len(body):
        raise RemoteProtocolError("a candidate is cut off")
    kind, version, port = _ENTRY.unpack_from(body, at)
    end = start + _ADDRESS_BYTES.get(version, 0)
    if end == start or end > len(body) or not 1 <= kind <= max(CandidateKind) or not port:
        raise RemoteProtocolError("a candidate of unknown kind or version, without a port, or cut off")
    return Candidate(CandidateKind(kind), Endpoint(_address(version, body[start:end]), port)), end


def _address(version: int, packed: bytes) -> Address:
    return IPv4Address(packed) if version == 4 else IPv6Address(packed)


@dataclass(frozen=True, slots=True)
class ProbeAck:
    """The answer to the probe `probe_id`, which came from `seen` as far as the answering side can tell."""

    probe_id: int
    seen: Endpoint

    def encode(self) -> bytes:
        """The body of a PROBE_ACK record."""
        address, port = self.seen
        return _ACK.pack(self.probe_id, address.version, port, address.packed)

    @classmethod
    def decode(cls, body: bytes | memoryview) -> ProbeAck:
        """Read the body of a PROBE_ACK record; raises `RemoteProtocolError`."""
        if len(body) != _ACK.size:
            raise RemoteProtocolError("a probe's answer of the wrong size")
        probe_id, version, port, packed = _ACK.unpack(body)
        size = _ADDRESS_BYTES.get(version)
        if size is None or not port or any(packed[size:]):
            raise RemoteProtocolError("a probe's answer with a malformed address")
        return cls(probe_id, Endpoint(_address(version, packed[:size]), port))


def encode_probe(probe_id: int, datagram_bytes: int = 0) -> bytes:
    """The body of a PROBE record, filled up so that it makes a datagram of `datagram_bytes` by itself."""
    size = datagram_bytes - OVERHEAD_BYTES - RECORD_HEADER_BYTES
    return _ID.pack(probe_id).ljust(max(size, PROBE_BYTES), b"\0")


def decode_probe(body: bytes | memoryview) -> int:
    """The id in a PROBE record; raises `RemoteProtocolError` where the answer would be larger than it."""
    if len(body) < PROBE_BYTES:
        raise RemoteProtocolError("a probe is too short")
    probe_id: int = _ID.unpack_from(body)[0]
    return probe_id


def encode_header(index: int, counter: int) -> bytes:
    """A datagram's header: the lower 24 bits of the receiver's index, and a counter up to `MAX_COUNTER`."""
    return _HEADER.pack(index & INDEX_MASK | counter << 24)


def decode_header(datagram: bytes | memoryview) -> tuple[int, int]:
    """(receiver index, counter's field) of a datagram; raises `RemoteProtocolError` when it is too short."""
    if len(datagram) < OVERHEAD_BYTES:
        raise RemoteProtocolError("a datagram is too short")
    (both,) = _HEADER.unpack_from(datagram)
    return both & INDEX_MASK, both >> 24
