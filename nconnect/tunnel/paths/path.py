"""What a path is: one way to a peer, of any kind, and what is decided for it and not for the peer."""

from __future__ import annotations

from math import inf

from nconnect.errors import DropReason
from nconnect.ip import offload
from nconnect.model import Buffer
from nconnect.queueing.fq_codel import FairQueue
from nconnect.tunnel.constants import DEAD_S, STALE_S
from nconnect.tunnel.paths.feedback import Arrivals
from nconnect.tunnel.paths.lanes import Lane
from nconnect.tunnel.paths.reorder import Order
from nconnect.tunnel.paths.scheduler import Scheduler
from nconnect.wire.tunnel import MAX_PACKET_BODY_BYTES, Feature

UNIT_S = 0.004  # as long as the pacer's burst: a token waits for no more than that


class Path:
    """A path with one lane: what every kind has. `nconnect.tunnel.paths` says what a second kind still lacks.

    A kind of path says how a sealed batch is framed (`prefix`, `split`), and may have more lanes than one:
    then it is `several`, and has a `scheduler` while it needs one.
    """

    several = False  # whether there is a choice of lanes
    watches = False  # whether several lanes are there, so that a dead one must be found
    scheduler: Scheduler | None = None  # chooses the lane of each flow, while one lane is not enough

    def __init__(self, lane: Lane) -> None:
        self.lane = lane  # what has no reason to go elsewhere goes here
        self.features = Feature(0)  # what the TUN at the other end takes
        self.batch_bytes = 0  # the largest batch that goes into one message
        self.arrivals = Arrivals()  # what came, to be reported (delivery feedback)
        self.order = Order()  # puts what came in order again

    # Framing

    @staticmethod
    def prefix(header: bytes, sealed_size: int) -> bytes:
        """What goes before the `sealed_size` sealed bytes in one message; `header` is the data frame's."""
        raise NotImplementedError

    @staticmethod
    def split(payload: memoryview) -> tuple[bytes, memoryview] | None:
        """(a data frame's header, sealed batch) of a message; None if it is laid out in another way."""
        raise NotImplementedError

    # What the path takes

    def unit(self, lane: Lane, link_rate: float | None) -> int:
        """The largest record that a slow lane should be held by: what it carries in `UNIT_S`."""
        rate = min(lane.sending.pacer.rate or inf, link_rate or inf)
        return MAX_PACKET_BODY_BYTES if rate == inf else int(rate * UNIT_S / max(1, lane.queue.flow_count))

    def frame_bytes(self, now: float) -> int:
        """The largest frame of a stream, as a record, that is not likely to be lost as a whole."""
        return MAX_PACKET_BODY_BYTES

    def suited(self, record: bytearray) -> list[bytearray] | list[bytes]:
        """The record as the other end's TUN takes it: as it is, or split and its checksums completed."""
        if self.features == Feature.ALL or not needed_feature(record) & ~self.features:
            return [record]
        return offload.split(memoryview(record))

    # What waits

    @property
    def queues(self) -> list[FairQueue[bytearray]]:
        """All queues that may hold something."""
        return [self.lane.queue]

    @property
    def bytes_held(self) -> int:
        """How many bytes wait to be sent."""
        return self.lane.queue.bytes_held

    def keep_newest(self, now: float) -> int:
        """Let go of what waited through an outage, except for the newest of each flow; how many packets."""
        return sum(queue.keep_newest(now, stale_s=STALE_S, dead_s=DEAD_S) for queue in self.queues if queue)

    def clear(self, reason: DropReason) -> int:
        """Drop all that waits; how many packets."""
        dropped = 0
        for queue in self.queues:
            dropped += len(queue)
            queue.clear(reason)
        self.scheduler = None
        return dropped

    def overdue(self, now: float) -> list[memoryview]:
        """Packets that came, and have waited long enough for those before them."""
        return self.order.expire(now)

    def overdue_at(self) -> float:
        """When `overdue` is to be called; infinite if never."""
        return self.order.next_at()


def needed_feature(record: Buffer) -> Feature:
    """What a TUN must take for this record to be written as it is."""
    if not record[0] & offload.NEEDS_CSUM and not record[1]:
        return Feature(0)
    return _FEATURE_OF_GSO.get(record[1] & ~offload.GSO_ECN, Feature.ALL)


_FEATURE_OF_GSO = {
    offload.GSO_NONE: Feature.CHECKSUM,
    offload.GSO_TCPV4: Feature.CHECKSUM | Feature.TSO4,
    offload.GSO_TCPV6: Feature.CHECKSUM | Feature.TSO6,
    offload.GSO_UDP_L4: Feature.CHECKSUM | Feature.USO,
}
