"""Explicit congestion notification over the direct path (RFC 6040, normal mode). Pure.

A datagram carries the ECN bits of the packets in it, so that a congested router can mark it instead of
dropping it; the mark is put on the packets when they come out. Packets with different bits don't share a
datagram. One with control records only is not-ECT, and so is a copy of what goes by the relay.
"""

from __future__ import annotations

from collections.abc import Iterator

from nconnect.ip.packet import mark_congestion
from nconnect.model import Endpoint
from nconnect.wire.tunnel import MAX_RECORD_BYTES, RECORD_HEADER, RECORD_HEADER_BYTES, VIRTIO_HEADER_BYTES

NOT_ECT, CE = 0, 3  # RFC 3168, section 5
MAX_RECORDS = 32  # guessed: a batch of small packets is looked at so far; not-ECT is right for any packet
MAX_SOURCES = 64  # guessed
_AT = RECORD_HEADER_BYTES + VIRTIO_HEADER_BYTES  # where the IP header begins in a record


def by_ecn(batch: memoryview) -> Iterator[tuple[memoryview, int]]:
    """(packets in a row that have the same ECN bits, these bits) of a batch."""
    start = at = seen = 0
    end, unpack = len(batch), RECORD_HEADER.unpack_from
    bits = ecn_bits(batch, 0)
    while True:
        at += RECORD_HEADER_BYTES + (unpack(batch, at)[0] & MAX_RECORD_BYTES)
        seen += 1
        if at >= end or (seen >= MAX_RECORDS and not bits):
            yield batch[start:], bits
            return
        if (found := ecn_bits(batch, at)) != bits:
            yield batch[start:at], bits
            start, bits = at, found


def ecn_bits(batch: memoryview, at: int) -> int:
    """The ECN bits of the packet whose record begins there."""
    first, second = batch[at + _AT], batch[at + _AT + 1]
    return second >> 4 & 3 if first >> 4 == 6 else second & 3


class Marks:
    """Marks of datagrams, until the packets in them are complete."""

    def __init__(self) -> None:
        self.pending: dict[Endpoint, None] = {}  # whose marked datagrams have completed no packet yet

    def put(
        self, source: Endpoint, packets: list[memoryview], *, is_marked: bool
    ) -> tuple[list[memoryview], int]:
        """(the packets that a run of authentic datagrams has completed, how many had to be dropped).

        A packet that cannot be marked, in a datagram that was, is dropped: its sender would not slow down.
        """
        if not is_marked and source not in self.pending:
            return packets, 0
        if not packets:
            if len(self.pending) >= MAX_SOURCES:
                del self.pending[next(iter(self.pending))]
            self.pending[source] = None
            return packets, 0
        self.pending.pop(source, None)
        found = []
        for packet in packets:
            copy = memoryview(bytearray(packet))
            if mark_congestion(copy[VIRTIO_HEADER_BYTES:]):
                found.append(copy)
            elif not is_marked:
                found.append(packet)
        return found, len(packets) - len(found)
