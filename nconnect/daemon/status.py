"""The parts of what `status` says, each made from one of the daemon's parts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from nconnect.config.proxy import UNPROXIED, Proxies
from nconnect.config.values import format_allow_rule, parse_peer_address
from nconnect.control.schema import (
    DirectHere,
    DirectStatus,
    LinkStatus,
    MappedRoute,
    OfferedServerStatus,
    OffersStatus,
    PausedStatus,
    PeerStatus,
    PendingPeer,
    PingReply,
    SkippedRoute,
    UsageStatus,
)
from nconnect.errors import NO_LINK, ConfigError, DropReason
from nconnect.io.net.stream_link import StreamLink
from nconnect.model import MappedPrefix, NknAddress
from nconnect.nkn.link import Link
from nconnect.offers.accept import WaitingPrefix, moved
from nconnect.offers.name_codec import Names
from nconnect.offers.names import Provider
from nconnect.offers.shown import servers_of
from nconnect.offers.statement import Statement
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.paths.direct import reasons
from nconnect.tunnel.paths.direct.outputs import PathState
from nconnect.tunnel.paths.direct.path import DirectPath
from nconnect.tunnel.paths.direct.surroundings import Surroundings
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.pending import PendingSender
from nconnect.wire.jsonrpc import split_addr

PAST_A_PROXY = 'a proxy is used, and packets go past it only with direct = "on" in the configuration'
CLOCK_WARNING_HOURS = 1.0  # expiry dates are as wrong as the clock


def ping_reply(peer: str, rtt_s: float, node_s: float | None, peer_node_s: float | None) -> PingReply:
    """One ping's answer: the whole, the two ways to a node as they were measured last, and what is left."""

    def ms(seconds: float | None) -> float | None:
        return None if seconds is None else seconds * 1e3

    # The parts are measured by themselves: together they may be a little more than the whole.
    rest_s = None if node_s is None else max(0.0, rtt_s - node_s - (peer_node_s or 0.0))
    return PingReply(peer, rtt_s * 1e3, node_ms=ms(node_s), peer_node_ms=ms(peer_node_s), rest_ms=ms(rest_s))


def drops(*counted: Mapping[DropReason, int], link: Link) -> Counter[str]:
    """What was dropped that belongs to no peer, by reason; `link` is the one that is up."""
    total: Counter[str] = Counter()
    for counts in counted:
        for reason, count in counts.items():
            total[reason.value] += count
    for name in ("bad_frames", "ignored_actions"):
        if count := getattr(link.counters, name):
            total[name] += count
    return total


def problems(link: Link, peers: Iterable[Peer], now: float) -> list[str]:
    """What is wrong with the way to the peers, the clocks and the keys, a sentence each."""
    found = []
    if not link.is_up:
        found.append(f"{NO_LINK}: {link.last_error or 'still connecting'}")
    for peer in peers:
        if peer.shared_key.is_ours(now):
            found.append(
                f"another device uses this device's key too, {peer.name} says, and they have the session in"
                " turns: give one of them a key of its own, by `nconnect join` with a new invitation, or"
                " `nconnect init`"
            )
        if peer.shared_key.is_peers(now):
            found.append(
                f"another device uses the key of {peer.name} too, and they have the session in turns: give"
                " one of them a key of its own, by `nconnect invite` here and `nconnect join` there"
            )
        hours = abs(peer.handshake.clock_ahead_s) / 3600
        if hours > CLOCK_WARNING_HOURS:
            found.append(
                f"the clocks here and at {peer.name} differ by {hours:.0f} hours:"
                " set the one that is wrong (`timedatectl set-ntp true`)"
            )
    return found


def pending_peers(pending: Iterable[PendingSender], now: float) -> list[PendingPeer]:
    """Who tried to come in, by bare address, the latest last. `now` is CLOCK_BOOTTIME."""
    wall = time.time() - now
    found: dict[str, PendingPeer] = {}
    for sender in pending:
        try:
            address = str(parse_peer_address(str(NknAddress.parse(sender.address).bare)))
        except ConfigError:
            continue  # nobody could be let in under it
        known = found.get(address, PendingPeer(address, sender.first_at + wall, 0.0, 0))
        found[address] = PendingPeer(
            address,
            min(known.first_at, sender.first_at + wall),
            max(known.last_at, sender.last_at + wall),
            known.count + sender.count,
        )
    return sorted(found.values(), key=lambda peer: peer.last_at)


def link_statuses(
    links: Sequence[Link],
    shared_with: Sequence[int | None],
    tunnel: Tunnel,
    proxies: Proxies = UNPROXIED,
) -> tuple[LinkStatus, ...]:
    """By number; one that another stands in for has that one's node and state."""
    traffic = [tunnel.traffic_of(number) for number in range(len(links))]
    total = sum(tx + rx for tx, rx in traffic)
    found = []
    for number, (link, other) in enumerate(zip(links, shared_with, strict=True)):
        seen = link if other is None else links[other]
        tx, rx = traffic[number]
        place = split_addr(seen.node.addr) if seen.node else None
        proxy = proxies.to(*place) if place else None
        found.append(
            LinkStatus(
                node=seen.node.addr if seen.node else "",
                state=seen.state.word,
                rtt_ms=None if seen.rtt_s is None else seen.rtt_s * 1e3,
                why=seen.last_error,
                reconnects=link.reconnects,
                shared_with=other,
                tx_bytes=tx,
                rx_bytes=rx,
                share=(tx + rx) / total if total else None,
                proxy=None if proxy is None else str(proxy),
                tls=seen.way.secure,
                port=place[1] if place else None,
            )
        )
    return tuple(found)


def direct_here(around: Surroundings, unmapped: str, refused: tuple[str, ...]) -> DirectHere:
    """What this device has for direct paths; nothing while `direct` is off."""
    if not around.port:
        return DirectHere()
    own = {local.interface.ip for local in around.network.addresses}
    no_nat = bool(around.reflexive) and all(seen.address in own for seen in around.reflexive)
    return DirectHere(
        around.port,
        "none" if no_nat else around.verdict.name.lower(),
        tuple(map(str, around.reflexive)),
        tuple(map(str, around.mapped)),
        unmapped,
        refused,
    )


def _stream_status(peer: Peer, stream: StreamLink | None) -> DirectStatus | None:
    """That a direct TCP stream carries, if it does."""
    lane = peer.relayed.lanes.stream
    if stream is None or lane is None or lane.dead:
        return None
    return DirectStatus(
        "up", "tcp", remote=str(stream.remote), rtt_ms=None if lane.rtt_s is None else lane.rtt_s * 1e3
    )


def direct_status(path: DirectPath | None, proxies: Proxies) -> DirectStatus:
    """What there is of a direct path to a peer, and if it carries nothing, why."""
    if path is None:
        return DirectStatus()
    if path.mode == "off" and proxies.proxy is not None:
        return DirectStatus(why=PAST_A_PROXY)
    if path.remote is None:
        is_off = path.mode == "off" or path.why in (reasons.IDLE, reasons.NO_SESSION)
        state = "search" if path.state is PathState.SEARCH else "off" if is_off else "failed"
        return DirectStatus(state, why=path.why)
    return DirectStatus(
        "up",
        "udp",
        None if path.seen is None else str(path.seen),
        str(path.remote),
        None if path.rtt_s is None else path.rtt_s * 1e3,
        path.datagram_bytes,
        path.why,
    )


def offers_status(
    provider: Provider, peer_label: str, said: Statement | None, known: Names, refused: bool
) -> OffersStatus:
    """What a peer offers, as this device may use it; None: it has not said so yet."""
    told, said = said is not None, said or Statement()
    servers = servers_of(provider, peer_label, said, known, refused=refused)
    return OffersStatus(
        tuple(map(str, said.subnets)),
        None if said.allow is None else tuple(map(format_allow_rule, said.allow)),
        tuple(OfferedServerStatus(s.name, s.url, s.names, s.models, s.allowed) for s in servers),
        told,
    )


def peer_status(
    peer: Peer,
    tunnel: Tunnel,
    now: float,
    wall: float,
    refused: Mapping[str, Mapping[str, int]],
    proxies: Proxies = UNPROXIED,
    stream: StreamLink | None = None,
    waiting: Iterable[WaitingPrefix] = (),
    paused: PausedStatus | None = None,
    last_seen_at: float | None = None,
    used: UsageStatus | None = None,
    offers: OffersStatus | None = None,
) -> PeerStatus:
    """`waiting`: what the peer offers and is not in force. Prefixes are told as the peer calls them."""
    config = peer.config
    direct = _stream_status(peer, stream) or direct_status(peer.direct, proxies)
    drops = peer.all_drops()
    drops |= {reason: count for reason, count in refused.get(peer.name, {}).items() if count}
    pair = peer.session.current
    shaken_at = peer.handshake.finished_at
    to_real = [MappedPrefix(pair.seen, pair.real) for pair in config.mapped]
    return PeerStatus(
        name=peer.name,
        address=str(config.address),
        allowed_ips=tuple(str(moved(prefix, to_real)) for prefix in config.allowed_ips),
        mapped=tuple(MappedRoute(str(pair.real), str(pair.seen)) for pair in config.mapped),
        waiting=tuple(SkippedRoute(str(each.prefix), each.why) for each in waiting),
        allow=None if config.allow is None else tuple(format_allow_rule(rule) for rule in config.allow),
        state=peer.state.value,
        path="direct" if direct.state == "up" else "node",
        direct=direct,
        cipher=pair.cipher if pair else None,
        last_handshake_at=None if shaken_at is None else shaken_at + wall,
        handshake_age_s=None if shaken_at is None else now - shaken_at,
        expires=config.expires_at,
        rtt_ms=None if peer.rtt_s is None else peer.rtt_s * 1e3,
        rx_bytes=peer.traffic.rx_bytes,
        tx_bytes=peer.traffic.tx_bytes,
        rx_packets=peer.traffic.rx_packets,
        tx_packets=peer.traffic.tx_packets,
        drops=drops,
        queue_bytes=peer.path.bytes_held,
        paused=paused,
        offers=offers or OffersStatus(),
        last_seen_at=last_seen_at,
        has_left=peer.left_at is not None,
        usage=used or UsageStatus(),
    )
