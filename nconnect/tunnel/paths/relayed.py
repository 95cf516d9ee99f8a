"""The path over NKN's relays: one lane for each pair of links, ours and the peer's. State; pure."""

from __future__ import annotations

from nconnect.errors import DropReason
from nconnect.model import NknAddress
from nconnect.queueing.fq_codel import FairQueue
from nconnect.tunnel.constants import DEAD_S, STALE_S
from nconnect.tunnel.paths.feedback import Arrivals
from nconnect.tunnel.paths.lanes import Lanes
from nconnect.tunnel.paths.reorder import Order, ReorderBuffer
from nconnect.tunnel.paths.scheduler import Scheduler
from nconnect.wire.tunnel import Feature


class RelayedPath:
    """One peer's. `nconnect.tunnel.paths.manager` changes it, as links come and go and handshakes tell."""

    def __init__(self, address: NknAddress, now: float) -> None:
        """`address` is the peer's, bare."""
        self.features = Feature(0)  # what the peer's TUN takes
        self.batch_bytes = 0  # the largest batch that the peer takes
        self.lanes = Lanes(address, now)
        self.lane = self.lanes.best  # what has no reason to go elsewhere goes here
        self.scheduler: Scheduler | None = None  # while one lane is not enough
        self.stripe_number = 0  # of the next striped batch; begins anywhere
        self.links_revision = -1  # of the newest list of the peer's links
        self.arrivals = Arrivals()  # on the lane between the bare addresses
        self.lane_arrivals: dict[int, Arrivals] = {}  # on the others, by the peer's lane number
        self.striped = ReorderBuffer()  # batches that were striped over lanes
        self.order = Order()  # batches on a single lane

    @property
    def queues(self) -> list[FairQueue[bytearray]]:
        """All queues that may hold something."""
        return [lane.queue for lane in self.lanes.all] + ([self.scheduler.striped] if self.scheduler else [])

    @property
    def bytes_held(self) -> int:
        """How many bytes wait to be sent."""
        return self.scheduler.bytes_held if self.scheduler is not None else self.lane.queue.bytes_held

    def overdue(self, now: float) -> list[memoryview]:
        """Packets that have waited long enough for those before them."""
        return self.striped.expire(now) + self.order.expire(now)

    def overdue_at(self) -> float:
        """When `overdue` is to be called; infinite if never."""
        return min(self.striped.next_at(), self.order.next_at())

    def next_stripe(self) -> int:
        """The number of a striped batch that is about to leave."""
        number = self.stripe_number
        self.stripe_number = (number + 1) & 0xFFFFFFFF
        return number

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
