"""A packet's way in over the direct path: from datagrams to packets for the TUN. Pure.

The checks are those of `nconnect.tunnel.receiver`, in the same order: the index, the keys' age, the replay
window, the seal; then each packet is checked by `BatchReceiver.check_sources`. Datagrams come in runs, whose
counters follow one another as a rule, and a run is opened in one go.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct

from nconnect.errors import DropReason, RemoteProtocolError
from nconnect.model import Endpoint
from nconnect.tunnel.paths.datagrams import DatagramPath
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.receiver import BatchReceiver
from nconnect.tunnel.session import KeyPair
from nconnect.tunnel.sessions import Sessions
from nconnect.wire.direct import HEADER_BYTES, INDEX_MASK, OVERHEAD_BYTES
from nconnect.wire.tunnel import COPY_BODY, RECORD_HEADER_BYTES, RecordKind, read_records

_SEGMENT = int(RecordKind.SEGMENT)
_HEADER = Struct("<Q")
_NEXT = 1 << 24  # from a header to the one with the next counter


class DatagramReceiver:
    """Opens what comes to the UDP sockets. Part of `nconnect.tunnel.core.Tunnel`."""

    def __init__(self, sessions: Sessions, receiver: BatchReceiver) -> None:
        self._sessions = sessions
        self._receiver = receiver
        self._by_index = sessions.handshakes.by_low_index
        self._waiting: dict[Peer, None] = {}  # peers of whose super-packets a part has come

    def receive(self, source: Endpoint, run: memoryview, segment: int, now: float) -> list[memoryview]:
        """Datagrams of `segment` bytes each (the last may be shorter) that came in a row from `source`."""
        receiver = self._receiver
        receiver.received()
        number = -(-len(run) // segment) if segment > 0 else 0
        if receiver.closed:
            return []
        if number == 1 and len(run) >= OVERHEAD_BYTES:
            return self._in_a_row(source, _HEADER.unpack_from(run)[0], run, segment, now)
        if segment < OVERHEAD_BYTES:
            receiver.drops[DropReason.MALFORMED] += number
            return []
        if len(run) - (number - 1) * segment < OVERHEAD_BYTES:  # the kernel joined a forged one to a peer's
            receiver.drops[DropReason.MALFORMED] += 1
            number -= 1
            run = run[: number * segment]
            if not number:
                return []
        headers = [found for (found,) in _headers(segment).iter_unpack(run[: (number - 1) * segment])]
        headers += _HEADER.unpack_from(run, (number - 1) * segment)
        first = headers[0]
        if headers == list(range(first, first + number * _NEXT, _NEXT)):
            return self._in_a_row(source, first, run, segment, now)
        packets: list[memoryview] = []
        at = 0
        for n in range(1, number + 1):
            if n == number or headers[n] != headers[n - 1] + _NEXT:
                packets += self._in_a_row(source, headers[at], run[at * segment : n * segment], segment, now)
                at = n
        return packets

    def flush(self, now: float) -> list[memoryview]:
        """There is nothing more to read for now: what came of super-packets that are not complete."""
        packets: list[memoryview] = []
        while self._waiting:
            peer, _ = self._waiting.popitem()
            if peer.datagrams is not None:
                packets += self._checked(peer, [memoryview(p) for p in peer.datagrams.joiner.flush()], now)
        return packets

    def _in_a_row(
        self, source: Endpoint, header: int, run: memoryview, segment: int, now: float
    ) -> list[memoryview]:
        """Datagrams of one key pair with counters that follow one another."""
        index, counter = header & INDEX_MASK, header >> 24
        number = -(-len(run) // segment)
        entry = self._by_index.get(index)
        if entry is None:
            self._receiver.drops[DropReason.NO_SESSION] += number
            return []
        peer, pair = entry
        path = peer.datagrams
        if path is None or path.machine.mode == "off":
            peer.drops[DropReason.NO_SESSION] += number
            return []
        if now >= pair.reject_at:
            peer.drops[DropReason.KEY_EXPIRED] += number
            return []
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
            if not path.is_worth_opening(source, now):
                peer.drops[DropReason.NOT_AUTHENTIC] += 1
                continue
            batch = pair.direct.open(number, run[at : at + segment])
            if isinstance(batch, DropReason):
                peer.drops[batch] += 1
                if batch is DropReason.NOT_AUTHENTIC:
                    path.did_not_open(source)
            else:
                batches.append(batch)
                counters.append(number)
        return batches, counters

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
                count, complete = joiner.put_run(batches, at, counters[at])
                if count:
                    packets += map(memoryview, complete)
                    data_bytes += sum(map(len, batches[at : at + count]))
                    at += count
                    continue
            try:
                is_data = self._records(peer, pair, path, source, counters[at], batch, packets, now)
            except RemoteProtocolError:
                peer.drops[DropReason.BAD_RECORD] += 1
                is_data = False
            if is_data:
                data_bytes += len(batch)
            at += 1
        if joiner:
            self._waiting[peer] = None
        sessions = self._sessions
        sessions.batch_received(peer, pair, data_bytes, now)
        packets = self._checked(peer, packets, now)
        if path.arrivals.received(pair.local_index, counters[-1], data_bytes, now):
            sessions.direct.report(peer, now)
        sessions.direct.settle(peer, now)
        return packets

    def _records(
        self,
        peer: Peer,
        pair: KeyPair,
        path: DatagramPath,
        source: Endpoint,
        counter: int,
        batch: bytes,
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
                path.on_report(body, now, by_datagram=True, busy=self._sessions.direct.is_busy())
            elif kind == RecordKind.HANDSHAKE and machine.is_proven(source):
                self._sessions.receive_handshake_directly(peer, bytes(body), now)
        if copy is None or (came and not path.is_second(pair, *copy)):
            packets += came
        return is_data

    def _checked(self, peer: Peer, packets: list[memoryview], now: float) -> list[memoryview]:
        if packets:
            packets = self._receiver.check_sources(peer, packets)
            self._receiver.opened_from = peer.dest
        self._sessions.direct.batch_received(peer, now)
        return packets


@lru_cache(maxsize=64)
def _headers(segment: int) -> Struct:
    return Struct(f"<Q{segment - HEADER_BYTES}x")
