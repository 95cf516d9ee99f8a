"""One peer: its settings, its session, its queue, its timers and what was counted of it."""

from __future__ import annotations

from collections import Counter
from enum import Enum

from nconnect.crypto.keys import Box, Identity, dh_public_of
from nconnect.errors import DropReason
from nconnect.model import PeerConfig
from nconnect.queueing.fq_codel import FairQueue
from nconnect.tunnel.constants import DEAD_S, STALE_S
from nconnect.tunnel.handshake import Attempt
from nconnect.tunnel.paths.feedback import Arrivals, Sending
from nconnect.tunnel.paths.lanes import Lane, Lanes
from nconnect.tunnel.paths.order import Order
from nconnect.tunnel.paths.reorder import ReorderBuffer
from nconnect.tunnel.paths.scheduler import Scheduler
from nconnect.tunnel.session import Session
from nconnect.tunnel.shared_key import SharedKey
from nconnect.tunnel.timers import NEVER, Timers
from nconnect.wire.tunnel import Feature


class PeerState(Enum):
    """What `status` says of a peer."""

    NEVER = "never"
    HANDSHAKING = "handshaking"
    UP = "up"
    STALE = "stale"
    EXPIRED = "expired"


class Peer:
    """One entry of the peer table and everything that lives as long as it. Owned by `tunnel.core`."""

    def __init__(self, config: PeerConfig, identity: Identity, now: float) -> None:
        """Raises ValueError when the peer's public key is no point of the curve."""
        self.config = config
        self.dest = str(config.address)
        self.dh_key = dh_public_of(config.address.public_key)
        self.box = Box(identity, config.address.public_key)
        self.session = Session()
        self.attempt: Attempt | None = None
        self.attempts = 0  # initiations since the last session
        self.timers = Timers()
        self.check_at = NEVER  # when the core looks at the timers
        self.features = Feature(0)  # what its TUN takes
        self.batch_bytes = 0
        self.lanes = Lanes(config.address, now)
        self.lane = self.lanes.best  # what has no reason to go elsewhere goes here
        self.spread: Scheduler | None = None  # while one lane is not enough
        self.stripe_number = 0  # of the next striped batch; begins anywhere
        self.links_revision = -1  # of the newest list of its links
        self.arrivals = Arrivals()  # on the lane between the bare addresses
        self.lane_arrivals: dict[int, Arrivals] = {}  # on the others, by the peer's lane number
        self.striped = ReorderBuffer()
        self.order = Order()  # of batches on a single lane
        self.expired = False
        self.doubtful = False  # what we sent went unanswered
        self.last_counter = 0  # of its initiations; kept over restarts
        self.last_initiation_at = -NEVER
        self.refused_handshakes = 0  # in the second that began at `refusals_since`
        self.refusals_since = -NEVER
        self.last_handshake_at: float | None = None
        self.last_received_at: float | None = None
        self.rtt_s: float | None = None
        self.shared_key = SharedKey()
        self.clock_ahead_s = 0.0  # its wall clock against ours, by its last handshake message
        self.pinged_at: dict[int, tuple[float, Lane]] = {}
        self.rx_bytes = self.tx_bytes = self.rx_packets = self.tx_packets = 0
        self.drops: Counter[DropReason] = Counter()

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def queue(self) -> FairQueue[bytearray]:
        """What waits for the best lane; for any lane, if nothing is spread."""
        return self.lane.queue

    @property
    def queues(self) -> list[FairQueue[bytearray]]:
        """All that may hold something."""
        return [lane.queue for lane in self.lanes.all] + ([self.spread.striped] if self.spread else [])

    @property
    def sending(self) -> Sending:
        """The best lane's pace."""
        return self.lane.sending

    @property
    def bytes_held(self) -> int:
        """What waits to be sent."""
        return self.spread.bytes_held if self.spread is not None else self.lane.queue.bytes_held

    def can_send(self, now: float) -> bool:
        """Whether there is a key to send under."""
        pair = self.session.current
        return pair is not None and pair.can_send(now)

    def keep_newest(self, now: float) -> None:
        """Let go of what waited through an outage, except for the newest of each flow."""
        for queue in self.queues:
            if queue:
                self.drops[DropReason.NO_KEY] += queue.keep_newest(now, stale_s=STALE_S, dead_s=DEAD_S)

    def clear_queues(self, reason: DropReason) -> None:
        """Drop all that waits, and count it."""
        for queue in self.queues:
            self.drops[reason] += len(queue)
            queue.clear(reason)
        self.spread = None

    @property
    def state(self) -> PeerState:
        if self.expired:
            return PeerState.EXPIRED
        if self.session.current is not None and not self.doubtful:
            return PeerState.UP
        if self.last_handshake_at is not None:
            return PeerState.STALE
        return (
            PeerState.NEVER if self.attempt is None and self.session.next is None else PeerState.HANDSHAKING
        )

    def all_drops(self) -> dict[str, int]:
        """Drops by reason's name, the queue's included, in the order of `DropReason`."""
        total = Counter(self.drops)
        for queue in self.queues:
            total[DropReason.QUEUE_FULL] += queue.full_drops
            total[DropReason.QUEUE_DELAY] += queue.delay_drops
        return {reason.value: total[reason] for reason in DropReason if total[reason]}
