"""One websocket to the node: its states, and what the node remembers of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from nconnect.model import Buffer
from nconnect.node.egress import Egress
from nconnect.node.proof import Ledger
from nconnect.node.reorder import Reorderer
from nconnect.node.sources import Source
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.nkn import HeadCache


class Transport(Protocol):
    """What the node needs of a websocket (`nconnect.io.net.websocket.WebSocket` is one)."""

    @property
    def writable(self) -> bool: ...
    @property
    def unsent_bytes(self) -> int: ...
    @property
    def tx_bytes(self) -> int: ...
    @property
    def rx_bytes(self) -> int: ...
    def send_binary(self, parts: Sequence[Buffer]) -> None: ...
    def send_text(self, text: str) -> None: ...
    def ping(self) -> None: ...
    def lift_limit(self) -> None:
        """The client has logged in: take messages of any size from it."""

    def close(self, code: int = 1000, why: str = "") -> None: ...


@dataclass(slots=True)
class Stuck:
    """What a socket keeps because its client does not read: bytes, and how far that client had come when."""

    size_bytes: int
    tx_bytes: int
    since: float


class State(Enum):
    """Of a connection."""

    CHALLENGED = "challenged"  # it was sent a challenge
    CLIENT = "client"  # it has proven its key
    CLOSED = "closed"


class Event(Enum):
    """What changes a connection's state."""

    LOGGED_IN = "logged_in"
    CLOSED = "closed"


# An absent entry is a mistake: of the client's for LOGGED_IN (only once), of ours for CLOSED.
TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.CHALLENGED, Event.LOGGED_IN): State.CLIENT,
    (State.CHALLENGED, Event.CLOSED): State.CLOSED,
    (State.CLIENT, Event.CLOSED): State.CLOSED,
}


class Connection:
    """One websocket to us. Made by `Node.open` and changed by the node alone."""

    __slots__ = (
        "address", "bad_frames", "challenge", "direct", "drains_mail", "early_bytes", "egress", "heads",
        "heard_at", "info", "ledger", "moved_at", "number", "prefixes", "reorderer", "rx_seen",
        "source", "state", "stuck", "transport", "tx_seen",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        transport: Transport,
        info: NodeInfo,
        challenge: bytes,
        source: Source,
        now: float,
    ) -> None:
        self.number = number
        self.transport = transport
        self.source = source
        self.info = info  # this node as this client sees it
        self.challenge = challenge
        self.heard_at = self.moved_at = now
        self.rx_seen = self.tx_seen = 0
        self.early_bytes = 0  # of binary frames before the login
        self.bad_frames = 0  # since the last check
        self.state = State.CHALLENGED
        self.address = ""  # as text, since that is what it is looked up by
        self.prefixes: dict[int, bytes] = {}  # payload size -> head of a message from this client
        self.heads = HeadCache()  # of its messages
        self.direct = True  # what is for this client may go to its socket as it is
        self.drains_mail = False  # what was held for it goes first, as its socket takes it
        self.egress: Egress[bytes] | None = None  # there only while something waits in it
        self.stuck: Stuck | None = None  # there only while its socket keeps part of a message
        self.ledger: Ledger | None = None  # there only when the node verifies
        self.reorderer: Reorderer | None = None  # there only in tests

    def move(self, event: Event) -> bool:
        """Follow the table; False when the event may not come now."""
        state = TRANSITIONS.get((self.state, event))
        if state is None:
            return False
        self.state = state
        return True
