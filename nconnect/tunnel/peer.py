"""One peer: its settings, its session, its queue, its timers and what was counted of it."""

from __future__ import annotations

from collections import Counter
from enum import Enum

from nconnect.crypto.keys import Box, Identity, dh_public_of
from nconnect.errors import DropReason
from nconnect.ip.packet import mark_congestion
from nconnect.model import PeerConfig
from nconnect.queueing.fq_codel import FairQueue
from nconnect.tunnel.constants import QUEUE_BYTES
from nconnect.tunnel.handshake import Attempt
from nconnect.tunnel.pacing import Arrivals, Sending
from nconnect.tunnel.session import Session
from nconnect.tunnel.timers import NEVER, Timers
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES, Feature


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
        self.queue: FairQueue[bytearray] = FairQueue(max_bytes=QUEUE_BYTES, mark=_mark)
        self.sending = Sending(now)
        self.arrivals = Arrivals()
        self.expired = False
        self.doubtful = False  # what we sent went unanswered
        self.last_counter = 0  # of its initiations; kept over restarts
        self.last_initiation_at = -NEVER
        self.last_handshake_at: float | None = None
        self.last_received_at: float | None = None
        self.rtt_s: float | None = None
        self.clock_ahead_s = 0.0  # its wall clock against ours, by its last handshake message
        self.pinged_at: dict[int, float] = {}
        self.rx_bytes = self.tx_bytes = self.rx_packets = self.tx_packets = 0
        self.drops: Counter[DropReason] = Counter()

    @property
    def name(self) -> str:
        return self.config.name

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
        total[DropReason.QUEUE_FULL] += self.queue.full_drops
        total[DropReason.QUEUE_DELAY] += self.queue.delay_drops
        return {reason.value: total[reason] for reason in DropReason if total[reason]}


def _mark(record: bytearray) -> bool:
    """Mark a queued packet instead of dropping it, where it allows that."""
    return mark_congestion(memoryview(record)[VIRTIO_HEADER_BYTES:])
