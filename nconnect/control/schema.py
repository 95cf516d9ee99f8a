"""The answers of the API as values. The JSON names are the fields' names, and are never renamed.

Unknown values are null. Times `_at` are seconds since the Unix epoch, `_s` and `_ms` are durations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

LINK_STATES = ("connecting", "up", "down")
PEER_STATES = ("never", "handshaking", "up", "stale", "expired")
PATHS = ("node", "direct")
DIRECT_STATES = ("off", "search", "up", "failed")
DIRECT_KINDS = ("udp", "tcp")
NATS = ("unknown", "none", "easy", "hard", "blocked")
PAUSED_BY = ("self", "quota", "peer")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """One websocket to a node."""

    node: str  # HOST:PORT, "" while none is known
    state: str  # of LINK_STATES
    rtt_ms: float | None = None
    why: str = ""  # what keeps it from being up, one sentence
    reconnects: int = 0
    shared_with: int | None = None  # the number of the link at the same node that stands in for it
    tx_bytes: int = 0  # of batches to and from peers
    rx_bytes: int = 0
    share: float | None = None  # of all links' traffic, 0 to 1
    proxy: str | None = None  # HOST:PORT of the proxy on the way to the node; null: none
    tls: bool = False  # the websocket is wss
    port: int | None = None  # the node's; null while none is known


@dataclass(frozen=True, slots=True)
class DirectStatus:
    """The path to a peer without a node."""

    state: str = "off"  # of DIRECT_STATES; off: none is looked for, also since nothing is sent
    kind: str | None = None  # of DIRECT_KINDS, while up
    local: str | None = None  # ADDRESS:PORT of this device as the peer sees it, while up
    remote: str | None = None  # ADDRESS:PORT, while up
    rtt_ms: float | None = None
    mtu: int | None = None  # the largest datagram in bytes (UDP payload), while up
    why: str = ""  # there is none, a sentence


@dataclass(frozen=True, slots=True)
class DirectHere:
    """What this device has for direct paths, to whatever peer."""

    port: int | None = None  # UDP and TCP; null: `direct` is off
    nat: str = "unknown"  # of NATS: the NAT before this device, as STUN servers see it
    public: tuple[str, ...] = ()  # ADDRESS:PORT that the internet sees
    mapped: tuple[str, ...] = ()  # ADDRESS:PORT that the router sends on to `port`
    unmapped: str = ""  # why the router sends none on, or not for IPv6; "" also where it is not asked
    refused: tuple[str, ...] = ()  # what drops TCP to `port` on this machine, and what lets it in


@dataclass(frozen=True, slots=True)
class PausedStatus:
    """Why connections to and from a peer are refused for now."""

    why: str  # a person's words, "" without any
    by: str  # of PAUSED_BY; self: this side's configuration, quota: this side's quota, peer: the other side


@dataclass(frozen=True, slots=True)
class UsedPeriod:
    """What a peer used in one hour or day (UTC) that begins at `at`."""

    at: float
    rx_bytes: int
    tx_bytes: int
    flows: int  # connections that were opened, either way
    connected_s: float


@dataclass(frozen=True, slots=True)
class PeerUsage:
    """What one peer used, of the days since the report's beginning; a peer that was removed too."""

    name: str
    address: str
    rx_bytes: int
    tx_bytes: int
    flows: int
    connected_s: float
    last_seen_at: float | None
    hours: tuple[UsedPeriod, ...]  # those of the last two months
    days: tuple[UsedPeriod, ...]


@dataclass(frozen=True, slots=True)
class UsageReport:
    """`nconnect usage`: of each peer that was ever here, or that the configuration has."""

    interface: str
    since: float
    peers: tuple[PeerUsage, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> UsageReport:
        """Read what a daemon answered; raises `KeyError`, `TypeError` or `ValueError` when it is none."""
        peers = []
        for peer in value["peers"]:
            found = known(PeerUsage, peer)
            for key in ("hours", "days"):
                found[key] = tuple(UsedPeriod(**known(UsedPeriod, period)) for period in peer[key])
            peers.append(PeerUsage(**found))
        return cls(str(value["interface"]), float(value["since"]), tuple(peers))


@dataclass(frozen=True, slots=True)
class SkippedRoute:
    """A prefix that is not routed into the tunnel, and the reason in one sentence."""

    route: str
    why: str


@dataclass(frozen=True, slots=True)
class MappedRoute:
    """A network of a peer that this device sees under other addresses (1:1)."""

    real: str
    seen: str


@dataclass(frozen=True, slots=True)
class UsedBytes:
    """Of inner packets."""

    rx_bytes: int = 0
    tx_bytes: int = 0


@dataclass(frozen=True, slots=True)
class UsageStatus:
    """In the present day and month (UTC)."""

    day: UsedBytes = UsedBytes()
    month: UsedBytes = UsedBytes()


@dataclass(frozen=True, slots=True)
class OfferedServerStatus:
    """A server that a peer offers."""

    name: str
    url: str  # as this device reaches it
    names: tuple[str, ...] = ()  # host names of it that resolve here
    models: tuple[str, ...] = ()  # as the server lists them itself
    allowed: bool = False  # it can be used: it is in force here, and the peer is not paused


@dataclass(frozen=True, slots=True)
class OffersStatus:
    """What a peer offers to this device now; empty without a session."""

    subnets: tuple[str, ...] = ()  # as the peer calls them
    allow: tuple[str, ...] | None = None  # what of them this device may reach; null: all
    servers: tuple[OfferedServerStatus, ...] = ()
    told: bool = False  # the peer has said what it offers, if that is nothing too


@dataclass(frozen=True, slots=True)
class OfferLine:
    """A line of `nconnect offers`."""

    provider: str
    server: str
    url: str
    names: tuple[str, ...]
    models: tuple[str, ...]
    allowed: bool


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One peer: its settings, its session, its counters (inner packets and their bytes)."""

    name: str
    address: str
    allowed_ips: tuple[str, ...]
    allow: tuple[str, ...] | None  # null: all that is provided
    state: str  # of PEER_STATES
    path: str = "node"  # of PATHS
    cipher: str | None = None
    last_handshake_at: float | None = None
    expires: float | None = None  # seconds since the Unix epoch
    rtt_ms: float | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0
    drops: Mapping[str, int] = field(default_factory=dict)  # by DropReason's value
    handshake_age_s: float | None = None
    queue_bytes: int = 0
    direct: DirectStatus = DirectStatus()
    paused: PausedStatus | None = None  # null: it is not
    offers: OffersStatus = OffersStatus()
    last_seen_at: float | None = None  # when anything authentic was last received, in earlier runs too
    has_left: bool = False  # it said that its tunnel stops, and is not back
    usage: UsageStatus = UsageStatus()
    mapped: tuple[MappedRoute, ...] = ()  # of `allowed_ips`, and the tunnel's network
    waiting: tuple[SkippedRoute, ...] = ()  # what it offers and nobody here has accepted


@dataclass(frozen=True, slots=True)
class Status:
    """One running interface. `problems` are sentences: what is wrong, and what to do."""

    interface: str
    address: str  # the NKN address
    public_key: str  # hex
    links: tuple[LinkStatus, ...]
    peers: tuple[PeerStatus, ...]
    routes: tuple[str, ...]
    skipped_routes: tuple[SkippedRoute, ...]
    addresses: tuple[str, ...] = ()  # the interface's own
    version: str = ""
    pid: int = 0
    started_at: float | None = None
    problems: tuple[str, ...] = ()
    direct: DirectHere = DirectHere()
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # that resolve -> their addresses
    names_by: str = ""  # how: "systemd-resolved" or "hosts" (the hosts file)
    names_dropped: Mapping[str, int] = field(default_factory=dict)  # by peer: told, and not used
    drops: Mapping[str, int] = field(default_factory=dict)  # those of no single peer
    counters: Mapping[str, int] = field(default_factory=dict)  # the tunnel's own totals, by name

    def to_json(self) -> dict[str, Any]:
        """The object of the API and of `status --json`."""
        content: dict[str, Any] = to_json(self)
        return content

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Status:
        """Read what a daemon sent; unknown fields are ignored.

        Raises `KeyError`, `TypeError` or `ValueError` if it is not a status.
        """
        found = known(cls, value)
        found["links"] = tuple(LinkStatus(**known(LinkStatus, link)) for link in value["links"])
        found["peers"] = tuple(_peer(peer) for peer in value["peers"])
        found["skipped_routes"] = tuple(
            SkippedRoute(**known(SkippedRoute, route)) for route in value["skipped_routes"]
        )
        if "direct" in found:  # a daemon of an earlier version tells none
            found["direct"] = DirectHere(**known(DirectHere, found["direct"]))
        names = dict(value.get("names", {}))
        found["names"] = {str(name): tuple(map(str, told)) for name, told in names.items()}
        return cls(**found)


@dataclass(frozen=True, slots=True)
class PingReply:
    """The answer to one ping through the tunnel to a peer's daemon, and where its time went.

    The parts are measured separately, each slightly before the ping or with it.
    """

    peer: str
    rtt_ms: float
    node_ms: float | None = None  # between us and our node
    path: str = "node"
    peer_node_ms: float | None = None  # between the peer and its node, as it says
    rest_ms: float | None = None  # what is left: the nodes, the way between them, both daemons

    @classmethod
    def from_json(cls, peer: str, value: Mapping[str, Any]) -> PingReply:
        """Read what a daemon answered; raises `KeyError`, `TypeError` or `ValueError` when it is none."""
        found = known(cls, value) | {"peer": peer, "rtt_ms": float(value["rtt_ms"])}
        for name in ("node_ms", "peer_node_ms", "rest_ms"):
            if found.get(name) is not None:
                found[name] = float(found[name])
        return cls(**found)


@dataclass(frozen=True, slots=True)
class PendingPeer:
    """An address that is not a peer's and tried to reach us."""

    address: str
    first_at: float
    last_at: float
    count: int  # of its messages


def _peer(value: Mapping[str, Any]) -> PeerStatus:
    found = known(PeerStatus, value)
    if "direct" in found:  # a daemon of an earlier version tells none
        found["direct"] = DirectStatus(**known(DirectStatus, value["direct"]))
    if "usage" in found:
        used = found["usage"]
        found["usage"] = UsageStatus(**{key: UsedBytes(**known(UsedBytes, used[key])) for key in used})
    if "offers" in found:
        told = known(OffersStatus, found["offers"])
        servers = (OfferedServerStatus(**known(OfferedServerStatus, each)) for each in told["servers"])
        found["offers"] = OffersStatus(**(told | {"servers": tuple(servers)}))
    if found.get("paused") is not None:
        found["paused"] = PausedStatus(**known(PausedStatus, value["paused"]))
    if "mapped" in found:
        found["mapped"] = tuple(MappedRoute(**known(MappedRoute, each)) for each in value["mapped"])
    if "waiting" in found:
        found["waiting"] = tuple(SkippedRoute(**known(SkippedRoute, each)) for each in value["waiting"])
    return PeerStatus(**found)


def to_json(value: Any) -> Any:
    """A value of this module as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


def known(cls: type[Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """The members of a JSON object that are fields of `cls`, with lists as tuples."""
    names = {f.name for f in dataclasses.fields(cls)}
    return {
        key: tuple(item) if isinstance(item, list) else item for key, item in value.items() if key in names
    }
