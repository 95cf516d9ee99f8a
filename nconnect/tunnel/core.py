"""The tunnel as a pure machine: packets and NKN messages in, NKN messages and packets out.

Contract. One task owns it. Nothing here reads a clock, a socket or the system's randomness: every call that
depends on time takes `now` (seconds, CLOCK_BOOTTIME), and the constructor takes `rng` and `wall_clock_ns`.

Data lane, direct calls without an object per packet:

    peer = tunnel.routes.owner(destination)         whose packet is it
    tunnel.enqueue(peer, record, now)               let it wait in the peer's fair queue
    tunnel.can_seal(peer, now)                      False: a handshake has been started, enqueue instead
    prefix, size = tunnel.seal(peer, batch, out, now)
    packets = tunnel.receive(source, payload, out, now)

Control lane: after any call, drain `poll_output()` until it gives None, and call `handle_timeout(now)` at
`poll_timeout()`. Hostile input never raises here: it is counted under a `DropReason`, for the peer where one
is known, else in `drops`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf

from nconnect.crypto.aead import TAG_BYTES
from nconnect.crypto.keys import Identity
from nconnect.errors import DropReason, RemoteProtocolError
from nconnect.ip import offload, packet
from nconnect.model import Deadline, NknAddress, PeerConfig
from nconnect.tunnel.admission import admitted, needed_feature
from nconnect.tunnel.allowed_ips import AllowedIps
from nconnect.tunnel.batch import put_record, read_records
from nconnect.tunnel.constants import MAX_PENDING_SENDERS, UNANSWERED_S
from nconnect.tunnel.handshake import Rng
from nconnect.tunnel.outputs import Output, Settings
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.sessions import Sessions
from nconnect.tunnel.timers import NEVER, Timer
from nconnect.wire.nkn import Message
from nconnect.wire.tunnel import (
    DATA_HEADER,
    MAX_PACKET_BODY_BYTES,
    RECORD_HEADER_BYTES,
    VERSION,
    VIRTIO_HEADER_BYTES,
    Feature,
    FrameKind,
    RecordKind,
    data_frame,
    split_data_frame,
)

Buffer = bytes | bytearray | memoryview
SEAL_BYTES = TAG_BYTES  # what a sealed batch is longer than the batch
NO_LIMIT = 1 << 30
UNIT_S = 0.004  # as long as the pacer's burst: a token waits for no more than that
MAX_SOURCE_CHARS = 256  # of a pending sender's address


@dataclass(slots=True)
class PendingSender:
    """An unknown address that tried to reach us."""

    first_at: float
    last_at: float
    count: int


class Tunnel:
    """All peers of one interface. See the module's text for how to drive it."""

    def __init__(
        self,
        identity: Identity,
        address: NknAddress,
        peers: Iterable[PeerConfig],
        settings: Settings,
        *,
        now: float,
        rng: Rng,
        wall_clock_ns: Callable[[], int],
        counters: Mapping[str, int] | None = None,
    ) -> None:
        """`counters` is what `counters()` gave when the last run ended."""
        self.settings = settings
        self.routes: AllowedIps[Peer] = AllowedIps()
        self.peers: dict[str, Peer] = {}  # by bare NKN address
        self.drops: Counter[DropReason] = Counter()  # of no known peer
        self.pending: dict[str, PendingSender] = {}
        self.backlog: dict[Peer, None] = {}  # peers with packets that wait, in the order of their turn
        self.link_rate: float | None = None  # bytes a second of a slow link, set by the driver
        # Asked about what is not encrypted, from anybody; False when it is to be counted and dropped.
        self.on_visitor: Callable[[str, Buffer, float], bool] | None = None
        self._closed = False
        self._identity = identity
        self._stored = dict(counters or {})
        self._sessions = Sessions(
            identity,
            address,
            settings,
            rng=rng,
            wall_clock_ns=wall_clock_ns,
            last_counter=self._stored.get("self", 0),
        )
        self._by_index = self._sessions.by_index
        self.set_peers(peers, now)

    def ask_busy(self, is_busy: Callable[[], bool]) -> None:
        """How to find out whether more has arrived already than was handed to `receive`."""
        self._sessions.is_busy = is_busy

    # The peer table

    def set_peers(self, configs: Iterable[PeerConfig], now: float) -> None:
        """Make the table be `configs`. A peer whose key material did not change keeps its session.

        A removed peer's keys are erased at once. Raises ValueError for a public key that is none; the
        table is then unchanged.
        """
        configs = tuple(configs)
        fresh: dict[str, Peer] = {}
        for config in configs:
            dest = str(config.address)
            old = self.peers.get(dest)
            if old is not None and old.config.preshared_key == config.preshared_key:
                fresh[dest] = old
            else:
                fresh[dest] = Peer(config, self._identity, now)
                fresh[dest].last_counter = old.last_counter if old else self._stored.get(dest, 0)
        by_dest = {str(config.address): config for config in configs}
        for dest, peer in self.peers.items():
            if fresh.get(dest) is not peer:
                self._sessions.end(peer)
                self.backlog.pop(peer, None)
                self._stored[dest] = peer.last_counter
                peer.check_at = NEVER
        self.peers = fresh
        self.routes = AllowedIps((prefix, fresh[d]) for d, c in by_dest.items() for prefix in c.allowed_ips)
        for dest, peer in fresh.items():
            peer.config = by_dest[dest]
            self.pending.pop(dest, None)
            self._sessions.check_expiry(peer, now)
            if (
                self.settings.persistent
                and not peer.expired
                and not peer.timers.is_set(Timer.PERSISTENT_KEEPALIVE)
            ):
                peer.timers.set(Timer.PERSISTENT_KEEPALIVE, now)
            self._sessions.schedule(peer)

    def peer_named(self, name: str) -> Peer | None:
        return next((peer for peer in self.peers.values() if peer.name == name), None)

    def counters(self) -> dict[str, int]:
        """What must outlive a restart: our last handshake counter, and each peer's."""
        kept = dict(self._stored)
        kept.update({dest: peer.last_counter for dest, peer in self.peers.items() if peer.last_counter})
        kept["self"] = self._sessions.last_counter
        return kept

    # Data lane: to the network

    def can_seal(self, peer: Peer, now: float) -> bool:
        """Whether there is a key to send under. If not, a handshake is under way when this returns."""
        return self._sessions.can_send(peer, now)

    def seal(self, peer: Peer, batch: Buffer, out: memoryview, now: float) -> tuple[bytes, int]:
        """Seal a batch into `out`, which needs `SEAL_BYTES` more room: (message prefix, bytes in `out`).

        Prefix and sealed bytes, one after another, are the payload of one NKN message to `peer.dest`.
        Only after `can_seal`.
        """
        pair = peer.session.current
        assert pair is not None
        header, size = pair.seal_into(batch, out)
        peer.sending.sent(pair.remote_index, pair.counter - 1, len(batch), now)
        peer.timers.data_sent(now)
        if peer.check_at > now + UNANSWERED_S:
            self._sessions.schedule(peer)
        if pair.wants_rekey_on_send(now):
            self._sessions.initiate(peer, now)
        return data_frame(header, size), size

    def enqueue(self, peer: Peer, record: bytearray, now: float) -> None:
        """Let a packet (virtio-net header and IP packet) wait; the queue owns `record` from here on."""
        if peer.expired:
            peer.drops[DropReason.PEER_EXPIRED] += 1
            return
        view = memoryview(record)
        flow = packet.flow_hash(view[VIRTIO_HEADER_BYTES:])
        if len(record) <= self._unit(peer):
            peer.queue.enqueue(flow, record, len(record), now)
        else:
            for piece in offload.cut(view, self._unit(peer)):
                peer.queue.enqueue(flow, bytearray(piece), len(piece), now)
        self.backlog.setdefault(peer)

    def _unit(self, peer: Peer) -> int:
        """The largest record that a slow path should be held by: what it carries in `UNIT_S`."""
        rate = min(peer.sending.pacer.rate or inf, self.link_rate or inf)
        return MAX_PACKET_BODY_BYTES if rate == inf else int(rate * UNIT_S)

    def next_batch(self, arena: bytearray, now: float, room: int = NO_LIMIT) -> tuple[Peer, int, int] | None:
        """Fill `arena` with the next waiting batch: (peer, bytes, packets), or None if nothing can leave.

        Peers take turns, a batch each; one whose path is slower than what waits for it is passed over until
        `next_send_at`. A batch ends with the packet that reaches `room` bytes, or the peer's own budget.
        """
        for _ in range(len(self.backlog)):
            peer = next(iter(self.backlog))
            del self.backlog[peer]
            if not peer.queue:
                continue  # its session ended, and what waited went with it
            budget = peer.sending.pacer.budget(now)
            if not budget or not self.can_seal(peer, now):
                self.backlog[peer] = None
                continue
            size, packets = self._fill(peer, arena, now, min(budget, room))
            if len(peer.queue):
                self.backlog[peer] = None
            if packets:
                return peer, size, packets
        return None

    def next_send_at(self, now: float) -> float:
        """When a peer that waits for its path may send again; `NEVER` if none does."""
        waiting = (
            peer.sending.pacer.next_at(now)
            for peer in self.backlog
            if peer.sending.pacer.rate is not None and peer.session.current is not None
        )
        return min(waiting, default=NEVER)

    def _fill(self, peer: Peer, arena: bytearray, now: float, limit: int) -> tuple[int, int]:
        at = packets = 0
        room = min(len(arena), peer.batch_bytes) - RECORD_HEADER_BYTES - MAX_PACKET_BODY_BYTES
        while at <= room and at < limit:
            record = peer.queue.dequeue(now)
            if record is None:
                break
            for piece in self.suited(peer, record):
                if at + RECORD_HEADER_BYTES + len(piece) > len(arena):  # tiny segments, all headers
                    peer.drops[DropReason.TOO_BIG] += 1
                    continue
                at = put_record(arena, at, piece)
                packets += 1
                peer.tx_bytes += len(piece) - VIRTIO_HEADER_BYTES
        peer.tx_packets += packets
        return at, packets

    def suited(self, peer: Peer, record: bytearray) -> list[bytearray] | list[bytes]:
        """The record as the peer's TUN takes it: as it is, or split and its checksums completed."""
        if peer.features == Feature.ALL:
            return [record]
        needed = needed_feature(record)
        if not needed & ~peer.features:
            return [record]
        return offload.split(memoryview(record))

    # Data lane: from the network

    def receive(self, source: str, payload: memoryview, out: memoryview, now: float) -> list[memoryview]:
        """Take an NKN message's payload; the packets for the TUN in it, as views of `out`.

        `out` must hold a message's largest batch (4 MB); the views are valid until the next call with it.
        """
        if self._closed:  # an answer would begin a session that nobody tends
            return []
        try:
            frame = split_data_frame(payload)
            if frame is not None:
                return self._receive_data(source, *frame, out, now)
            message = Message.decode(payload)
        except RemoteProtocolError:
            self.drops[DropReason.MALFORMED] += 1
            return []
        if message.encrypted and len(message.nonce) == DATA_HEADER.size:
            return self._receive_data(source, message.nonce, message.payload, out, now)
        if not message.encrypted and self.on_visitor and self.on_visitor(source, message.payload, now):
            return []
        peer = self._peer_at(source)
        if peer is None:
            self._unknown_sender(source, now)
        else:
            self._sessions.receive_handshake(peer, message, now)
        return []

    def _receive_data(
        self, source: str, header: bytes, sealed: Buffer, out: memoryview, now: float
    ) -> list[memoryview]:
        version, kind, _, index, counter = DATA_HEADER.unpack(header)
        if version != VERSION or kind != FrameKind.DATA:
            self.drops[DropReason.WRONG_VERSION] += 1
            return []
        entry = self._by_index.get(index)
        if entry is None:
            self._unknown_index(source, now)
            return []
        peer, pair = entry
        if not TAG_BYTES <= len(sealed) <= len(out) + TAG_BYTES:
            peer.drops[DropReason.MALFORMED] += 1
            return []
        size = pair.open_into(header, counter, sealed, out, now)
        if isinstance(size, DropReason):
            peer.drops[size] += 1
            return []
        self._sessions.batch_received(peer, pair, size, now)
        if peer.arrivals.received(index, counter, size, now):
            self._sessions.send_control(
                peer, now, (RecordKind.FEEDBACK, peer.arrivals.report(now, busy=self._sessions.is_busy()))
            )
        try:
            packets, others = read_records(out[:size])
        except RemoteProtocolError:
            peer.drops[DropReason.BAD_RECORD] += 1
            return []
        pinged = False
        for record_kind, body in others:
            if record_kind == RecordKind.PING:
                if pinged:  # one answer a batch, or a peer could keep us busy with answers
                    continue
                pinged = True
            elif record_kind == RecordKind.CLOSE and pair is not peer.session.current:
                continue  # it ended an older session, and comes late
            self._sessions.record_received(peer, record_kind, body, now)
        return admitted(peer, packets, self.routes, self.settings.features) if packets else packets

    def _unknown_index(self, source: str, now: float) -> None:
        """Keys that we do not hold. A peer of ours that uses them has not noticed that we restarted: tell it.

        Telling is an ordinary handshake of ours, at most one under way for each peer, so a node that
        makes such messages up gains nothing.
        """
        peer = self._peer_at(source)
        if peer is None:
            self._unknown_sender(source, now)
            return
        if peer.expired:
            peer.drops[DropReason.PEER_EXPIRED] += 1
            return
        peer.drops[DropReason.NO_SESSION] += 1
        if peer.session.current is None:
            self._sessions.initiate(peer, now)

    # Control lane

    def poll_output(self) -> Output | None:
        """What to do next, or None."""
        outputs = self._sessions.outputs
        return outputs.popleft() if outputs else None

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout`, and for what."""
        return None if self._closed else self._sessions.poll_timeout()

    def next_at(self) -> float:
        """The same without the reason, for the data path: `timers.NEVER` when there is none."""
        return NEVER if self._closed else self._sessions.next_at()

    def handle_timeout(self, now: float) -> None:
        """Do what is due. Early calls are harmless."""
        self._sessions.handle_timeout(now)

    def link_up(self, now: float) -> None:
        """A link came (back): what was sent meanwhile is lost, so try again now."""
        self._sessions.link_up(self.peers.values(), now)

    def ping(self, peer: Peer, now: float) -> int | None:
        """Measure the round trip to a peer: the id that its `Pong` will have, or None without a session."""
        return self._sessions.ping(peer, now)

    def close(self, now: float) -> None:
        """Tell every peer that we go, and erase all keys. What still arrives is ignored from here on."""
        self._closed = True
        self._sessions.close(self.peers.values(), now)

    # Details

    def _peer_at(self, source: str) -> Peer | None:
        """Whose NKN address this is, a sub-client's included."""
        peer = self.peers.get(source)
        if peer is None and source.startswith("__"):
            peer = self.peers.get(source.partition(".")[2])
        return peer

    def _unknown_sender(self, source: str, now: float) -> None:
        self.drops[DropReason.UNKNOWN_PEER] += 1
        if not self.settings.accept_pending or len(source) > MAX_SOURCE_CHARS:
            return
        sender = self.pending.get(source)
        if sender is not None:
            sender.last_at, sender.count = now, sender.count + 1
            return
        if len(self.pending) >= MAX_PENDING_SENDERS:
            # The one that tried least, and not lately: who goes on trying stays, whoever else comes.
            least = min(self.pending, key=lambda key: (self.pending[key].count, self.pending[key].last_at))
            del self.pending[least]
        self.pending[source] = PendingSender(now, now, 1)
