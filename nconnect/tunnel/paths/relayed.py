"""The path over NKN's relays: one lane for each pair of links, ours and the peer's.

A sealed batch travels as an NKN message {encrypted: true, nonce: the data frame's header, payload: the sealed
batch} to the lane's sub-client (docs/protocol.md, "Frames").
"""

from __future__ import annotations

from nconnect.model import NknAddress
from nconnect.queueing.fq_codel import FairQueue
from nconnect.tunnel.paths.feedback import Arrivals
from nconnect.tunnel.paths.lanes import Lanes
from nconnect.tunnel.paths.path import Path
from nconnect.tunnel.paths.reorder import ReorderBuffer
from nconnect.wire.tunnel import STRIPE_BODY, data_frame, split_data_frame


class RelayedPath(Path):
    """One peer's. `nconnect.tunnel.paths.manager` changes it, as links come and go and handshakes tell."""

    prefix = staticmethod(data_frame)
    split = staticmethod(split_data_frame)

    def __init__(self, address: NknAddress, now: float) -> None:
        """`address` is the peer's, bare."""
        self.lanes = Lanes(address, now)
        super().__init__(self.lanes.best)  # `arrivals` are those between the bare addresses
        self.lane_arrivals: dict[int, Arrivals] = {}  # on the others, by the peer's lane number
        self.links_revision = -1  # of the newest list of the peer's links
        self.stripe_number = 0  # of the next striped batch; begins anywhere
        self.striped = ReorderBuffer()  # striped batches that came

    @property
    def queues(self) -> list[FairQueue[bytearray]]:
        return [lane.queue for lane in self.lanes.all] + ([self.scheduler.striped] if self.scheduler else [])

    @property
    def bytes_held(self) -> int:
        return self.scheduler.bytes_held if self.scheduler is not None else self.lane.queue.bytes_held

    def next_stripe(self) -> int:
        """The number of a striped batch that is about to leave."""
        number = self.stripe_number
        self.stripe_number = (number + 1) & 0xFFFFFFFF
        return number

    def stripe_came(
        self, stripe: memoryview, packets: list[memoryview], size: int, now: float
    ) -> list[memoryview]:
        """A striped batch came, `stripe` is the body of its STRIPE record: the packets that may pass now."""
        number, wait_ms = STRIPE_BODY.unpack(stripe)
        if not self.striped.is_next(number):  # it has to wait, and its buffer is used again
            packets = [memoryview(bytes(packet)) for packet in packets]
        return self.striped.put(number, packets, size, wait_ms / 1e3, now)

    def overdue(self, now: float) -> list[memoryview]:
        return self.striped.expire(now) + self.order.expire(now)

    def overdue_at(self) -> float:
        return min(self.striped.next_at(), self.order.next_at())
