"""What another side that is accepted may cost: memory, time, and the length of what it names."""

from __future__ import annotations

from typing import Any

import pytest

from nconnect.ncp.memory import StreamMemory
from nconnect.ncp.pairs import SubClientPair
from nconnect.ncp.receiving import MAX_HELD_PACKETS, NcpReceiver
from nconnect.ncp.sending import MAX_PACKETS, NcpSender, SentPacket
from nconnect.ncp.sequence import to_wire
from nconnect.ncp.sessions import NcpSessions, StreamRefusal
from nconnect.wire.ncp import MAX_ACK_RANGES, NcpPacket
from tests.ncp.world import IDS

WINDOW = 4 << 20


def sender(mtu: int) -> NcpSender:
    return NcpSender([SubClientPair(n, id, id, 1.0) for n, id in enumerate(IDS)], window=WINDOW, mtu=mtu)


def send_all(side: NcpSender) -> int:
    number = 0
    while side.next_packet(0.0, lambda index: True) is not None:
        number += 1
    return number


def test_a_side_that_wants_packets_of_a_byte_gets_a_bounded_number_at_once() -> None:
    side = sender(1)
    side.write(bytes(10 * MAX_PACKETS))
    assert send_all(side) == MAX_PACKETS
    side.acked([(to_wire(0), 100)], 0.1)
    assert send_all(side) == 100


def test_a_first_packet_that_is_never_acknowledged_holds_the_others_back() -> None:
    side = sender(1024)
    for _ in range(20):
        side.write(bytes(WINDOW))
        send_all(side)
        side.read_by_peer(side.written)
        side.acked([(to_wire(1), side.next - 1)], 0.1)
    assert side.next - side.base == MAX_PACKETS


def test_ranges_that_overlap_cost_no_more_than_what_is_in_flight() -> None:
    side = sender(1024)
    side.write(bytes(WINDOW))
    number = send_all(side)
    looked_at = 0

    class Unacked(dict[int, SentPacket]):
        def pop(self, *arguments: Any) -> Any:
            nonlocal looked_at
            looked_at += 1
            return super().pop(*arguments)

    side._unacked = Unacked(side._unacked)
    side.acked([(to_wire(1), number // 2)] * MAX_ACK_RANGES, 0.1)
    assert len(side._unacked) == number - number // 2
    assert looked_at <= 2 * number


def test_acknowledgements_that_cannot_be_sent_are_bounded() -> None:
    side = NcpReceiver("key", window=WINDOW, mtu=1024, memory=StreamMemory())
    for old in range(2, 2 * (MAX_HELD_PACKETS + 100), 2):
        side.receive(to_wire(-old), b"x", end=False)
    sent = 0
    while (acks := side.acks())[0]:
        sent += len(acks[0])
    assert sent == MAX_HELD_PACKETS


@pytest.mark.parametrize(("size", "is_taken"), [(64, True), (65, False)])
def test_a_sub_client_with_a_long_id_is_refused(size: int, is_taken: bool) -> None:
    """It would be a part of each message's destination."""
    sessions = NcpSessions(rng=bytes)
    sessions.accepts = lambda remote: True
    hello = NcpPacket(handshake=True, window_size=WINDOW, mtu=1024, client_ids=("x" * size,))
    found = sessions.receive("ab" * 32, b"8 bytes.", "__0__", "__0__", hello.encode(), 0.0, local_ids=IDS)
    assert (found is not None) is is_taken
    assert sessions.refusals[StreamRefusal.MALFORMED] == (not is_taken)
