"""The outputs of a link to its shell, and its counters."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from nconnect.nkn.ways import PLAIN_WAY, Way
from nconnect.wire.jsonrpc import NodeInfo


class DownReason(Enum):
    """Why a link is not up."""

    NO_SEED = "no_seed"  # no seed named a node
    LOGIN_PAGE = "login_page"  # a captive portal answered in place of the seeds
    UNREACHABLE = "unreachable"  # the node cannot be connected to
    TIMED_OUT = "timed_out"  # it connected, but does not answer
    BAD_SIGNATURE = "bad_signature"  # it refuses our proof (42003)
    REFUSED = "refused"  # it refuses the login for another reason
    BROKE_PROTOCOL = "broke_protocol"
    WRONG_KEY = "wrong_key"  # it is not the node that the seed named
    REDIRECTED = "redirected"
    REDIRECT_LOOP = "redirect_loop"
    LOST = "lost"  # the connection was closed
    SILENT = "silent"
    NETWORK_CHANGED = "network_changed"
    STOPPED = "stopped"  # by ourselves


@dataclass(frozen=True, slots=True)
class Resolve:
    """Ask the seeds, in this order of preference, which node serves `address`."""

    seeds: tuple[str, ...]
    address: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a websocket to this node, by the way that connects first (`nconnect.nkn.ways`)."""

    node: NodeInfo
    timeout_s: float
    ways: tuple[Way, ...] = (PLAIN_WAY,)


@dataclass(frozen=True, slots=True)
class SendText:
    text: str


@dataclass(frozen=True, slots=True)
class SendBinary:
    data: bytes


@dataclass(frozen=True, slots=True)
class SendPing:
    """Send a websocket ping, and report its pong."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Abandon the resolve, connect or connection that is in progress."""

    why: str


@dataclass(frozen=True, slots=True)
class LinkUp:
    """Logged in: messages may be sent."""

    node: NodeInfo


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The link broke, or another attempt at it failed; `why` is a sentence for a user."""

    why: str
    reason: DownReason


@dataclass(frozen=True, slots=True)
class Waived:
    """What this node does not require. Always comes between login and `LinkUp`, even if it is empty."""

    signatures: bool
    mask: bool


Output = Resolve | Connect | SendText | SendBinary | SendPing | Disconnect | LinkUp | LinkDown | Waived


@dataclass(slots=True)
class LinkCounters:
    """What happened to a link since it was made."""

    logins: int = 0
    receipts: int = 0
    bad_frames: int = 0  # malformed, or not allowed from a node at that time
    ignored_actions: int = 0  # well-formed, but not for a client
