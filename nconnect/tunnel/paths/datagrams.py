"""The direct path over UDP as a `Path`: what carries packets while the direct path's machine says so. Pure.

`nconnect.tunnel.paths.direct` finds and judges the path; this is what the data lane asks: its queue, how
packets become sealed datagrams, and what was received of them so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

from nconnect.model import Buffer
from nconnect.tunnel.constants import MAX_BATCH_BYTES
from nconnect.tunnel.paths.copies import Copies
from nconnect.tunnel.paths.direct.blocks import MAX_SENDING_S, BlockRoom, LossWatch, most_bytes, split_records
from nconnect.tunnel.paths.direct.forged import ForgedDatagrams
from nconnect.tunnel.paths.direct.outputs import PathState
from nconnect.tunnel.paths.direct.path import DirectPath
from nconnect.tunnel.paths.direct.segments import Joiner, copy_parts, parts, run_of, runs
from nconnect.tunnel.paths.direct.sending import DatagramSending
from nconnect.tunnel.paths.ecn import NOT_ECT, by_ecn, ecn_bits
from nconnect.tunnel.paths.lanes import Lane
from nconnect.tunnel.paths.path import Path
from nconnect.tunnel.session import KeyPair
from nconnect.tunnel.timers import NEVER
from nconnect.wire.direct import MAX_PARTS, MAX_RUN_BYTES, OVERHEAD_BYTES
from nconnect.wire.tunnel import (
    FEEDBACK_BODY,
    MAX_PACKET_BODY_BYTES,
    RECORD_HEADER,
    RECORD_HEADER_BYTES,
    RecordKind,
    control_batch,
    read_records,
)

UDP_LINK = -1  # a lane's link that is no link to a node: the UDP sockets
REPORT_RECORD_BYTES = RECORD_HEADER_BYTES + FEEDBACK_BODY.size


class DatagramPath(Path):
    """One peer's. `nconnect.tunnel.direct` drives it."""

    def __init__(self, machine: DirectPath, now: float) -> None:
        lane = Lane(UDP_LINK, 0, "", now)
        self.sending = lane.sending = DatagramSending(now)
        super().__init__(lane)
        self.batch_bytes = MAX_BATCH_BYTES
        self.machine = machine
        self.joiner = Joiner()
        self.losses = LossWatch()
        self.forged = ForgedDatagrams(machine.is_proven)
        self.ecn = NOT_ECT  # of the datagrams that were made last
        self.has_session = False
        self.traffic_at = -NEVER  # when the machine was last told that there are packets
        self.wakes_at = NEVER  # the machine's next deadline, as the peer's timers know it
        self.rx_packets = 0  # of the peer's traffic, when it was last looked at
        self.copies = Copies()

    def session_ended(self) -> None:
        """There are no keys any more."""
        self.has_session = False
        self.copies.clear()

    # To the network

    def frame_bytes(self, now: float) -> int:
        """What fits into one block; into one datagram while some are lost."""
        size = self.machine.datagram_bytes
        most = min(most_bytes(size), int(self.sending.pacer.acknowledged_rate * MAX_SENDING_S))
        if most < size or not self.losses.is_clean(now):
            most = size - OVERHEAD_BYTES
        return min(most - RECORD_HEADER_BYTES, MAX_PACKET_BODY_BYTES)

    @property
    def doubles(self) -> bool:
        """Whether what goes by the relay goes here too."""
        return self.machine.state is PathState.SUSPECT

    def sealed(
        self, pair: KeyPair, batch: memoryview, now: float, is_busy: Callable[[], bool], blocks: BlockRoom
    ) -> Iterator[tuple[tuple[Buffer, ...], int]]:
        """A batch of packets as datagrams: (parts, size of a datagram) of each run; 0: it is one datagram.

        `is_busy`: whether we are late in reading, which a report that rides along must say. Send each before
        the next, since blocks are sealed in the same `blocks`, with the ECN bits `ecn`.
        """
        size = len(batch)
        if (
            RECORD_HEADER.unpack_from(batch)[0] == size - RECORD_HEADER_BYTES
            and size <= self.machine.datagram_bytes - OVERHEAD_BYTES
            and not self.arrivals.may_ride(now)
        ):  # a ping should not wait for what many need
            self.ecn = ecn_bits(batch, 0)
            first = pair.direct.counter
            yield pair.direct.seal_one(batch), 0
            self._left(pair, first, size, now)
            return
        for part, self.ecn in by_ecn(batch):
            yield from self._alike(pair, part, now, is_busy, blocks)

    def _alike(
        self, pair: KeyPair, batch: memoryview, now: float, is_busy: Callable[[], bool], blocks: BlockRoom
    ) -> Iterator[tuple[tuple[Buffer, ...], int]]:
        """Packets with the same ECN bits."""
        size = self.machine.datagram_bytes
        room = size - OVERHEAD_BYTES - len(batch)
        if room >= 0:
            whole: Buffer = batch
            if room >= REPORT_RECORD_BYTES and self.arrivals.may_ride(now):
                report = self.arrivals.report(now, busy=is_busy())
                whole = bytes(batch) + control_batch((RecordKind.DIRECT_FEEDBACK, report))
            first = pair.direct.counter
            yield pair.direct.seal_run((whole,)), 0
            self._left(pair, first, len(whole), now)
            return
        most = min(most_bytes(size), int(self.sending.pacer.acknowledged_rate * MAX_SENDING_S))
        if most < size or not self.losses.is_clean(now):
            yield from self._apart(pair, batch, size, now)
            return
        at_once = 2 * min(MAX_RUN_BYTES // size, MAX_PARTS)
        for part in split_records(batch, most):
            if len(part) > most or len(part) <= size - OVERHEAD_BYTES:
                yield from self._apart(pair, part, size, now)
                continue
            first = pair.direct.counter
            pieces = pair.direct.seal_block(part, size, blocks)
            self._left(pair, first, len(part), now)
            for at in range(0, len(pieces), at_once):
                yield pieces[at : at + at_once], size

    def _apart(
        self, pair: KeyPair, batch: memoryview, size: int, now: float
    ) -> Iterator[tuple[tuple[Buffer, ...], int]]:
        """Each datagram sealed by itself."""
        for run in runs(batch, size):
            if isinstance(run, list):
                yield from self._sealed(pair, run, now)
            else:
                for record, head, part in parts(run, size):
                    yield from self._sealed(pair, run_of(record, head, part, pair.direct.counter), now)

    def sealed_copies(
        self, pair: KeyPair, batch: memoryview, counter: int, now: float
    ) -> Iterator[tuple[tuple[Buffer, ...], int]]:
        """The same of a batch that has left by the relay under this counter."""
        self.ecn = NOT_ECT
        size = self.machine.datagram_bytes
        for place, record in enumerate(read_records(batch)[0]):
            run = copy_parts(record, size, pair.direct.counter, counter, place)
            yield from self._sealed(pair, run, now)

    def _sealed(
        self, pair: KeyPair, run: list[Buffer], now: float
    ) -> Iterator[tuple[tuple[Buffer, ...], int]]:
        size = len(run[0]) + OVERHEAD_BYTES
        most = MAX_RUN_BYTES // size
        for at in range(0, len(run), most):
            some = run[at : at + most]
            first = pair.direct.counter
            sealed = pair.direct.seal_run(some)
            self._left(pair, first, sum(map(len, some)), now)
            yield sealed, size if len(some) > 1 else 0

    def _left(self, pair: KeyPair, first: int, size: int, now: float) -> None:
        """Datagrams from the counter `first` on have been sealed, with `size` bytes of batches."""
        self.sending.run_sent(pair.remote_index, first, pair.direct.counter - 1, size, now)
        self.machine.sent(size, now)

    # From the network

    def on_report(self, body: memoryview, now: float, *, by_datagram: bool, busy: bool) -> None:
        """The peer's DIRECT_FEEDBACK record; `busy` if we are late in reading it."""
        before = self.sending.arrived_bytes
        rtt_s = self.sending.on_report(body, now, busy=busy)
        if rtt_s is None:
            return
        arrived = self.sending.arrived_bytes
        missing = self.sending.reported_bytes - arrived
        if arrived < before:
            self.machine.delivery.peer_restarted(arrived)
            self.losses.restarted(missing)
        elif self.sending.is_exact:
            self.losses.reported(missing, now)
        is_late = busy or body[-1]  # on either side: then the wait for a processor is in it
        measured = rtt_s if by_datagram and not is_late and rtt_s < inf else None
        self.machine.reported(self.sending.reported_bytes, arrived, measured, now)
