"""Every error this project raises, and every reason for which the tunnel and its driver drop a packet.

An error's text is one line that says what is wrong and what to do about it; the command line prints it
unchanged. Hostile bytes never end a batch with an error: they are dropped, counted under a `DropReason`.

To add a drop reason: a member of `DropReason`; count it where the packet is refused (in the tunnel,
`peer.drops[DropReason.…] += 1`, or `drops` of the part if no peer is known); a row in docs/protocol.md
("Refusals"), and its name in the last column of docs/architecture.md ("A packet's way"); a sentence in
`REASONS` of lab/reference/metrics.py, then `scripts/reference`; a test that asserts it by name. `status`
and the metrics show it without further work if it is counted in the `drops` of a peer, the tunnel or the
driver; those of another part are added in `nconnect.daemon.backend`. The firewall's reasons are counters of
`nconnect.host.nft`; a node has its own (`nconnect.node`, `NodeDrop`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

NO_LINK = "no link to a node"  # the beginning of `status`'s problem when no link is up


class NconnectError(Exception):
    """Base of all errors that a user may see; the text is one line: what is wrong, and what to do."""

    exit_status = 1


class UsageError(NconnectError):
    """The command line is contradictory or incomplete (exit status 2)."""

    exit_status = 2


class ConfigError(NconnectError):
    """The configuration cannot be used. `problems` has one line for each mistake found in it."""

    exit_status = 2

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class LocalProtocolError(NconnectError):
    """The caller used a client or protocol machine in a way that its state forbids: a bug in the caller."""


class RemoteProtocolError(NconnectError):
    """The other side broke the protocol. Raised by receive calls only."""


class NetworkError(NconnectError):
    """A node or a seed cannot be reached, or refused us."""


class WayOutError(NetworkError):
    """This device's own network blocks us, whichever seed or node is asked. The text is a sentence."""


class ProxyError(WayOutError):
    """The proxy cannot be reached, refuses us, or does not speak the protocol that its URL names."""


class LoginPageError(WayOutError):
    """A captive portal answered instead of a seed: a person must log in to the network first."""

    def __init__(self, url: str, *, by_itself: bool = False) -> None:
        """`url`: the page, cleaned (`wire.login_page`). `by_itself`: the answer was the page itself."""
        perhaps = " (if that is not a login page, the address is not an NKN seed's)" if by_itself else ""
        super().__init__(f"this network shows a login page: open {url} in a browser{perhaps}")


class TlsError(NetworkError):
    """TLS with a server failed, or its certificate is refused."""

    def __init__(self, what: str, mend: str) -> None:
        """`what` is wrong, and what to do (`mend`): two clauses of one line."""
        super().__init__(f"{what}: {mend}")
        self.what = what
        self.mend = mend


class NotConnected(NetworkError):
    """A client (`nconnect.nkn`) has no link to a node, so nothing was sent."""


class NoReply(NetworkError):
    """A message was sent but not answered in time."""

    def __init__(self, text: str, *, replies: Mapping[str, object], missing: Iterable[str]) -> None:
        """`replies`: those that arrived, by destination. `missing`: the destinations that did not answer."""
        super().__init__(text)
        self.replies = dict(replies)
        self.missing = tuple(missing)


class StreamError(NetworkError):
    """A stream (`nconnect.nkn`) could not be opened, or ended before everything had arrived."""


class StreamClosed(LocalProtocolError):
    """A stream (`nconnect.nkn`) was used after it was closed here."""


class ClientClosed(LocalProtocolError):
    """A client (`nconnect.nkn`) was used before it was entered, or after it was closed."""


class TooBig(LocalProtocolError):
    """More than the network carries in one message."""


class HostError(NconnectError):
    """The kernel, or a program that configures it, refused a request of ours."""


class ControlError(NconnectError):
    """The daemon's control socket did not answer, or refused the request."""


class DropReason(Enum):
    """Why a packet, a message or a frame was not delivered. Values are the names in `status --json`."""

    # On arrival from the network. (docs/protocol.md, "Refusals", has the order of the checks.)
    NOT_OURS = "not_ours"  # an NKN message that is not a tunnel frame
    UNKNOWN_PEER = "unknown_peer"  # a sender that is not in the peer table
    MALFORMED = "malformed"  # too short, too long, or fields that contradict each other
    WRONG_VERSION = "wrong_version"
    HANDSHAKE_REFUSED = "handshake_refused"  # does not decrypt, or names another static key
    HANDSHAKE_REPLAYED = "handshake_replayed"  # its counter is not above the last one
    HANDSHAKE_FLOOD = "handshake_flood"  # more initiations a second than a peer may send
    NO_SESSION = "no_session"  # a receiver index that we never assigned, or have forgotten
    KEY_EXPIRED = "key_expired"
    REPLAYED = "replayed"
    NOT_AUTHENTIC = "not_authentic"
    BAD_RECORD = "bad_record"  # sealed correctly, but not a well-formed list of records
    BAD_OFFLOAD_HEADER = "bad_offload_header"  # the virtio-net header contradicts its packet
    BAD_PACKET = "bad_packet"  # not a well-formed IPv4 or IPv6 header
    SPOOFED_SOURCE = "spoofed_source"  # the source address is not in this peer's allowed_ips
    BAD_CANDIDATE = "bad_candidate"  # a peer's address that no direct path leads to: loopback, multicast, …
    FOREIGN_ERROR = "foreign_error"  # an ICMP error about a packet that did not go to this peer
    BAD_STATEMENT = "bad_statement"  # a part of a statement that is malformed, too big, or one of too many
    CONGESTION = "congestion"  # a router marked its datagram, and its sender knows no marks (RFC 6040)
    PEER_EXPIRED = "peer_expired"
    PEER_LEFT = "peer_left"
    OVER_RATE = "over_rate"
    # On the way out through the tunnel.
    NO_ROUTE = "no_route"  # no peer's allowed_ips contain the destination
    NO_KEY = "no_key"  # waited too long for a handshake
    QUEUE_FULL = "queue_full"
    QUEUE_DELAY = "queue_delay"  # CoDel: waited in the queue for too long
    TOO_BIG = "too_big"
    LINK_DOWN = "link_down"
    # Refused by the kernel.
    TUN_REFUSED = "tun_refused"
