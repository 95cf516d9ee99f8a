"""Packets in datagrams: what is too large for one is sent in parts, and joined again. Pure.

A batch becomes runs: lists of equal batches (the last of a run may be shorter), each for one datagram, so
that a run is sealed and sent in one go. Small packets share a datagram. A super-packet is sent as its
segments, each with the headers of the whole, so that the receiver has the super-packet again without touching
a header, and a lost datagram costs one segment. TCP's segments are made as small as the path needs; this also
cuts a TCP packet that is too large. Other packets that are too large travel in parts that are all needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import repeat

from nconnect.errors import RemoteProtocolError
from nconnect.ip import offload
from nconnect.model import Buffer
from nconnect.wire.direct import MAX_PARTS, MAX_RUN_BYTES, OVERHEAD_BYTES, SEGMENT_HEAD
from nconnect.wire.tunnel import (
    COPY_BODY,
    MAX_RECORD_BYTES,
    RECORD_HEADER,
    RECORD_HEADER_BYTES,
    VIRTIO_HEADER_BYTES,
    RecordKind,
)

MAX_PARTIAL = 16  # packets in parts that are all needed, of which some have come
MAX_PARTIAL_BYTES = 256 << 10  # of their parts in all
MAX_HEADS_BYTES = 0xFF  # of a packet, as far as each part can repeat them
MAX_TCP_HEADER_BYTES = 60
_HEAD_BYTES = RECORD_HEADER_BYTES + SEGMENT_HEAD.size
_SEGMENT = int(RecordKind.SEGMENT)
_KIND = _SEGMENT << 24
_LOW = 0xFFFFFFFF
_TCP_CHECKSUM_AT = 16


def runs(batch: memoryview, datagram_bytes: int) -> Iterator[list[Buffer] | memoryview]:
    """What to send for a batch of packets: a run of batches, or a packet that needs `parts`."""
    room = datagram_bytes - OVERHEAD_BYTES
    ready: list[Buffer] = []
    start = at = 0
    end = len(batch)
    unpack = RECORD_HEADER.unpack_from
    while at < end:
        after: int = at + RECORD_HEADER_BYTES + (unpack(batch, at)[0] & MAX_RECORD_BYTES)
        if after - start > room:
            if at > start:
                ready.append(batch[start:at])
            start = at
            if after - at > room:
                yield from _equal(ready)
                ready = []
                yield batch[at + RECORD_HEADER_BYTES : after]
                start = after
        at = after
    if at > start:
        ready.append(batch[start:at])
    yield from _equal(ready)


def _equal(batches: list[Buffer]) -> Iterator[list[Buffer]]:
    """In runs of equal size."""
    run: list[Buffer] = []
    for batch in batches:
        size = len(run[0]) if run else 0
        if run and (
            len(batch) > size
            or len(run[-1]) < size
            or len(run) == MAX_PARTS
            or (len(run) + 1) * (size + OVERHEAD_BYTES) > MAX_RUN_BYTES
        ):
            yield run
            run = []
        run.append(batch)
    if run:
        yield run


def parts(record: memoryview, datagram_bytes: int) -> Iterator[tuple[memoryview, int, int]]:
    """How to cut a packet that is too large for one datagram: (record, size of its headers, size of a part).

    Several where one run is not enough. No headers: all parts are needed.
    """
    room = datagram_bytes - OVERHEAD_BYTES - _HEAD_BYTES
    flags, gso_type, _, segment, start, checksum_at = offload.HEADER.unpack_from(record)
    at = VIRTIO_HEADER_BYTES + start
    if at > MAX_HEADS_BYTES - MAX_TCP_HEADER_BYTES:  # extension headers of IPv6
        for piece in _cut(record, 0):
            yield piece, 0, room
    elif flags & offload.NEEDS_CSUM and checksum_at == _TCP_CHECKSUM_AT:
        head = at + (record[at + 12] >> 4 << 2)
        part = min(segment or room, room - head)
        most = MAX_PARTS * part
        if segment != part:
            record = memoryview(bytearray(record))
            offload.set_segment_bytes(record, part)
        if len(record) - head <= most:
            yield record, head, part
        else:
            for piece in _cut(record, head + most):
                yield piece, head, part
    elif gso_type == offload.GSO_UDP_L4:
        head = at + offload.UDP_HEADER_BYTES
        if segment <= room - head:
            most = MAX_PARTS * segment
            whole = len(record) - head <= most
            for piece in [record] if whole else _cut(record, head + most):
                yield piece, head, segment
        else:
            for piece in _cut(record, 0):
                yield piece, 0, room
    else:
        yield record, 0, room


def _cut(record: memoryview, max_bytes: int) -> list[memoryview]:
    return [memoryview(piece) for piece in offload.cut(record, max_bytes)]


def run_of(
    record: memoryview, head_bytes: int, part: int, counter: int, *, before: bytes = b""
) -> list[Buffer]:
    """The batches with a record's parts; the first datagram will have this counter. `before`: in each."""
    payload = record[head_bytes:]
    size = len(payload)
    slices = _slices(part, -(-size // part))
    head = SEGMENT_HEAD.pack(counter & _LOW, len(slices), head_bytes) + bytes(record[:head_bytes])
    full = before + RECORD_HEADER.pack(len(head) + part | _KIND) + head
    found: list[Buffer] = list(map(full.__add__, map(payload.__getitem__, slices)))
    if rest := size % part:
        last = before + RECORD_HEADER.pack(len(head) + rest | _KIND) + head
        found[-1] = last + payload[-rest:]
    return found


@lru_cache(maxsize=256)
def _slices(part: int, number: int) -> list[slice]:
    return [slice(at * part, (at + 1) * part) for at in range(number)]


def copy_parts(record: memoryview, datagram_bytes: int, first: int, counter: int, place: int) -> list[Buffer]:
    """The batches with a copy of a packet that the relay's batch `counter` has at `place`.

    `first`: the counter of the first datagram. The copy is of use only when all of it comes.
    """
    before = RECORD_HEADER.pack(COPY_BODY.size | RecordKind.COPY << 24) + COPY_BODY.pack(counter, place)
    room = datagram_bytes - OVERHEAD_BYTES - len(before)
    if RECORD_HEADER_BYTES + len(record) <= room:
        return [before + RECORD_HEADER.pack(len(record)) + record]
    return run_of(record, 0, room - _HEAD_BYTES, first, before=before)


class Joiner:
    """Puts parts together that did not come all at once. One peer's."""

    def __init__(self) -> None:
        self._first = self._next = self._number = -1
        self._head = b""
        self._came: list[bytes] = []  # parts from `_from` on, in a row
        self._from = 0
        # Of packets whose parts are all needed: first counter -> (number, the parts that came).
        self._partial: dict[int, tuple[int, dict[int, bytes]]] = {}
        self._partial_bytes = 0

    def __bool__(self) -> bool:
        """Whether `flush` has something to give."""
        return bool(self._came)

    def put(self, counter: int, body: memoryview) -> list[bytes]:
        """A SEGMENT record from the datagram `counter`; the packets that are complete now.

        Raises `RemoteProtocolError` where it contradicts itself.
        """
        if len(body) <= SEGMENT_HEAD.size:
            raise RemoteProtocolError("a part of a packet is too short")
        first, number, head_bytes = SEGMENT_HEAD.unpack_from(body)
        at = (counter - first) & _LOW
        begin = SEGMENT_HEAD.size + head_bytes
        if at >= number or number > MAX_PARTS or begin >= len(body):
            raise RemoteProtocolError("a part of a packet that is none")
        head, part = bytes(body[SEGMENT_HEAD.size : begin]), bytes(body[begin:])
        if not head_bytes:
            return self._put_needed(first, number, at, part)
        found = self._begin(first, number, at, head, len(part))
        self._came.append(part)
        self._next = at + 1
        return found + self.flush() if at + 1 == number else found

    def put_run(self, batches: Sequence[bytes], at: int, counter: int) -> tuple[int, list[bytes]]:
        """The same for batches from `at` on, if these are parts of one super-packet and nothing else.

        (how many, the packets that are complete now); 0: they are to be read one by one. `counter` is that of
        the datagram at `at`, and those of the others follow.
        """
        first = batches[at]
        size = len(first)
        if size <= _HEAD_BYTES or first[3] != _SEGMENT:
            return 0, []
        began, number, head_bytes = SEGMENT_HEAD.unpack_from(first, RECORD_HEADER_BYTES)
        place, begin = (counter - began) & _LOW, _HEAD_BYTES + head_bytes
        if (
            not head_bytes
            or not place < number <= MAX_PARTS
            or begin >= size
            or RECORD_HEADER.unpack_from(first)[0] != size - RECORD_HEADER_BYTES | _KIND
        ):
            return 0, []
        run = batches[at : at + number - place]
        last = run[-1]
        if len(run) > 1 and (
            not begin < len(last) <= size
            or RECORD_HEADER.unpack_from(last)[0] != len(last) - RECORD_HEADER_BYTES | _KIND
            or last[RECORD_HEADER_BYTES:begin] != first[RECORD_HEADER_BYTES:begin]
            or (len(last) < size and place + len(run) < number)
            or not all(map(bytes.startswith, run[:-1], repeat(first[:begin])))
            or any(map(size.__ne__, map(len, run[:-1])))
        ):
            return 0, []
        head = first[_HEAD_BYTES:begin]
        found = self._begin(began, number, place, head, size - begin)
        self._came += map(bytes.__getitem__, run, repeat(slice(begin, None)))
        self._next = place + len(run)
        return len(run), found + self.flush() if self._next == number else found

    def _begin(self, first: int, number: int, place: int, head: bytes, size: int) -> list[bytes]:
        """A part of `size` bytes is about to be kept; what waited, if it does not belong to it."""
        came = self._came
        if (
            came
            and first == self._first
            and place == self._next
            and head == self._head
            and len(came[-1]) == len(came[0]) >= size
        ):
            return []
        found = self.flush()
        self._first, self._number, self._head, self._from = first, number, head, place
        return found

    def flush(self) -> list[bytes]:
        """The parts in a row that wait for others, as a packet."""
        if not self._came:
            return []
        came, self._came = self._came, []
        if self._from == 0 and len(came) == self._number:
            return [b"".join((self._head, *came))]
        part = offload.part(self._head, b"".join(came), self._from, is_last=self._next == self._number)
        return [part] if part else []

    def _put_needed(self, first: int, number: int, at: int, part: bytes) -> list[bytes]:
        known, came = self._partial.setdefault(first, (number, {}))
        if known != number:
            raise RemoteProtocolError("parts of a packet that disagree")
        self._partial_bytes += len(part) - len(came.get(at, b""))
        came[at] = part
        if len(came) == number:
            self._forget(first)
            return [b"".join(came[place] for place in range(number))]
        while len(self._partial) > MAX_PARTIAL or self._partial_bytes > MAX_PARTIAL_BYTES:
            self._forget(next(iter(self._partial)))
        return []

    def _forget(self, first: int) -> None:
        _, came = self._partial.pop(first)
        self._partial_bytes -= sum(map(len, came.values()))
