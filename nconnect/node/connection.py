"""One websocket to the node: its states, and what the node stores about it."""

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
    """A socket that keeps bytes because its client does not read: how many, and the progress since when."""

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


# An absent entry is an error: of the client for LOGGED_IN (allowed once), of our own code for CLOSED.
TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.CHALLENGED, Event.LOGGED_IN): State.CLIENT,
    (State.CHALLENGED, Event.CLOSED): State.CLOSED,
    (State.CLIENT, Event.CLOSED): State.CLOSED,
}


class Connection:
    """One websocket to us. `Node.open` makes it; only the node and its relay change it."""

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
        self.info = info  # this node's addresses as told to this client
        self.challenge = challenge
        self.heard_at = self.moved_at = now
        self.rx_seen = self.tx_seen = 0
        self.early_bytes = 0  # of binary frames before the login
        self.bad_frames = 0  # since the last check
        self.state = State.CHALLENGED
        self.address = ""  # as text, because it is the key of look-ups
        self.prefixes: dict[int, bytes] = {}  # payload size -> head of a message from this client
        self.heads = HeadCache()  # of its messages
        self.direct = True  # messages may go to its socket unchanged (no receipts, no test disorder)
        self.drains_mail = False  # its held messages are being sent, and go before newer ones
        self.egress: Egress[bytes] | None = None  # only while something waits in it
        self.stuck: Stuck | None = None  # only while its socket keeps part of a message
        self.ledger: Ledger | None = None  # only if the node verifies
        self.reorderer: Reorderer | None = None  # only in tests

    def move(self, event: Event) -> bool:
        """Change the state by the table; False if the event is not allowed in this state."""
        state = TRANSITIONS.get((self.state, event))
        if state is None:
            return False
        self.state = state
        return True
