"""What the tunnel core is configured with, and what it says through `poll_output()`: plain values."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from nconnect.crypto.aead import CipherSuite
from nconnect.crypto.keys import Identity
from nconnect.model import DirectMode, Endpoint, NknAddress, PeerConfig, Rng
from nconnect.tunnel.constants import REKEY_AFTER_S
from nconnect.tunnel.paths.direct.outputs import AskReflexive
from nconnect.tunnel.paths.direct.surroundings import Surroundings
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.streams.stream import TunnelStream
from nconnect.tunnel.timer_heap import TimerHeap
from nconnect.wire.tunnel import Feature, RecordKind, control_batch


@dataclass(slots=True)
class Settings:
    """`Tunnel.configure` alone changes three of these while the tunnel runs; the parts share one object."""

    suite: CipherSuite
    features: Feature = Feature.ALL  # what our own TUN takes
    mtu: int = 1500
    persistent: bool = True  # keep a session with every peer, used or not (the user's side)
    accept_pending: bool = False
    direct: DirectMode = "on"  # for peers whose own setting does not say otherwise
    rekey_after_s: float = REKEY_AFTER_S  # a seam for tests

    def direct_mode(self, config: PeerConfig) -> DirectMode:
        """Whether there may be a direct path to this peer."""
        return config.direct or self.direct


@dataclass(frozen=True, slots=True)
class Send:
    """Put this payload into an NKN message to `dest`, on this link, or on any where that one is down."""

    dest: str
    payload: bytes
    link: int = 0


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """Send these parts, one after another, by UDP: as datagrams of `segment` bytes, or as one if that is 0.

    `ttl`: the IP hop limit; None is the system's.
    """

    to: Endpoint
    parts: tuple[bytes, ...]
    segment: int = 0
    ttl: int | None = None


@dataclass(frozen=True, slots=True)
class DirectChanged:
    """The peer's direct path is in another state, or there is another reason why it is not used."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class StreamEnds:
    """Close the peer's direct TCP stream: there is no session any more."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class SessionUp:
    """There are keys for this peer: what waits in its queue can leave."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class SessionLost:
    """There are no keys any more, or nothing is heard; `why` is a plain sentence."""

    peer: Peer
    why: str


@dataclass(frozen=True, slots=True)
class ExpiryChanged:
    """The peer's access has ended, or it was let in again (`peer.expired`)."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Pong:
    """An answer to `ping`. `link` is ours that it came by, or the number of a direct path, which is none;
    `leg_s` the peer's round trip to its own node."""

    peer: Peer
    ping_id: int
    rtt_s: float
    link: int = 0
    leg_s: float | None = None  # None where the peer does not say


@dataclass(frozen=True, slots=True)
class Visitor:
    """A message that is not encrypted, from anybody. What deserves no answer goes to `Tunnel.turn_away`."""

    source: str
    content: bytes
    now: float


@dataclass(frozen=True, slots=True)
class Deliver:
    """Packets for the TUN that waited for others before them. `source`: the peer's NKN address."""

    source: str
    packets: tuple[memoryview, ...]


@dataclass(frozen=True, slots=True)
class Stated:
    """The peer's statement is this from now on: at most `statements.MAX_STATEMENT_BYTES`, of any content."""

    peer: Peer
    document: bytes


@dataclass(frozen=True, slots=True)
class TrafficBegan:
    """A packet went or came, the first since `Tunnel.await_traffic`."""


@dataclass(frozen=True, slots=True)
class StreamAsked:
    """The peer wants a stream to `stream.target`: `StreamTable.accept` it, or refuse it."""

    stream: TunnelStream


@dataclass(frozen=True, slots=True)
class StreamMoved:
    """Something came on a stream, left it, or it is in another state.

    There is no other one for this stream until the shell has set `stream.is_told` to False.
    """

    stream: TunnelStream


@dataclass(frozen=True, slots=True)
class DatagramCame:
    """A datagram of a channel: to `place` if the peer opened it, else from there (`is_ours`)."""

    peer: Peer
    channel: int
    place: Endpoint
    data: bytes
    is_ours: bool


@dataclass(frozen=True, slots=True)
class CountersMoved:
    """`counters()` has changed and should be stored, so that old handshakes stay refused."""


Output = (
    Send
    | SendDatagram
    | AskReflexive
    | DirectChanged
    | StreamEnds
    | SessionUp
    | SessionLost
    | ExpiryChanged
    | Pong
    | Visitor
    | Deliver
    | Stated
    | TrafficBegan
    | StreamAsked
    | StreamMoved
    | DatagramCame
    | CountersMoved
)


@dataclass(frozen=True, slots=True)
class Context:
    """What all parts of one tunnel have in common: who we are, and where outputs and timers go."""

    identity: Identity
    address: NknAddress
    settings: Settings
    rng: Rng
    wall_clock_ns: Callable[[], int]
    surroundings: Surroundings | None = None  # of direct paths; None: there are none
    outputs: deque[Output] = field(default_factory=deque)
    timer_heap: TimerHeap = field(default_factory=TimerHeap)

    def send_datagram(
        self,
        peer: Peer,
        to: Endpoint,
        records: tuple[tuple[RecordKind, bytes], ...],
        now: float,
        ttl: int | None = None,
    ) -> None:
        """Send control records over the direct path, if the peer's current keys may still seal."""
        pair = peer.session.current
        if pair is not None and pair.can_send(now):
            sealed = pair.direct.seal_run((control_batch(*records),))
            self.outputs.append(SendDatagram(to, sealed, ttl=ttl))
