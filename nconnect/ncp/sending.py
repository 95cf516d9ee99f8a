"""One session's way out: cuts the stream into packets, deals them to the pairs, repeats what was lost.

- Packets are dealt in runs to one pair after another: official receivers acknowledge at most 32 ranges in
  50 ms for each pair, and a run is one range.
- A packet waits for its acknowledgement from when it was sent last, longer each time, and what was lost is
  sent again under the same limits as new data, so that a slow receiver does not get it over and over.
- The protocol has no congestion control. Here a loss halves what may be in flight, once in a round trip, and
  silence lets it fall to 64 KiB; acknowledgements let it grow back to the whole window. Besides, no more is
  in flight than fills a queue for a quarter of a second (`ncp.delivery`).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from nconnect.model import Buffer
from nconnect.ncp.delivery import SessionDelivery
from nconnect.ncp.pairs import SubClientPair, rescale
from nconnect.ncp.sequence import from_wire, to_wire

MIN_PACKETS = 512  # in flight, whatever the MTU: guessed, so that small writes do not wait for each other
MAX_PACKETS = 8192  # from the first that is not acknowledged on, even if the other side wants tiny ones
MAX_RUN_PACKETS = 128
MIN_FLIGHT_BYTES = 64 << 10
_GROWTH = 8  # the limit grows by what is acknowledged, and by 1/8 of it above half of where a loss was


class SentPacket:
    """A data packet until it is acknowledged."""

    __slots__ = ("data", "end", "in_flight", "pair", "tries")

    def __init__(self, data: Buffer, *, end: bool) -> None:
        self.data = data
        self.end = end
        self.pair = -1  # the index of the pair that carried it last
        self.tries = 0
        self.in_flight = False


class NcpSender:
    """Counts instead of sequence numbers; times are those of the caller's clock."""

    def __init__(self, pairs: Sequence[SubClientPair], *, window: int, mtu: int) -> None:
        """`window`, `mtu`: what the other side takes, in bytes."""
        self.pairs = pairs
        self.next = 0  # the next new packet
        self.base = 0  # everything before it is acknowledged
        self.written = 0  # bytes that were given to packets
        self.peer_read = 0  # bytes that the other side's application took
        self.buffered = 0
        self.resent = 0
        self.wants_end = False  # the stream ends behind what is buffered ...
        self.sent_end = False  # ... and a packet says so
        self.mtu = mtu  # may change: new packets are cut by it
        self._window = window
        self._buffer: deque[memoryview] = deque()
        self._unacked: dict[int, SentPacket] = {}
        self._limit = float(window)  # on the bytes in flight
        self._half = float(window)  # half of what it was at the last loss
        self._limited_at = 0.0  # when it was lowered last
        self._acked_at = 0.0  # when something was acknowledged last
        self._lost: list[int] = []  # a heap of counts
        self._delivery = SessionDelivery()
        self._look_at: float | None = None  # what waits for a queue may go by another pair then
        self._total = min(max(window / mtu, MIN_PACKETS), MAX_PACKETS)
        for pair in pairs:
            pair.window = self._total / len(pairs)
        self._run_packets = max(1, min(MAX_RUN_PACKETS, int(window / mtu / (4 * len(pairs)))))
        self._run_left = 0
        self._turn = 0  # index of the pair that has the run

    @property
    def is_acked(self) -> bool:
        """Whether everything that was written is acknowledged, and the end if it was to be sent."""
        return not self.buffered and not self._unacked and self.wants_end <= self.sent_end

    def has_unacked_data(self) -> bool:
        """Whether bytes were written that the other side did not acknowledge."""
        return bool(self.buffered) or any(len(packet.data) for packet in self._unacked.values())

    @property
    def waits_for_room(self) -> bool:
        """Whether nothing is under way, and the other side's full window holds back what is buffered."""
        return bool(self.buffered) and not self._unacked and not self._room()

    def write(self, data: Buffer) -> None:
        """Append to the stream; `data` is kept and must not change."""
        if len(data):
            self._buffer.append(memoryview(data))
            self.buffered += len(data)

    # Sending

    def next_packet(self, now: float, ready: Callable[[int], bool]) -> tuple[int, int, SentPacket] | None:
        """(pair, count, packet) of the next packet to be sent; it counts as sent. None: nothing, or no room;
        at `timeout_at` there may be some.

        `ready` says of a pair's index whether its link takes data now.
        """
        self._look_at = None
        lost = self._lost
        while lost and (lost[0] not in self._unacked or self._unacked[lost[0]].in_flight):
            heapq.heappop(lost)
        if lost:
            count = lost[0]
            packet = self._unacked[count]
            size = len(packet.data)
        elif self.next - self.base >= MAX_PACKETS:
            return None
        else:
            count, packet = self.next, None
            size = self._room() if self.buffered else 0
            if not size and not (self.wants_end and not self.sent_end and not self.buffered):
                return None
        in_flight = sum(pair.flight_bytes for pair in self.pairs)
        if in_flight and (in_flight + size > self._limit or not self._fits(in_flight, size, now)):
            return None
        pair = self._choose(now, ready, packet)
        if pair is None:
            return None
        if packet is None:
            packet = self._new(size)
        else:
            heapq.heappop(lost)
            self.resent += 1
        packet.pair = pair.index
        packet.tries += 1
        packet.in_flight = True
        pair.flight[count] = now
        pair.flight_bytes += size
        return pair.index, count, packet

    def _fits(self, in_flight: int, size: int, now: float) -> bool:
        """Whether so much more fills no queue. What waits on a pair that may be dead is in none."""
        bound = self._delivery.bound() - size
        if in_flight <= bound:
            return True
        live = [pair for pair in self.pairs if not pair.is_suspect(now)]
        if live and sum(pair.flight_bytes for pair in live) <= bound:
            return True
        self._look_at = min((pair.suspect_at() for pair in live if pair.flight), default=None)
        return False

    def _room(self) -> int:
        """How long the next new packet may be, by the other side's window; 0: better wait."""
        room = self._window - (self.written - self.peer_read)
        size = min(self.mtu, self.buffered)
        return min(size, room) if room >= min(size, max(1, self._window // 2)) else 0

    def _new(self, size: int) -> SentPacket:
        buffer = self._buffer
        if not size:
            data: Buffer = b""
        elif len(buffer[0]) > size:
            data, buffer[0] = buffer[0][:size], buffer[0][size:]
        elif len(buffer[0]) == size:
            data = buffer.popleft()
        else:
            parts, left = [], size
            while left:
                piece = buffer[0]
                if len(piece) <= left:
                    parts.append(buffer.popleft())
                else:
                    parts.append(piece[:left])
                    buffer[0] = piece[left:]
                left -= len(parts[-1])
            data = b"".join(parts)
        self.buffered -= size
        self.written += size
        end = self.wants_end and not self.buffered
        self.sent_end = self.sent_end or end
        packet = self._unacked[self.next] = SentPacket(data, end=end)
        self.next += 1
        return packet

    def _choose(
        self, now: float, ready: Callable[[int], bool], packet: SentPacket | None
    ) -> SubClientPair | None:
        """The pair of the run, or the next one with room; another than the last for what was lost."""
        pairs = self.pairs
        pair = pairs[self._turn]
        if packet is None and self._run_left > 0 and ready(self._turn) and len(pair.flight) < pair.window:
            self._run_left -= 1
            return pair
        free = [pair for pair in pairs if len(pair.flight) < pair.window and ready(pair.index)]
        if not free:
            return None
        free = [pair for pair in free if not pair.is_suspect(now)] or free
        if packet is not None:
            free = [pair for pair in free if pair.index != packet.pair] or free
        chosen = next((pair for pair in free if pair.index > self._turn), free[0])
        self._turn = chosen.index
        self._run_left = self._run_packets - 1
        return chosen

    # What the other side says

    def acked(self, ranges: Iterable[tuple[int, int]], now: float) -> bool:
        """Acknowledged ranges, as on the wire; whether anything was new."""
        unacked = self._unacked
        of: dict[int, int] = {}  # by pair
        fresh = acked_bytes = 0
        most = 2 * (self.next - self.base)  # ranges of one packet that overlap are not worth more work
        for start, length in ranges:
            if not length:
                continue
            last = from_wire(to_wire(start - 1 + length - 1), self.base)
            if not self.base <= last < self.next:
                continue
            first = max(self.base, last - length + 1)
            most -= min(last - first + 1, len(unacked))
            if most < 0:
                break
            counts: Iterable[int] = range(first, last + 1)
            if last - first >= len(unacked):
                counts = [count for count in unacked if first <= count <= last]
            for count in counts:
                packet = unacked.pop(count, None)
                if packet is None:
                    continue
                fresh += 1
                acked_bytes += len(packet.data)
                pair = self.pairs[packet.pair]
                of[packet.pair] = of.get(packet.pair, 0) + 1
                if packet.in_flight:
                    pair.flight_bytes -= len(packet.data)
                    sent_at = pair.flight.pop(count)
                    if packet.tries == 1 and sent_at >= pair.acked_sent_at:
                        pair.acked_sent_at = sent_at
                        pair.measured(now - sent_at, now)
                        self._delivery.round_trip(now - sent_at, now)
        if not fresh:
            return False
        while self.base < self.next and self.base not in unacked:
            self.base += 1
        for index, number in of.items():
            self.pairs[index].window += number
            self.pairs[index].backoff = 1.0
        rescale(self.pairs, self._total)
        self._acked_at = now
        self._delivery.acked(acked_bytes, now)
        grown = acked_bytes if self._limit < self._half else acked_bytes / _GROWTH
        self._limit = min(float(self._window), self._limit + grown)
        self.look_for_losses(now)
        return True

    def read_by_peer(self, total: int) -> bool:
        """The other side's application has taken so many bytes in all; whether that is news."""
        if not self.peer_read < total <= self.written:
            return False
        self.peer_read = total
        return True

    # Losses

    def look_for_losses(self, now: float) -> None:
        """Queue again what is lost."""
        for pair in self.pairs:
            counts = pair.lost(now)
            if not counts:
                continue
            sent_at = pair.flight[counts[-1]]
            timed_out = pair.timed_out_at(sent_at) <= now
            self._lose(pair, counts)
            pair.window = 1.0 if timed_out else max(1.0, pair.window / 2)
            if timed_out:
                pair.back_off(sent_at, now)
            if now - self._limited_at > (pair.srtt_s or 0.0):
                self._limited_at = now
                least = max(MIN_FLIGHT_BYTES, 8 * self.mtu)
                self._half = max(self._limit / 2, least)
                silent = timed_out and now - self._acked_at > pair.rto_s / pair.backoff
                self._limit = least if silent else self._half
            rescale(self.pairs, self._total)

    def pair_is_down(self, index: int) -> None:
        """The pair's link broke: what it carried may be lost, and goes over the others."""
        pair = self.pairs[index]
        self._lose(pair, list(pair.flight))

    def _lose(self, pair: SubClientPair, counts: Iterable[int]) -> None:
        for count in counts:
            del pair.flight[count]
            packet = self._unacked[count]
            packet.in_flight = False
            pair.flight_bytes -= len(packet.data)
            heapq.heappush(self._lost, count)

    def timeout_at(self) -> float | None:
        """When the next packet may count as lost, or may be sent."""
        ats = (*(pair.timeout_at() for pair in self.pairs), self._look_at)
        return min((at for at in ats if at is not None), default=None)

    def drop(self) -> None:
        """Forget everything that was not acknowledged."""
        self._buffer.clear()
        self._unacked.clear()
        self._lost.clear()
        self.buffered = 0
        for pair in self.pairs:
            pair.flight.clear()
            pair.flight_bytes = 0
