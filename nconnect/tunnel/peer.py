"""One peer: its settings, its keys, its paths, its timers and what was counted of it."""

from __future__ import annotations

from collections import Counter
from enum import Enum

from nconnect.crypto.keys import Box, Identity, dh_public_of
from nconnect.errors import DropReason
from nconnect.model import PeerConfig
from nconnect.queueing.fq_codel import FairQueue
from nconnect.tunnel.bounds import Bounds
from nconnect.tunnel.handshake import Attempt
from nconnect.tunnel.paths.datagrams import DatagramPath
from nconnect.tunnel.paths.direct.path import DirectPath
from nconnect.tunnel.paths.lanes import Lane
from nconnect.tunnel.paths.path import Path
from nconnect.tunnel.paths.relayed import RelayedPath
from nconnect.tunnel.session import Session
from nconnect.tunnel.shared_key import SharedKey
from nconnect.tunnel.statements import Statements
from nconnect.tunnel.timers import NEVER, Timers
from nconnect.tunnel.translation import Translation


class PeerState(Enum):
    """What `status` says of a peer."""

    NEVER = "never"
    HANDSHAKING = "handshaking"
    UP = "up"
    STALE = "stale"
    EXPIRED = "expired"


class HandshakeState:
    """A peer's part in handshakes. Written by `nconnect.tunnel.handshakes` alone, as is `Peer.session`."""

    def __init__(self, public_key: bytes, identity: Identity, last_counter: int) -> None:
        """Raises ValueError when the public key is no point of the curve."""
        self.dh_key = dh_public_of(public_key)
        self.box = Box(identity, public_key)
        self.attempt: Attempt | None = None  # ours, under way
        self.attempts = 0  # initiations since the last session
        self.last_counter = last_counter  # of the peer's initiations; kept over restarts
        self.last_initiation_at = -NEVER  # when the peer's last one was answered
        self.refusals = 0  # in the second that began at `refusals_since`
        self.refusals_since = -NEVER
        self.finished_at: float | None = None  # when a session last came up
        self.clock_ahead_s = 0.0  # the peer's wall clock against ours, by its last handshake message


class Traffic:
    """Packets and bytes of IP, without headers of ours, and the bounds on them."""

    __slots__ = ("bounds", "rx_bytes", "rx_packets", "turn", "tx_bytes", "tx_packets")

    def __init__(self) -> None:
        self.bounds: Bounds | None = None  # None: there are none
        self.turn = 0  # bytes that its turns in the send queue have given it
        self.rx_bytes = self.tx_bytes = self.rx_packets = self.tx_packets = 0


class Peer:
    """One entry of the peer table and all that lives as long as it.

    Each part is written by one module; everybody may read all of them (tests/tunnel/test_peer.py holds this):

        part                                     written by
        config, translation                      core (the table)
        expired                                  sessions (time)
        session, handshake                       handshakes
        relayed (over nodes), path (in use now)  paths.manager
        datagrams (over UDP; None: not possible) direct, datagram_receiver; manager: what the peer takes
        timers, check_at                         whoever notes an event; timer_heap
        traffic                                  send_queue, core, receiver
        doubtful, left_at, last_received_at      sessions
        rtt_s                                    control_frames, and handshakes for the first round trip
        pinged_at                                control_frames; sessions forgets them
        shared_key (is one key on two devices?)  handshakes (the peer's), control_frames (ours)
        statements (ours, and the peer's)        announcements
        drops                                    whoever refuses something
    """

    def __init__(
        self,
        config: PeerConfig,
        identity: Identity,
        now: float,
        *,
        last_counter: int = 0,
        direct: DirectPath | None = None,
    ) -> None:
        """`last_counter`: of the peer's newest initiation that was ever accepted.

        Raises ValueError when the peer's public key is no point of the curve.
        """
        self.config = config
        self.translation: Translation | None = None  # of addresses that are not the same here
        self.dest = str(config.address)
        self.session = Session()
        self.handshake = HandshakeState(config.address.public_key, identity, last_counter)
        self.relayed = RelayedPath(config.address, now)
        self.datagrams = None if direct is None else DatagramPath(direct, now)
        self.path: Path = self.relayed  # what carries packets now
        self.timers = Timers()
        self.check_at = NEVER  # when the core looks at the timers
        self.traffic = Traffic()
        self.expired = False  # its permission has ended
        self.doubtful = False  # what we sent went unanswered
        self.left_at: float | None = None  # when it said that it goes away, unless it has come back
        self.last_received_at: float | None = None
        self.rtt_s: float | None = None  # the newest round trip
        self.pinged_at: dict[int, tuple[float, Lane]] = {}
        self.shared_key = SharedKey()
        self.statements = Statements()
        self.drops: Counter[DropReason] = Counter()

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def queues(self) -> list[FairQueue[bytearray]]:
        """All queues that may hold something, whichever path is in use."""
        return self.relayed.queues + ([] if self.datagrams is None else self.datagrams.queues)

    @property
    def direct(self) -> DirectPath | None:
        """What finds and judges the direct path to this peer."""
        return None if self.datagrams is None else self.datagrams.machine

    def can_send(self, now: float) -> bool:
        """Whether there is a key to send under."""
        pair = self.session.current
        return pair is not None and pair.can_send(now)

    def overdue_at(self) -> float:
        """When packets that came have waited long enough for those before them; infinite if none waits."""
        at = self.relayed.overdue_at()
        return at if self.datagrams is None else min(at, self.datagrams.copies.overdue_at())

    def keep_newest(self, now: float) -> None:
        """Let go of what waited through an outage, except for the newest of each flow."""
        self.drops[DropReason.NO_KEY] += self.path.keep_newest(now)

    def clear_queues(self, reason: DropReason) -> None:
        """Drop all that waits, and count it."""
        self.drops[reason] += self.path.clear(reason)

    @property
    def state(self) -> PeerState:
        if self.expired:
            return PeerState.EXPIRED
        if self.session.current is not None and not self.doubtful:
            return PeerState.UP
        if self.handshake.finished_at is not None:
            return PeerState.STALE
        return (
            PeerState.NEVER
            if self.handshake.attempt is None and self.session.next is None
            else PeerState.HANDSHAKING
        )

    def all_drops(self) -> dict[str, int]:
        """Drops by reason's name, queues' and the direct path's included, in the order of `DropReason`."""
        total = Counter(self.drops)
        if self.direct is not None:
            total.update(self.direct.drops)
        for queue in self.queues:
            total[DropReason.QUEUE_FULL] += queue.full_drops
            total[DropReason.QUEUE_DELAY] += queue.delay_drops
        return {reason.value: total[reason] for reason in DropReason if total[reason]}
