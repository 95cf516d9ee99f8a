"""A packet's way in: from a message to packets for the TUN. Pure.

`BatchReceiver.receive` reads from top to bottom, in the order of docs/protocol.md ("Data", "Refusals"). Each
refusal is counted under its `DropReason`, for the peer where one is known. What need not be done before the
packets are written (timers, feedback, control frames) waits for `received`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from nconnect.crypto.aead import TAG_BYTES
from nconnect.errors import DropReason, RemoteProtocolError
from nconnect.ip import icmp, offload, packet
from nconnect.model import Buffer
from nconnect.tunnel.allowed_ips import AllowedIps
from nconnect.tunnel.constants import MAX_BATCH_BYTES
from nconnect.tunnel.outputs import Settings, TrafficBegan, Visitor
from nconnect.tunnel.paths.feedback import Arrivals
from nconnect.tunnel.paths.lanes import Lane
from nconnect.tunnel.paths.path import needed_feature
from nconnect.tunnel.paths.relayed import RelayedPath
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.pending import PendingSenders
from nconnect.tunnel.session import KeyPair
from nconnect.tunnel.sessions import Sessions
from nconnect.tunnel.strangers import Strangers
from nconnect.tunnel.timers import Timer
from nconnect.wire.message import Message
from nconnect.wire.tunnel import (
    DATA_HEADER,
    VERSION,
    VIRTIO_HEADER_BYTES,
    Feature,
    FrameKind,
    Record,
    RecordKind,
    read_records,
)
from nconnect.wire.tunnel_streams import is_stream_frame

MAX_SEALED_BYTES = MAX_BATCH_BYTES + TAG_BYTES  # we announce the former; more costs too long at once
_DATA = int(FrameKind.DATA)
_ALL = Feature.ALL  # an enum's member costs a look-up in its class
STATEMENTS = (RecordKind.STATEMENT, RecordKind.STATEMENT_ACK)
_split = RelayedPath.split


def no_leg(link: int) -> float | None:
    """Where nobody knows how far the node is."""
    return None


class BatchReceiver:
    """Opens what arrives. Part of `nconnect.tunnel.core.Tunnel`, which owns the tables it reads."""

    def __init__(
        self,
        sessions: Sessions,
        peers: Mapping[str, Peer],
        routes: AllowedIps[Peer],
        settings: Settings,
        now: float,
    ) -> None:
        self.drops: Counter[DropReason] = Counter()  # of no known peer
        self.pending = PendingSenders()
        self.closed = False  # nobody tends sessions any more
        self.awaits_traffic = False  # say `TrafficBegan` at the next packet
        # Whose packets `receive` gave back last, by NKN address. A message's own source proves nothing: a
        # peer can send what it sealed from any address.
        self.opened_from = ""
        # An authentic batch that `received` has yet to act on.
        self.opened: tuple[Peer, KeyPair, Arrivals, Lane, int, int, float] | None = None
        self._records: list[Record] = []  # the control frames in it
        self._sessions = sessions
        self._peers = peers
        self._routes = routes
        self._settings = settings
        self._strangers = Strangers()
        self._by_index = sessions.handshakes.by_index

    def receive(self, source: str, payload: memoryview, out: memoryview, now: float) -> list[memoryview]:
        """Take an NKN message's payload; the packets for the TUN in it, as views of `out`.

        `out` must hold `MAX_BATCH_BYTES`; the views are valid until the next call with it.
        """
        if self.opened is not None:
            self.received()
        if self.closed:  # an answer would begin a session that nobody tends
            return []
        # The frame of the relayed path; all that is no data frame is dealt with aside.
        try:
            frame = _split(payload) or self._not_a_plain_data_frame(source, payload, now)
        except RemoteProtocolError:
            self.drops[DropReason.MALFORMED] += 1
            return []
        if frame is None:
            return []
        header, sealed = frame
        version, kind, number, index, counter = DATA_HEADER.unpack(header)
        if version != VERSION or kind != _DATA:
            self.drops[DropReason.WRONG_VERSION] += 1
            return []
        # Whose keys these are. The index tells, never the source.
        entry = self._by_index.get(index)
        if entry is None:
            self._unknown_index(source, now)
            return []
        peer, pair = entry
        if not TAG_BYTES <= len(sealed) <= MAX_SEALED_BYTES:
            peer.drops[DropReason.MALFORMED] += 1
            return []
        # The keys' age, the replay window, the seal.
        newest = pair.window.newest
        size = pair.open_into(header, counter, sealed, out, now)
        if isinstance(size, DropReason):
            peer.drops[size] += 1
            return []
        # Authentic from here on. Which lane it came by, and which one leads back.
        path = peer.relayed
        if number or path.watches:
            arrivals, back = self._sessions.path_manager.heard_on(peer, number, now)
        else:
            arrivals, back = path.arrivals, path.lane
        self.opened = peer, pair, arrivals, back, counter, size, now
        self.opened_from = peer.dest
        try:
            packets, self._records = read_records(out[:size])
        except RemoteProtocolError:
            peer.drops[DropReason.BAD_RECORD] += 1
            return []
        datagrams = peer.datagrams
        if datagrams is not None and packets:  # some may have come in datagrams too
            packets = datagrams.copies.first_ones(index, counter, packets)
        # Each packet: well-formed, from the peer's own addresses, no error about others' packets.
        if packets:
            packets = self.check_sources(peer, packets, now)
        if datagrams is not None and datagrams.copies.waits:  # copies of what the relay brings next
            packets += self.check_sources(peer, datagrams.copies.relay_came(now), now)
        # In order again, where the path disturbs it.
        stripe: memoryview | None = None
        for kind, body in self._records:
            if kind == RecordKind.STRIPE:
                stripe = body
        order = path.order
        if stripe is not None:
            packets = path.stripe_came(stripe, packets, size, now)
        elif path.watches or (counter == newest + 1 and index == order.index and not order.waits):
            return packets
        else:
            packets = order.put(index, counter, newest, packets, size, now)
        peer.timers.set(Timer.REORDER, peer.overdue_at())
        self._sessions.timer_heap.schedule(peer)
        return packets

    def check_sources(self, peer: Peer, packets: list[memoryview], now: float) -> list[memoryview]:
        """The packets that this peer may send: well-formed, with its own source, with a sane header.

        An ICMP error must be about a packet that went to this peer: the kernel would apply it to whichever
        connection it quotes, another peer's or one outside of the tunnel too.

        They are translated first: from here on they have the addresses that are seen here.
        """
        routes, features = self._routes, self._settings.features
        cached = routes.source_cache.get
        finished = offload.FINISHED
        never_errors = icmp.NEVER_ERRORS
        traffic = peer.traffic
        translation, bounds = peer.translation, peer.traffic.bounds
        good = 0
        for record in packets:
            view = record[VIRTIO_HEADER_BYTES:]
            size = len(view)
            # An IPv4 header without options, the usual one, is told apart without a call.
            if not (
                size >= packet.IPV4_HEADER_BYTES and view[0] == 0x45 and size == view[2] << 8 | view[3]
            ) and not packet.is_well_formed(view):
                if not is_stream_frame(record):
                    peer.drops[DropReason.BAD_PACKET] += 1
                elif bounds is not None and not bounds.admits(size, now):
                    peer.drops[DropReason.OVER_RATE] += 1
                else:
                    traffic.rx_bytes += size
                    self._sessions.streams.receive(peer, record, now)
                continue
            if translation is not None:
                if record.readonly:
                    record = memoryview(bytearray(record))
                    view = record[VIRTIO_HEADER_BYTES:]
                translation.from_peer(record)
            if view[0] < 0x60:
                address = bytes(view[12:16])
                may_be_error = view[9] == packet.PROTOCOL_ICMP and not (
                    view[0] == 0x45 and size >= icmp.LEAST_IPV4_BYTES and view[20] in icmp.ECHO
                )
            else:
                address = bytes(view[8:24])
                may_be_error = view[6] not in never_errors
            if cached(address) is not peer and routes.source_owner(address) is not peer:
                peer.drops[DropReason.SPOOFED_SOURCE] += 1
                peer.statements.refused_source(address)
                continue
            if may_be_error and self._is_foreign_error(view, peer):
                peer.drops[DropReason.FOREIGN_ERROR] += 1
                continue
            if not (bytes(record[:VIRTIO_HEADER_BYTES]) in finished or offload.check(record)) or (
                features != _ALL and needed_feature(record) & ~features
            ):
                peer.drops[DropReason.BAD_OFFLOAD_HEADER] += 1
                continue
            if bounds is not None and not bounds.admits(size, now):
                peer.drops[DropReason.OVER_RATE] += 1
                continue
            packets[good] = record
            good += 1
            traffic.rx_bytes += size
        del packets[good:]
        traffic.rx_packets += good
        if self.awaits_traffic and good:
            self.traffic_began()
        return packets

    def traffic_began(self) -> None:
        """The packet that was awaited has gone or come."""
        self.awaits_traffic = False
        self._sessions.outputs.append(TrafficBegan())

    def _is_foreign_error(self, view: memoryview, peer: Peer) -> bool:
        """Whether this is an ICMP error, and not plainly about a packet that went to this peer."""
        address = icmp.quoted_destination(view)
        return address is not None and (
            address == icmp.UNREADABLE or self._routes.longest_match(address) is not peer
        )

    def received(
        self, is_busy: Callable[[], bool] = bool, leg_s: Callable[[int], float | None] = no_leg
    ) -> None:
        """Act on the batch that `receive` opened, if it did, after its packets are written.

        Both are asked only where a batch gives reason to. `is_busy`: whether more has arrived already than
        was handed to `receive`, which a report of what arrived must say. `leg_s`: the round trip of a link of
        ours to its node, which a pong tells.
        """
        if self.opened is None:
            return
        (peer, pair, arrivals, back, counter, size, now), self.opened = self.opened, None
        sessions = self._sessions
        sessions.batch_received(peer, pair, size, now)
        if peer.datagrams is not None:
            sessions.direct.batch_received(peer, now)
        if arrivals.received(pair.local_index, counter, size, now):
            report = arrivals.report(now, busy=is_busy())
            sessions.control_frames.send(peer, now, (RecordKind.FEEDBACK, report), lane=back)
        if not self._records:
            return
        records, self._records = self._records, []
        answered: set[int] = set()
        for kind, body in records:
            if kind in answered:  # one of a kind in a batch, or a peer could keep us busy with them
                continue
            answered.add(kind)
            if kind == RecordKind.CLOSE:
                if pair is peer.session.current:  # else it ended an older session, and comes late
                    sessions.close_received(peer, now)
                continue
            if kind in STATEMENTS:
                sessions.announcements.received(peer, kind, body, now, back)
                continue
            sessions.control_frames.received(peer, kind, body, now, back, is_busy, leg_s)
        sessions.direct.settle(peer, now)

    # What is no data of a peer's session

    def _not_a_plain_data_frame(
        self, source: str, payload: memoryview, now: float
    ) -> tuple[bytes, Buffer] | None:
        """(header, sealed batch) of a data frame in an unusual layout; all else is dealt with here."""
        peer = self._peer_at(source)
        if peer is None and not self._is_heard(source, now):
            return None
        message = Message.decode(payload)
        if message.encrypted and len(message.nonce) == DATA_HEADER.size:
            return message.nonce, message.payload
        if not message.encrypted:
            self._sessions.outputs.append(Visitor(source, bytes(message.payload), now))
        elif peer is None:
            self._unknown_sender(source, now)
        else:
            self._sessions.receive_handshake(peer, message, now, source)
        return None

    def turn_away(self, source: str, now: float) -> None:
        """Count a `Visitor` that deserves no answer."""
        peer = self._peer_at(source)
        if peer is None:
            self._unknown_sender(source, now)
        else:
            peer.drops[DropReason.PEER_EXPIRED if peer.expired else DropReason.NOT_OURS] += 1

    def _unknown_index(self, source: str, now: float) -> None:
        """Keys that we do not hold. A peer of ours that uses them has not noticed that we restarted: tell it.

        Telling is an ordinary handshake of ours, at most one under way for each peer, so a node that
        makes such messages up gains nothing.
        """
        peer = self._peer_at(source)
        if peer is None:
            if self._is_heard(source, now):
                self._unknown_sender(source, now)
            return
        if peer.expired:
            peer.drops[DropReason.PEER_EXPIRED] += 1
            return
        peer.drops[DropReason.NO_SESSION] += 1
        if peer.session.current is None:
            self._sessions.handshakes.initiate(peer, now)

    def _peer_at(self, source: str) -> Peer | None:
        """Whose NKN address this is, a sub-client's included."""
        peer = self._peers.get(source)
        if peer is None and source.startswith("__"):
            peer = self._peers.get(source.partition(".")[2])
        return peer

    def _is_heard(self, source: str, now: float) -> bool:
        """Whether to look at a message of a sender that is no peer; if not, it is counted.

        Of each a few messages are looked at, so that a flood of theirs costs next to nothing.
        """
        if self._strangers.admits(source, now):
            return True
        self.drops[DropReason.UNKNOWN_PEER] += 1
        return False

    def _unknown_sender(self, source: str, now: float) -> None:
        self.drops[DropReason.UNKNOWN_PEER] += 1
        if self._settings.accept_pending:
            self.pending.tried(source, now)
