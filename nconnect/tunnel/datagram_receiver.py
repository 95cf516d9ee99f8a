"""A packet's way in over the direct path: from datagrams to packets for the TUN. Pure.

The checks are those of `nconnect.tunnel.receiver`, in the same order: the index, the keys' age, the replay
window, the seal; then each packet is checked by `BatchReceiver.check_sources`. Datagrams come in runs, whose
counters follow one another as a rule, and a run is opened in one go; a block is opened when all its pieces
have come.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct

from nconnect.errors import DropReason, RemoteProtocolError
from nconnect.model import Buffer, Endpoint
from nconnect.tunnel.constants import MAX_BATCH_BYTES
from nconnect.tunnel.outputs import Deliver
from nconnect.tunnel.paths.datagrams import DatagramPath
from nconnect.tunnel.paths.direct.blocks import Assembly, places
from nconnect.tunnel.paths.ecn import Marks
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.receiver import STATEMENTS, BatchReceiver
from nconnect.tunnel.session import KeyPair
from nconnect.tunnel.sessions import Sessions
from nconnect.tunnel.timers import Timer
from nconnect.wire.direct import (
    BLOCK_HEADER,
    BLOCK_HEADER_BYTES,
    HEADER_BYTES,
    IN_BLOCK,
    INDEX_MASK,
    OVERHEAD_BYTES,
)
from nconnect.wire.tunnel import COPY_BODY, RECORD_HEADER, RECORD_HEADER_BYTES, RecordKind, read_records

_SEGMENT = int(RecordKind.SEGMENT)
_HEADER = Struct("<Q")
_FLAG_AT, _FLAG = HEADER_BYTES - 1, IN_BLOCK >> 56
_NEXT = 1 << 24  # from a header to the one with the next counter


class DatagramReceiver:
    """Opens what comes to the UDP sockets. Part of `nconnect.tunnel.core.Tunnel`."""

    def __init__(self, sessions: Sessions, receiver: BatchReceiver) -> None:
        self._sessions = sessions
        self._receiver = receiver
        self.marks = Marks()
        self._by_index = sessions.handshakes.by_low_index
        self._waiting: dict[Peer, None] = {}  # peers of whose super-packets a part has come
        # What came since `flush`: peer, keys, path, bytes of packets, the last counter, when.
        self._came_before: list[tuple[Peer, KeyPair, DatagramPath, int, int, float]] = []
        self._reports: list[tuple[DatagramPath, memoryview, float]] = []  # that came since `flush`
        self._told: list[tuple[Peer, int, bytes, Endpoint, float]] = []  # parts of statements, and acks
        self._with_copies: dict[Peer, None] = {}  # peers of whom copies may wait for what the relay brings
        self._assembly = Assembly()
        self._room = memoryview(bytearray(MAX_BATCH_BYTES))  # where blocks are opened
        self._free = 0  # from where on there is room

    def receive(self, source: Endpoint, run: memoryview, segment: int, now: float) -> list[memoryview]:
        """Datagrams of `segment` bytes each (the last may be shorter) that came in a row from `source`.

        The packets in them, some as views of a buffer of ours, until the next call.
        """
        receiver = self._receiver
        if receiver.opened is not None:
            receiver.received()
        if self._came_before:
            self._finish()
        if receiver.closed or not segment:
            return []
        self._free = 0
        number = -(-len(run) // segment)
        if number > 1 and segment < OVERHEAD_BYTES:
            receiver.drops[DropReason.MALFORMED] += number
            return []
        last = (number - 1) * segment
        if (size := len(run) - last) < OVERHEAD_BYTES and not (
            size > BLOCK_HEADER_BYTES and run[last + _FLAG_AT] & _FLAG
        ):  # the kernel joined a forged one to a peer's
            receiver.drops[DropReason.MALFORMED] += 1
            run = run[:last]
        elif number == 1 and not run[_FLAG_AT] & _FLAG:
            return self._single(source, run, now)
        packets: list[memoryview] = []
        while run and run[_FLAG_AT] & _FLAG:
            size = self._block(source, run, segment, packets, now)
            run = run[size:]
        if not run:
            return packets
        number = -(-len(run) // segment)
        last = (number - 1) * segment
        headers = [found for (found,) in _headers(segment).iter_unpack(run[:last])]
        headers += _HEADER.unpack_from(run, last)
        first = headers[0]
        if headers == list(range(first, first + number * _NEXT, _NEXT)):
            return packets + self._in_a_row(source, first, run, segment, now)
        at = 0
        for n in range(1, number + 1):
            if n == number or headers[n] != headers[n - 1] + _NEXT:
                some = run[at * segment : n * segment]
                if headers[at] & IN_BLOCK:
                    while some:
                        some = some[self._block(source, some, segment, packets, now) :]
                else:
                    packets += self._in_a_row(source, headers[at], some, segment, now)
                at = n
        return packets

    def receive_marked(
        self, source: Endpoint, run: memoryview, segment: int, now: float, *, is_marked: bool
    ) -> list[memoryview]:
        """The same where a router has marked these datagrams "congestion experienced", or earlier ones."""
        before = self._data_bytes(run)
        packets = self.receive(source, run, segment, now)
        if self._data_bytes(run) == before:
            return packets  # nothing authentic, or no packets
        packets, lost = self.marks.put(source, packets, is_marked=is_marked)
        if lost:
            self._receiver.drops[DropReason.CONGESTION] += lost
        return packets

    def _data_bytes(self, run: memoryview) -> int:
        """What has arrived so far of the session that the first datagram names."""
        if self._came_before:
            self._finish()
        entry = self._by_index.get(_HEADER.unpack_from(run)[0] & INDEX_MASK) if len(run) >= 8 else None
        return 0 if entry is None or entry[0].datagrams is None else entry[0].datagrams.arrivals.total_bytes

    def flush(self, now: float) -> list[memoryview]:
        """There is nothing more to read for now: what came of super-packets that are not complete.

        The packets that `receive` gave are written; what waited for that is done.
        """
        packets: list[memoryview] = []
        while self._waiting:
            peer, _ = self._waiting.popitem()
            if peer.datagrams is not None:
                packets += self._checked(peer, [memoryview(p) for p in peer.datagrams.joiner.flush()], now)
                self._sessions.direct.batch_received(peer, now)
        if self._came_before:
            self._finish()
        return packets

    def pass_overdue(self, now: float) -> None:
        """Let copies go that have waited long enough for what the relay brings."""
        for peer in list(self._with_copies):
            packets = [] if peer.datagrams is None else peer.datagrams.copies.overdue(now)
            if packets := self._receiver.check_sources(peer, packets, now):
                self._sessions.outputs.append(Deliver(peer.dest, tuple(packets)))
            if peer.datagrams is None or not peer.datagrams.copies.waits:
                del self._with_copies[peer]

    def _single(self, source: Endpoint, datagram: memoryview, now: float) -> list[memoryview]:
        """One datagram: a ping should not wait for what many need."""
        (header,) = _HEADER.unpack_from(datagram)
        counter = header >> 24
        entry = self._keys(header & INDEX_MASK, 1, now)
        if entry is None:
            return []
        peer, pair, path = entry
        newest = pair.direct.newest
        batch = self._open(source, peer, pair, path, counter, datagram, now)
        if batch is None or not path.machine.received(source, len(datagram), counter > newest, now):
            return []
        size = len(batch)
        if (
            size > RECORD_HEADER_BYTES
            and RECORD_HEADER.unpack_from(batch)[0] == size - RECORD_HEADER_BYTES
            and not path.joiner
            and not path.copies.waits
        ):  # a packet and nothing else
            self._came_before.append((peer, pair, path, size, counter, now))
            receiver = self._receiver
            receiver.opened_from = peer.dest
            return receiver.check_sources(peer, [memoryview(batch)[RECORD_HEADER_BYTES:]], now)
        packets, data_bytes = self._batch(peer, pair, path, source, counter, batch, now)
        return self._came(peer, pair, path, packets, data_bytes, counter, now)

    def _in_a_row(
        self, source: Endpoint, header: int, run: memoryview, segment: int, now: float
    ) -> list[memoryview]:
        """Datagrams of one key pair with counters that follow one another."""
        index, counter = header & INDEX_MASK, header >> 24
        number = -(-len(run) // segment)
        entry = self._keys(index, number, now)
        if entry is None:
            return []
        peer, pair, path = entry
        newest = pair.direct.newest
        batches = pair.direct.open_run(counter, run, segment) if number > 1 else None
        if batches is None:
            batches, counters = self._one_by_one(source, peer, pair, path, counter, run, segment, now)
        else:
            counters = None
        if not batches:
            return []
        last = counters[-1] if counters else counter + number - 1
        if not path.machine.received(source, len(run), last > newest, now):
            return []
        return self._opened(peer, pair, path, source, batches, counters or range(counter, last + 1), now)

    def _keys(self, index: int, number: int, now: float) -> tuple[Peer, KeyPair, DatagramPath] | None:
        """Whose keys these are; None if the datagrams, so many, are to be dropped."""
        entry = self._by_index.get(index)
        if entry is None:
            self._receiver.drops[DropReason.NO_SESSION] += number
            return None
        peer, pair = entry
        path = peer.datagrams
        if path is None or path.machine.mode == "off":
            peer.drops[DropReason.NO_SESSION] += number
            return None
        if now >= pair.reject_at:
            peer.drops[DropReason.KEY_EXPIRED] += number
            return None
        return peer, pair, path

    def _block(
        self, source: Endpoint, run: memoryview, segment: int, packets: list[memoryview], now: float
    ) -> int:
        """The block at the start of a run, or the piece of one: its size."""
        header, place, number = BLOCK_HEADER.unpack_from(run)
        index, counter = header & INDEX_MASK, (header ^ IN_BLOCK) >> 24
        count = min(number - place, -(-len(run) // segment))
        following = header, place + count - 1, number
        if count > 1 and BLOCK_HEADER.unpack_from(run, (count - 1) * segment) != following:
            count = 1
        run = run[: max(count, 1) * segment]
        entry = self._keys(index, max(count, 1), now)
        if entry is None:
            return len(run)
        peer, pair, path = entry
        keys = pair.direct
        if count < 1 or len(run) <= BLOCK_HEADER_BYTES:
            peer.drops[DropReason.MALFORMED] += 1
            return len(run)
        if not path.forged.is_worth_opening(source, now):
            peer.drops[DropReason.NOT_AUTHENTIC] += count
            return len(run)
        if not keys.is_fresh(counter):
            peer.drops[DropReason.REPLAYED] += count
            return len(run)
        joined = b"".join(map(run.__getitem__, places(segment, count)))
        whole = count == number
        sealed = joined if whole else self._assembly.put(index, counter, number, place, count, joined)
        if sealed is None:
            return len(run)
        out = self._room[self._free :]
        if len(out) < len(sealed):
            out = memoryview(bytearray(len(sealed)))
        newest = keys.newest
        size = keys.open_block(counter, number, sealed, out)
        if isinstance(size, DropReason):
            peer.drops[size] += number
            if size is DropReason.NOT_AUTHENTIC:
                path.forged.failed(source, now)
            return len(run)
        self._free += size
        if path.machine.received(source, len(run), counter > newest, now):
            came, data_bytes = self._batch(peer, pair, path, source, counter, out[:size], now)
            packets += self._came(peer, pair, path, came, data_bytes, counter, now)
        return len(run)

    def _one_by_one(
        self,
        source: Endpoint,
        peer: Peer,
        pair: KeyPair,
        path: DatagramPath,
        counter: int,
        run: memoryview,
        segment: int,
        now: float,
    ) -> tuple[list[bytes], list[int]]:
        """The batches that are authentic and new, and their counters."""
        batches, counters = [], []
        for number, at in enumerate(range(0, len(run), segment), counter):
            batch = self._open(source, peer, pair, path, number, run[at : at + segment], now)
            if batch is not None:
                batches.append(batch)
                counters.append(number)
        return batches, counters

    def _open(
        self,
        source: Endpoint,
        peer: Peer,
        pair: KeyPair,
        path: DatagramPath,
        counter: int,
        datagram: memoryview,
        now: float,
    ) -> bytes | None:
        """The batch in a datagram, if it is authentic and new."""
        forged = path.forged
        if forged.counts and not forged.is_worth_opening(source, now):
            peer.drops[DropReason.NOT_AUTHENTIC] += 1
            return None
        batch = pair.direct.open(counter, datagram)
        if not isinstance(batch, DropReason):
            return batch
        peer.drops[batch] += 1
        if batch is DropReason.NOT_AUTHENTIC:
            path.forged.failed(source, now)
        return None

    def _opened(
        self,
        peer: Peer,
        pair: KeyPair,
        path: DatagramPath,
        source: Endpoint,
        batches: list[bytes],
        counters: range | list[int],
        now: float,
    ) -> list[memoryview]:
        """Authentic batches. Their packets; the other records are dealt with."""
        packets: list[memoryview] = []
        data_bytes = 0
        joiner = path.joiner
        at, number = 0, len(batches)
        in_a_row = isinstance(counters, range)
        while at < number:
            batch = batches[at]
            if in_a_row and len(batch) > RECORD_HEADER_BYTES and batch[3] == _SEGMENT:
                if path.copies.waits:
                    packets += path.copies.end()
                count, complete = joiner.put_run(batches, at, counters[at])
                if count:
                    packets += map(memoryview, complete)
                    data_bytes += sum(map(len, batches[at : at + count]))
                    at += count
                    continue
            came, size = self._batch(peer, pair, path, source, counters[at], batch, now)
            packets += came
            data_bytes += size
            at += 1
        return self._came(peer, pair, path, packets, data_bytes, counters[-1], now)

    def _came(
        self,
        peer: Peer,
        pair: KeyPair,
        path: DatagramPath,
        packets: list[memoryview],
        data_bytes: int,
        counter: int,
        now: float,
    ) -> list[memoryview]:
        """The packets that may go on, of authentic batches up to this counter. The rest is `_finish`'s."""
        if path.joiner:
            self._waiting[peer] = None
        self._came_before.append((peer, pair, path, data_bytes, counter, now))
        return self._checked(peer, packets, now)

    def _finish(self) -> None:
        """What need not be done before the packets are written."""
        came, self._came_before = self._came_before, []
        sessions = self._sessions
        direct = sessions.direct
        while self._reports:
            path, body, now = self._reports.pop(0)
            path.on_report(body, now, by_datagram=True, busy=direct.is_busy())
        for peer, pair, path, data_bytes, counter, now in came:
            sessions.batch_received(peer, pair, data_bytes, now)
            direct.batch_received(peer, now)
            if path.arrivals.received(pair.local_index, counter, data_bytes, now):
                direct.report(peer, now)
            direct.settle(peer, now)
        told, self._told = self._told, []
        for peer, kind, statement, source, now in told:
            sessions.announcements.received(peer, kind, memoryview(statement), now, source)

    def _batch(
        self,
        peer: Peer,
        pair: KeyPair,
        path: DatagramPath,
        source: Endpoint,
        counter: int,
        batch: Buffer,
        now: float,
    ) -> tuple[list[memoryview], int]:
        """Act on one batch's records. Its packets, and its size if there were any."""
        packets: list[memoryview] = []
        try:
            is_data = self._records(peer, pair, path, source, counter, batch, packets, now)
        except RemoteProtocolError:
            peer.drops[DropReason.BAD_RECORD] += 1
            is_data = False
        return packets, len(batch) if is_data else 0

    def _records(
        self,
        peer: Peer,
        pair: KeyPair,
        path: DatagramPath,
        source: Endpoint,
        counter: int,
        batch: Buffer,
        packets: list[memoryview],
        now: float,
    ) -> bool:
        """Act on one datagram's records; its packets go into `packets`. Whether there were any.

        Raises `RemoteProtocolError` for records that are none.
        """
        came, others = read_records(memoryview(batch))
        joiner, machine = path.joiner, path.machine
        if came and joiner:  # these came after it
            packets += map(memoryview, joiner.flush())
        is_data = bool(came)
        copy: tuple[int, int] | None = None
        if len(others) > 1 and len({kind for kind, _ in others}) < len(others):
            # Nobody of ours sends such, and a peer could keep us busy with answers.
            raise RemoteProtocolError("a datagram with two records of one kind")
        for kind, body in others:
            if kind == RecordKind.SEGMENT:
                is_data = True
                came += map(memoryview, joiner.put(counter, body))
            elif kind == RecordKind.COPY:
                copy = COPY_BODY.unpack(body)
            elif kind == RecordKind.PROBE:
                machine.on_probe(body, source, len(batch) + OVERHEAD_BYTES, now)
            elif kind == RecordKind.PROBE_ACK:
                machine.on_ack(body, source, now)
            elif kind == RecordKind.DIRECT_FEEDBACK:
                self._reports.append((path, body, now))  # `_finish` acts on it
            elif kind in STATEMENTS and machine.is_proven(source):
                self._told.append((peer, kind, bytes(body), source, now))
            elif kind == RecordKind.HANDSHAKE and machine.is_proven(source):
                self._sessions.receive_handshake_directly(peer, bytes(body), now)
        if copy is None:
            if came and path.copies.waits:
                packets += path.copies.end()
            packets += came
        elif came:
            packets += path.copies.put(pair, *copy, counter, came, now)
            if path.copies.waits:
                self._with_copies[peer] = None
                peer.timers.set(Timer.REORDER, peer.overdue_at())
                self._sessions.timer_heap.schedule(peer)
        return is_data

    def _checked(self, peer: Peer, packets: list[memoryview], now: float) -> list[memoryview]:
        if packets:
            packets = self._receiver.check_sources(peer, packets, now)
            self._receiver.opened_from = peer.dest
        return packets


@lru_cache(maxsize=64)
def _headers(segment: int) -> Struct:
    return Struct(f"<Q{segment - HEADER_BYTES}x")
