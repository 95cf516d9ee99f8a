"""What can be configured of a node, and the default bounds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from nconnect.wire.actions import Waiver

# The official node's limits of calls and connections a second, with the bursts above them.
OFFICIAL_RATE_PER_S = 10.0  # for each IP address: its WsIPRateLimit and RPCIPRateLimit
OFFICIAL_BURST = 100  # its WsIPRateBurst and RPCIPRateBurst
OFFICIAL_RPC_RATE_PER_S = 1024.0  # RPC calls of all addresses together: its RPCRateLimit
OFFICIAL_RPC_BURST = 4096  # its RPCRateBurst

LOGIN_TIMEOUT_S = 10.0  # the official node drops a silent connection after as long
PING_INTERVAL_S = 20.0  # guessed: only for clients that were silent meanwhile; SDKs ping us every 8 s
IDLE_TIMEOUT_S = 60.0  # guessed: two pings unanswered
STALL_TIMEOUT_S = 60.0  # guessed: a client that reads nothing for so long is gone or hostile
MAX_CONNECTIONS_PER_ADDRESS = 16  # guessed: a client that reconnects leaves a dead connection for a minute
SOURCES = 16  # guessed: it takes this many addresses to fill a node
MIN_SOURCE_SHARE = 16  # guessed: a household's devices with four links each
# A message to several clients has one payload for each, and these differ by a few bytes: compressed, those of
# the official SDK's four sub-clients take a quarter. So expansion by this factor is free.
INFLATES_FREELY = 4
INFLATES_AT_ONCE = 1 << 20  # measured: ten milliseconds of the loop; for one message, beyond what is free
MAX_DESTS_PER_MESSAGE = 256  # guessed: an SDK's MultiClient sends to 4 at a time
MAX_HOLDING_S = 3 * 86_400.0  # guessed: a weekend; a sender may ask for less
HOLDING_RATE_PER_S = 64.0  # guessed: enough for people's messages; the burst is four times as many
BLOCK_INTERVAL_S = 20.0  # the official network's block time


class NodeDrop(Enum):
    """Why the node dropped a message or closed a connection. Values are the names in `stats()`."""

    # A connection is refused, or closed.
    TOO_MANY_CONNECTIONS = "too_many_connections"
    RATE_LIMITED = "rate_limited"
    LOGIN_TIMEOUT = "login_timeout"
    BAD_LOGIN = "bad_login"  # wrong signature, or not a valid login request
    DISPLACED = "displaced"  # gave way to another: too many with one NKN address, or of the largest source
    IDLE = "idle"  # no frame for a minute
    STALLED = "stalled"  # took nothing from its socket for a minute, or keeps asking without reading answers
    # A frame from a client.
    NOT_LOGGED_IN = "not_logged_in"  # a binary frame before the login
    MALFORMED = "malformed"
    TOO_BIG = "too_big"
    TOO_MANY_DESTS = "too_many_dests"
    INFLATES_TOO_FAR = "inflates_too_far"  # compressed, and beyond what its source may have us decompress
    BAD_SIGNATURE = "bad_signature"
    BAD_RECEIPT = "bad_receipt"
    # A well-formed message.
    UNKNOWN_DEST = "unknown_dest"
    QUEUE_FULL = "queue_full"  # the destination's queue
    NODE_FULL = "node_full"  # all queues together
    CLIENT_GONE = "client_gone"  # the destination left while the message was held back
    HOLDING_FULL = "holding_full"  # no room to keep it for a client that is offline
    HELD_TOO_LONG = "held_too_long"  # it waited for an offline client until it expired


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """A node's settings; every bound has a default. Sizes are in bytes, durations in seconds."""

    verify_signatures: bool = False  # check every outbound signature, ask for receipts and check them
    waive_signatures: bool = True  # tell clients to leave them out (never if we verify)
    waive_mask: bool = True  # tell clients to send websocket frames unmasked
    reorder: bool = False  # tests: disturb the order as the official node does
    max_connections: int = 16_384  # under the usual bound of 20,000 descriptors
    source_connections: int | None = None  # of one IPv4 address or IPv6 /64; None: see `source_share`
    max_logins: int = 1024  # connections that have not logged in: at most 18 KB each
    client_queue_bytes: int = 8 << 20  # two sessions of official SDKs, which keep 4 MiB in flight
    node_queue_bytes: int = 24 << 20
    holding_bytes: int = 12 << 20  # mail of all offline clients; 0: nothing is kept
    client_holding_bytes: int = 4 << 20  # mail of one client: one of the largest messages
    client_holding_messages: int = 1024  # mail of one client
    max_holding_s: float = MAX_HOLDING_S
    holding_rate_per_s: float | None = (
        HOLDING_RATE_PER_S  # messages of one source to clients that are offline
    )
    rate_per_s: float | None = OFFICIAL_RATE_PER_S  # of RPC calls, and of connections, for each host
    burst: int = OFFICIAL_BURST
    rpc_rate_per_s: float | None = OFFICIAL_RPC_RATE_PER_S  # of RPC calls, for all hosts together
    rpc_burst: int = OFFICIAL_RPC_BURST
    inflated_rate: int = 2 << 20  # bytes a second that a source may have us decompress, beyond what is free
    login_timeout_s: float = LOGIN_TIMEOUT_S
    ping_interval_s: float = PING_INTERVAL_S
    idle_timeout_s: float = IDLE_TIMEOUT_S
    stall_timeout_s: float = STALL_TIMEOUT_S

    def with_rate(self, rate_per_s: float) -> NodeSettings:
        """Settings with this limit for each host, and a burst in proportion; 0 removes the limits."""
        burst = max(1, round(OFFICIAL_BURST / OFFICIAL_RATE_PER_S * rate_per_s))
        if not rate_per_s:
            everything = self.source_connections or self.max_connections
            return replace(
                self,
                rate_per_s=None,
                burst=burst,
                rpc_rate_per_s=None,
                holding_rate_per_s=None,
                source_connections=everything,
                max_logins=self.max_connections,
            )
        return replace(self, rate_per_s=rate_per_s, burst=burst)

    def with_memory(self, queue_mb: int | None, mail_mb: int | None) -> NodeSettings:
        """Settings with these bounds, in MiB, for queues of slow clients and for mail of offline ones.

        One client may have a third of each, as by default.
        """
        settings = self
        if queue_mb is not None:
            size = queue_mb << 20
            settings = replace(settings, node_queue_bytes=size, client_queue_bytes=size // 3)
        if mail_mb is not None:
            size = mail_mb << 20
            settings = replace(settings, holding_bytes=size, client_holding_bytes=size // 3)
        return settings

    @property
    def source_share(self) -> int:
        """How many connections one source may hold."""
        if self.source_connections is not None:
            return self.source_connections
        return max(MIN_SOURCE_SHARE, self.max_connections // SOURCES)

    @property
    def waives(self) -> frozenset[Waiver]:
        """What clients are told that they may leave out."""
        waived = set()
        if self.waive_signatures and not self.verify_signatures:
            waived.add(Waiver.SIGNATURES)
        if self.waive_mask:
            waived.add(Waiver.MASK)
        return frozenset(waived)
