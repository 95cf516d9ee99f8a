"""What a direct path says through `poll_output()`, and what it is: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from nconnect.model import Endpoint
from nconnect.wire.tunnel import RecordKind


class PathState(Enum):
    """Where this side sends its packets, and why."""

    RELAY = "relay"
    SEARCH = "search"  # by the relay, while a direct path is looked for
    DIRECT = "direct"
    SUSPECT = "suspect"  # by both: the direct path may have died


@dataclass(frozen=True, slots=True)
class Transmit:
    """Seal these records and send them as a datagram. `ttl`: the IP hop limit; None is the system's.

    `wants_report`: append a FEEDBACK record about what arrived on this path, if there is something to report;
    the probe was large enough for it.
    """

    to: Endpoint
    records: tuple[tuple[RecordKind, bytes], ...]
    ttl: int | None = None
    wants_report: bool = False


@dataclass(frozen=True, slots=True)
class SendCandidates:
    """Send this body of a CANDIDATES record by the relay."""

    body: bytes


@dataclass(frozen=True, slots=True)
class AskReflexive:
    """Ask the STUN servers from the data socket; `Surroundings.set_reflexive` takes the answer."""


@dataclass(frozen=True, slots=True)
class StateChanged:
    """`why` is a plain sentence for a user; empty in state DIRECT."""

    state: PathState
    why: str
    remote: Endpoint | None = None  # in DIRECT and SUSPECT


@dataclass(frozen=True, slots=True)
class Answered:
    """The peer has answered `DirectPath.ping`."""

    ping_id: int
    rtt_s: float


Output = Transmit | SendCandidates | AskReflexive | StateChanged | Answered
