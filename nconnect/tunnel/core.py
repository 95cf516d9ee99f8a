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

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from nconnect.crypto.aead import TAG_BYTES, CipherSuite
from nconnect.crypto.keys import Identity
from nconnect.errors import DropReason, RemoteProtocolError
from nconnect.ip import offload, packet
from nconnect.model import Deadline, NknAddress, PeerConfig
from nconnect.tunnel.allowed_ips import AllowedIps
from nconnect.tunnel.batch import control_batch, put_record, read_records
from nconnect.tunnel.constants import (
    BATCH_BYTES,
    HANDSHAKE_JITTER_S,
    HANDSHAKE_RETRY_S,
    KEEPALIVE_S,
    MAX_PENDING_SENDERS,
    MIN_INITIATION_INTERVAL_S,
    PERSISTENT_KEEPALIVE_S,
    PERSISTENT_RETRY_S,
    REJECT_AFTER_S,
    REKEY_ATTEMPT_S,
)
from nconnect.tunnel.handshake import Attempt, Rng, boxed, read_initiation
from nconnect.tunnel.peer import Peer, PeerState
from nconnect.tunnel.session import KeyPair
from nconnect.tunnel.timers import NEVER, Timer
from nconnect.wire.nkn import Message, Payload, PayloadType, message_prefix
from nconnect.wire.tunnel import (
    DATA_HEADER,
    MAX_PACKET_BODY_BYTES,
    PING_BODY,
    RECORD_HEADER_BYTES,
    VERSION,
    VIRTIO_HEADER_BYTES,
    Feature,
    FrameKind,
    HandshakeFrame,
    Hello,
    RecordKind,
    WrongVersionError,
    decode_handshake,
    is_handshake,
)

Buffer = bytes | bytearray | memoryview
SEAL_BYTES = TAG_BYTES  # what a sealed batch is longer than the batch
EXPIRY_CHECK_S = 60.0  # the wall clock may be set: look again this often


@dataclass(frozen=True, slots=True)
class Settings:
    """What does not change while the tunnel runs."""

    suite: CipherSuite
    features: Feature = Feature.ALL  # what our own TUN takes
    mtu: int = 1500
    links: int = 1
    persistent: bool = True  # keep a session with every peer, used or not (the user's side)
    accept_pending: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    """Put this payload into an NKN message to `dest`."""

    dest: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class SessionUp:
    """There are keys for this peer: what waits in its queue can leave."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class SessionLost:
    """There are no keys any more, or nothing is heard; `why` is a plain sentence."""

    peer: Peer
    why: str


@dataclass(frozen=True, slots=True)
class Pong:
    """An answer to `ping`."""

    peer: Peer
    ping_id: int
    rtt_s: float


@dataclass(frozen=True, slots=True)
class CountersMoved:
    """`counters()` has changed and should be stored, so that old handshakes stay refused."""


Output = Send | SessionUp | SessionLost | Pong | CountersMoved


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
        self._identity = identity
        self._address = address
        self._rng = rng
        self._wall_clock_ns = wall_clock_ns
        self._stored = dict(counters or {})
        self._last_counter = self._stored.get("self", 0)
        self._by_index: dict[int, tuple[Peer, KeyPair]] = {}
        self._attempts: dict[int, Peer] = {}
        self._outputs: deque[Output] = deque()
        self._checks: list[tuple[float, int, Peer]] = []  # a heap; an entry is void if not at peer.check_at
        self._check_number = 0
        self.set_peers(peers, now)

    # The peer table

    def set_peers(self, configs: Iterable[PeerConfig], now: float) -> None:
        """Make the table be `configs`. A peer whose key material did not change keeps its session.

        A removed peer's keys are erased at once. Raises ValueError for a public key that is none; the
        table is then unchanged.
        """
        fresh: dict[str, Peer] = {}
        for config in configs:
            dest = str(config.address)
            old = self.peers.get(dest)
            if old is not None and old.config.preshared_key == config.preshared_key:
                fresh[dest] = old
            else:
                fresh[dest] = Peer(config, self._identity)
                fresh[dest].last_counter = self._stored.get(dest, 0)
        by_dest = {str(config.address): config for config in configs}
        for dest, peer in self.peers.items():
            if fresh.get(dest) is not peer:
                self._end_session(peer)
                self.backlog.pop(peer, None)
                self._stored[dest] = peer.last_counter
                peer.check_at = NEVER
        self.peers = fresh
        self.routes = AllowedIps((prefix, fresh[d]) for d, c in by_dest.items() for prefix in c.allowed_ips)
        for dest, peer in fresh.items():
            peer.config = by_dest[dest]
            self.pending.pop(dest, None)
            self._check_expiry(peer, now)
            if (
                self.settings.persistent
                and not peer.expired
                and not peer.timers.is_set(Timer.PERSISTENT_KEEPALIVE)
            ):
                peer.timers.set(Timer.PERSISTENT_KEEPALIVE, now)
            self._schedule(peer)

    def peer_named(self, name: str) -> Peer | None:
        return next((peer for peer in self.peers.values() if peer.name == name), None)

    def counters(self) -> dict[str, int]:
        """What must outlive a restart: our last handshake counter, and each peer's."""
        kept = dict(self._stored)
        kept.update({dest: peer.last_counter for dest, peer in self.peers.items() if peer.last_counter})
        kept["self"] = self._last_counter
        return kept

    # Data lane: to the network

    def can_seal(self, peer: Peer, now: float) -> bool:
        """Whether there is a key to send under. If not, a handshake is under way when this returns."""
        pair = peer.session.current
        if pair is not None and pair.can_send(now):
            return True
        self._initiate(peer, now)
        return False

    def seal(self, peer: Peer, batch: Buffer, out: memoryview, now: float) -> tuple[bytes, int]:
        """Seal a batch into `out`, which needs `SEAL_BYTES` more room: (message prefix, bytes in `out`).

        Prefix and sealed bytes, one after another, are the payload of one NKN message to `peer.dest`.
        Only after `can_seal`. Count packets with `count_sent`.
        """
        pair = peer.session.current
        assert pair is not None
        header, size = pair.seal_into(batch, out)
        peer.timers.data_sent(now)
        if peer.check_at > now + KEEPALIVE_S + REJECT_AFTER_S:
            self._schedule(peer)
        if pair.wants_rekey_on_send(now):
            self._initiate(peer, now)
        return message_prefix(header, size), size

    def enqueue(self, peer: Peer, record: bytearray, now: float) -> None:
        """Let a packet (virtio-net header and IP packet) wait; the queue owns `record` from here on."""
        flow = packet.flow_hash(memoryview(record)[VIRTIO_HEADER_BYTES:])
        peer.queue.enqueue(flow, record, len(record), now)
        self.backlog.setdefault(peer)

    def next_batch(self, arena: bytearray, now: float) -> tuple[Peer, int, int] | None:
        """Fill `arena` with the next waiting batch: (peer, bytes, packets), or None if nothing can leave.

        Peers take turns, a batch each.
        """
        for _ in range(len(self.backlog)):
            peer = next(iter(self.backlog))
            del self.backlog[peer]
            if not self.can_seal(peer, now):
                self.backlog[peer] = None
                continue
            size, packets = self._fill(peer, arena, now)
            if len(peer.queue):
                self.backlog[peer] = None
            if packets:
                return peer, size, packets
        return None

    def _fill(self, peer: Peer, arena: bytearray, now: float) -> tuple[int, int]:
        at = packets = 0
        room = min(len(arena), peer.batch_bytes) - RECORD_HEADER_BYTES - MAX_PACKET_BODY_BYTES
        while at <= room:
            record = peer.queue.dequeue(now)
            if record is None:
                break
            for piece in self.suited(peer, record):
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
        try:
            message = Message.decode(payload)
        except RemoteProtocolError:
            self.drops[DropReason.MALFORMED] += 1
            return []
        if message.encrypted and len(message.nonce) == DATA_HEADER.size:
            return self._receive_data(source, message.nonce, message.payload, out, now)
        self._receive_handshake(source, message, now)
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
        if len(sealed) < TAG_BYTES:
            peer.drops[DropReason.MALFORMED] += 1
            return []
        size = pair.open_into(header, counter, sealed, out, now)
        if isinstance(size, DropReason):
            peer.drops[size] += 1
            return []
        self._authentic_batch(peer, pair, size, now)
        try:
            packets, others = read_records(out[:size])
        except RemoteProtocolError:
            peer.drops[DropReason.BAD_RECORD] += 1
            return []
        for record_kind, body in others:
            self._on_record(peer, record_kind, body, now)
        return self._admitted(peer, packets) if packets else packets

    def _admitted(self, peer: Peer, packets: list[memoryview]) -> list[memoryview]:
        """The packets that this peer may send: well-formed, with its own source, with a sane header."""
        features = self.settings.features
        cache = self.routes.cache
        good = 0
        for record in packets:
            view = record[VIRTIO_HEADER_BYTES:]
            if not packet.is_well_formed(view):
                peer.drops[DropReason.BAD_PACKET] += 1
                continue
            address = bytes(view[12:16]) if view[0] < 0x60 else bytes(view[8:24])
            owner = cache.get(address)
            if owner is None:
                owner = self.routes.owner(address)
            if owner is not peer or packet.is_forbidden_source(address):
                peer.drops[DropReason.SPOOFED_SOURCE] += 1
                continue
            if not offload.check(record) or (features != Feature.ALL and needed_feature(record) & ~features):
                peer.drops[DropReason.BAD_OFFLOAD_HEADER] += 1
                continue
            packets[good] = record
            good += 1
            peer.rx_bytes += len(view)
        del packets[good:]
        peer.rx_packets += good
        return packets

    def _authentic_batch(self, peer: Peer, pair: KeyPair, size: int, now: float) -> None:
        peer.last_received_at = now
        if peer.doubtful:
            peer.doubtful = False
            self._outputs.append(SessionUp(peer))
        if pair is peer.session.next:
            self._forget(peer.session.received_on(pair))
            self._session_up(peer, now)
        if size:
            peer.timers.data_received(now)
        else:
            peer.timers.keepalive_received()
        if pair is peer.session.current and pair.wants_rekey_on_receive(now):
            self._initiate(peer, now)
        if peer.check_at > now + KEEPALIVE_S:
            self._schedule(peer)

    def _on_record(self, peer: Peer, kind: int, body: memoryview, now: float) -> None:
        if kind == RecordKind.PING:
            self._send_control(peer, now, (RecordKind.PONG, bytes(body)))
        elif kind == RecordKind.PONG:
            (ping_id,) = PING_BODY.unpack(body)
            sent_at = peer.pinged_at.pop(ping_id, None)
            if sent_at is not None:
                peer.rtt_s = now - sent_at
                self._outputs.append(Pong(peer, ping_id, now - sent_at))
        elif kind == RecordKind.CLOSE:
            self._end_session(peer)
            self._outputs.append(SessionLost(peer, f"{peer.name} has gone offline"))
            if self.settings.persistent:
                peer.timers.set(Timer.PERSISTENT_KEEPALIVE, now + PERSISTENT_RETRY_S)
            self._schedule(peer)

    def _unknown_index(self, source: str, now: float) -> None:
        """Keys that we do not hold. A peer of ours that uses them has not noticed that we restarted: tell it.

        Telling is an ordinary handshake of ours, at most one under way for each peer, so a node that
        makes such messages up gains nothing.
        """
        peer = self.peers.get(source) or self.peers.get(_bare(source))
        if peer is None:
            self._unknown_sender(source, now)
            return
        peer.drops[DropReason.NO_SESSION] += 1
        if peer.session.current is None and not peer.expired:
            self._initiate(peer, now)

    # Handshakes

    def _receive_handshake(self, source: str, message: Message, now: float) -> None:
        peer = self.peers.get(source) or self.peers.get(_bare(source))
        if peer is None:
            self._unknown_sender(source, now)
            return
        if peer.expired:
            peer.drops[DropReason.PEER_EXPIRED] += 1
            return
        if not message.encrypted or len(message.nonce) != 24:
            peer.drops[DropReason.NOT_OURS] += 1
            return
        plaintext = peer.box.open(bytes(message.payload), message.nonce)
        if plaintext is None:
            peer.drops[DropReason.NOT_AUTHENTIC] += 1
            return
        try:
            payload = Payload.decode(plaintext)
            data = bytes(payload.data)
            if payload.type != PayloadType.BINARY or not is_handshake(data):
                peer.drops[DropReason.NOT_OURS] += 1
                return
            frame = decode_handshake(data)
        except WrongVersionError:
            peer.drops[DropReason.WRONG_VERSION] += 1
            return
        except RemoteProtocolError:
            peer.drops[DropReason.MALFORMED] += 1
            return
        if frame.kind is FrameKind.INITIATION:
            self._on_initiation(peer, frame, now)
        else:
            self._on_response(peer, frame, now)

    def _on_initiation(self, peer: Peer, frame: HandshakeFrame, now: float) -> None:
        if now < peer.last_initiation_at + MIN_INITIATION_INTERVAL_S:
            peer.drops[DropReason.HANDSHAKE_FLOOD] += 1
            return
        try:
            initiation = read_initiation(
                frame,
                identity=self._identity,
                address=self._address,
                peer=peer.config.address,
                peer_dh_key=peer.dh_key,
                rng=self._rng,
            )
            if initiation.hello.counter <= peer.last_counter:
                peer.drops[DropReason.HANDSHAKE_REPLAYED] += 1
                return
            if self._prefers_own_attempt(peer, now):
                return
            local_index = self._new_index()
            pair, response = initiation.answer(
                preshared_key=peer.config.preshared_key,
                local_index=local_index,
                hello=self._hello(0),
                now=now,
            )
        except RemoteProtocolError:
            peer.drops[DropReason.HANDSHAKE_REFUSED] += 1
            return
        peer.last_counter = initiation.hello.counter
        peer.last_initiation_at = now
        self._drop_attempt(peer)
        self._forget(peer.session.responded(pair))
        self._by_index[local_index] = (peer, pair)
        self._learn(peer, initiation.hello)
        self._outputs.append(Send(peer.dest, boxed(peer.box, response, self._rng)))
        self._outputs.append(CountersMoved())
        peer.timers.set(Timer.ERASE_KEYS, now + REJECT_AFTER_S)
        self._schedule(peer)

    def _prefers_own_attempt(self, peer: Peer, now: float) -> bool:
        """Both sides started at once: the smaller public key stays the initiator, for as long as one try."""
        attempt = peer.attempt
        return (
            attempt is not None
            and now < attempt.started_at + HANDSHAKE_RETRY_S[0]
            and self._address.public_key < peer.config.address.public_key
        )

    def _on_response(self, peer: Peer, frame: HandshakeFrame, now: float) -> None:
        attempt = peer.attempt
        if attempt is None or frame.receiver != attempt.local_index:
            peer.drops[DropReason.NO_SESSION] += 1
            return
        try:
            pair, hello = attempt.finish(frame, now)
        except RemoteProtocolError:
            peer.drops[DropReason.HANDSHAKE_REFUSED] += 1
            return
        peer.rtt_s = now - attempt.started_at
        peer.attempt = None
        self._attempts.pop(attempt.local_index, None)
        self._forget(peer.session.initiated(pair))
        self._by_index[pair.local_index] = (peer, pair)
        self._learn(peer, hello)
        peer.last_received_at = now
        peer.doubtful = False
        peer.timers.keepalive_received()
        # The responder may send only once it has heard from us under these keys: say something now.
        self._send_control(peer, now)
        self._session_up(peer, now)

    def _session_up(self, peer: Peer, now: float) -> None:
        peer.attempts = 0
        peer.last_handshake_at = now
        timers = peer.timers
        timers.clear(Timer.RETRY_HANDSHAKE)
        timers.clear(Timer.GIVE_UP_HANDSHAKE)
        timers.set(Timer.ERASE_KEYS, now + REJECT_AFTER_S)
        if self.settings.persistent:
            timers.set(Timer.PERSISTENT_KEEPALIVE, now + PERSISTENT_KEEPALIVE_S)
        self._schedule(peer)
        self._outputs.append(SessionUp(peer))

    def _initiate(self, peer: Peer, now: float) -> None:
        """Start a handshake unless one is under way."""
        if peer.attempt is not None or peer.expired:
            return
        peer.timers.set_if_unset(Timer.GIVE_UP_HANDSHAKE, now + REKEY_ATTEMPT_S)
        self._send_initiation(peer, now)

    def _send_initiation(self, peer: Peer, now: float) -> None:
        self._drop_attempt(peer)
        self._last_counter = max(self._wall_clock_ns(), self._last_counter + 1)
        attempt = Attempt(
            identity=self._identity,
            address=self._address,
            peer=peer.config.address,
            peer_dh_key=peer.dh_key,
            preshared_key=peer.config.preshared_key,
            suite=self.settings.suite,
            local_index=self._new_index(),
            hello=self._hello(self._last_counter),
            started_at=now,
            rng=self._rng,
        )
        peer.attempt = attempt
        self._attempts[attempt.local_index] = peer
        self._outputs.append(CountersMoved())
        self._outputs.append(Send(peer.dest, boxed(peer.box, attempt.frame, self._rng)))
        wait = HANDSHAKE_RETRY_S[min(peer.attempts, len(HANDSHAKE_RETRY_S) - 1)]
        peer.attempts += 1
        jitter = int.from_bytes(self._rng(2)) / 65536 * HANDSHAKE_JITTER_S
        peer.timers.set(Timer.RETRY_HANDSHAKE, now + wait + jitter)
        self._schedule(peer)

    # Control lane

    def poll_output(self) -> Output | None:
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout`, and for what."""
        checks = self._checks
        while checks and checks[0][2].check_at != checks[0][0]:
            heapq.heappop(checks)
        if not checks:
            return None
        at, _, peer = checks[0]
        deadline = peer.timers.next()
        return Deadline(at, f"{peer.name}: {deadline.why if deadline else 'check'}")

    def handle_timeout(self, now: float) -> None:
        """Do what is due. Early calls are harmless."""
        while (deadline := self.poll_timeout()) is not None and deadline.at <= now:
            peer = heapq.heappop(self._checks)[2]
            peer.check_at = NEVER
            for timer in peer.timers.due(now):
                self._on_timer(peer, timer, now)
            self._schedule(peer)

    def link_up(self, now: float) -> None:
        """A link came (back): what was sent meanwhile is lost, so try again now."""
        for peer in self.peers.values():
            if peer.expired:
                continue
            if peer.attempt is not None:
                peer.attempts = 0
                self._send_initiation(peer, now)
            elif peer.session.current is not None and (self.settings.persistent or peer.doubtful):
                self.ping(peer, now)
            elif self.settings.persistent:
                self._initiate(peer, now)

    def ping(self, peer: Peer, now: float) -> int | None:
        """Measure the round trip to a peer: the id that its `Pong` will have, or None without a session."""
        if not self.can_seal(peer, now):
            return None
        ping_id = int.from_bytes(self._rng(8))
        if len(peer.pinged_at) >= 16:
            peer.pinged_at.pop(next(iter(peer.pinged_at)))
        peer.pinged_at[ping_id] = now
        self._send_control(peer, now, (RecordKind.PING, PING_BODY.pack(ping_id)))
        return ping_id

    def close(self, now: float) -> None:
        """Tell every peer that we go, and erase all keys."""
        for peer in self.peers.values():
            pair = peer.session.current
            if pair is not None and pair.can_send(now):
                self._send_control(peer, now, (RecordKind.CLOSE, b""))
            self._end_session(peer)

    # Details

    def _on_timer(self, peer: Peer, timer: Timer, now: float) -> None:
        if timer is Timer.RETRY_HANDSHAKE:
            if peer.attempt is not None:
                self._send_initiation(peer, now)
        elif timer is Timer.GIVE_UP_HANDSHAKE:
            self._give_up(peer, now)
        elif timer is Timer.UNANSWERED:
            peer.doubtful = True
            self._outputs.append(SessionLost(peer, f"{peer.name} does not answer"))
            self._initiate(peer, now)
        elif timer is Timer.KEEPALIVE:
            if peer.session.current is not None and peer.session.current.can_send(now):
                self._send_control(peer, now)
        elif timer is Timer.PERSISTENT_KEEPALIVE:
            peer.timers.set(Timer.PERSISTENT_KEEPALIVE, now + PERSISTENT_KEEPALIVE_S)
            if self.can_seal(peer, now):
                self.ping(peer, now)
        elif timer is Timer.ERASE_KEYS:
            self._end_session(peer)
            self._outputs.append(SessionLost(peer, f"the keys shared with {peer.name} are too old"))
        elif timer is Timer.EXPIRE:
            self._check_expiry(peer, now)

    def _give_up(self, peer: Peer, now: float) -> None:
        self._drop_attempt(peer)
        peer.attempts = 0
        peer.timers.clear(Timer.RETRY_HANDSHAKE)
        peer.drops[DropReason.NO_KEY] += len(peer.queue)
        peer.queue.clear(DropReason.NO_KEY)
        self.backlog.pop(peer, None)
        if self.settings.persistent:
            peer.timers.set(Timer.PERSISTENT_KEEPALIVE, now + PERSISTENT_RETRY_S)

    def _check_expiry(self, peer: Peer, now: float) -> None:
        expires_at = peer.config.expires_at
        left = NEVER if expires_at is None else expires_at - self._wall_clock_ns() / 1e9
        peer.expired = left <= 0
        if left == NEVER:
            peer.timers.clear(Timer.EXPIRE)
        else:
            peer.timers.set(Timer.EXPIRE, now + (min(left, EXPIRY_CHECK_S) if left > 0 else EXPIRY_CHECK_S))
        if peer.expired and (peer.session.current or peer.session.next or peer.attempt):
            self._end_session(peer)
            self._outputs.append(SessionLost(peer, f"{peer.name} has expired"))

    def _send_control(self, peer: Peer, now: float, *records: tuple[RecordKind, bytes]) -> None:
        """Seal and send a small batch of our own; nothing when there is no key."""
        pair = peer.session.current
        if pair is None or not pair.can_send(now):
            return
        batch = control_batch(*records)
        out = bytearray(len(batch) + TAG_BYTES)
        header, size = pair.seal_into(batch, memoryview(out))
        if any(kind is RecordKind.PING for kind, _ in records):
            peer.timers.data_sent(now)
        else:
            peer.timers.keepalive_sent()
        self._schedule(peer)
        if pair.wants_rekey_on_send(now):
            self._initiate(peer, now)
        self._outputs.append(Send(peer.dest, message_prefix(header, size) + out))

    def _learn(self, peer: Peer, hello: Hello) -> None:
        peer.features = hello.features
        smallest = MAX_PACKET_BODY_BYTES + RECORD_HEADER_BYTES
        peer.batch_bytes = max(smallest, min(hello.batch_bytes, BATCH_BYTES))

    def _hello(self, counter: int) -> Hello:
        settings = self.settings
        return Hello(counter, settings.features, settings.links, settings.mtu, BATCH_BYTES)

    def _unknown_sender(self, source: str, now: float) -> None:
        self.drops[DropReason.UNKNOWN_PEER] += 1
        if not self.settings.accept_pending or len(source) > 256:
            return
        sender = self.pending.get(source)
        if sender is not None:
            sender.last_at, sender.count = now, sender.count + 1
        elif len(self.pending) < MAX_PENDING_SENDERS:
            self.pending[source] = PendingSender(now, now, 1)

    def _end_session(self, peer: Peer) -> None:
        self._drop_attempt(peer)
        self._forget(peer.session.erase())
        peer.timers.session_ended()
        for timer in (Timer.RETRY_HANDSHAKE, Timer.GIVE_UP_HANDSHAKE):
            peer.timers.clear(timer)
        peer.doubtful = False
        peer.pinged_at.clear()
        peer.drops[DropReason.NO_KEY] += len(peer.queue)
        peer.queue.clear(DropReason.NO_KEY)
        self.backlog.pop(peer, None)

    def _drop_attempt(self, peer: Peer) -> None:
        if peer.attempt is not None:
            self._attempts.pop(peer.attempt.local_index, None)
            peer.attempt = None

    def _forget(self, pairs: list[KeyPair]) -> None:
        for pair in pairs:
            self._by_index.pop(pair.local_index, None)

    def _new_index(self) -> int:
        while True:
            index = int.from_bytes(self._rng(4), "little")
            if index and index not in self._by_index and index not in self._attempts:
                return index

    def _schedule(self, peer: Peer) -> None:
        """Look at this peer's timers when the earliest is due."""
        deadline = peer.timers.next()
        at = NEVER if deadline is None else deadline.at
        if at < peer.check_at:
            peer.check_at = at
            self._check_number += 1
            heapq.heappush(self._checks, (at, self._check_number, peer))


def needed_feature(record: Buffer) -> Feature:
    """What a TUN must take for this record to be written as it is."""
    if not record[0] & offload.NEEDS_CSUM and not record[1]:
        return Feature(0)
    return _FEATURE_OF_GSO.get(record[1] & ~offload.GSO_ECN, Feature.ALL)


_FEATURE_OF_GSO = {
    offload.GSO_NONE: Feature.CHECKSUM,
    offload.GSO_TCPV4: Feature.CHECKSUM | Feature.TSO4,
    offload.GSO_TCPV6: Feature.CHECKSUM | Feature.TSO6,
    offload.GSO_UDP_L4: Feature.CHECKSUM | Feature.USO,
}


def _bare(source: str) -> str:
    """A sender's address without a sub-client's prefix; as it is when it is no address."""
    return source.partition(".")[2] if source.startswith("__") else source


__all__ = [
    "CountersMoved",
    "Output",
    "PeerState",
    "PendingSender",
    "Pong",
    "Send",
    "SessionLost",
    "SessionUp",
    "Settings",
    "Tunnel",
    "needed_feature",
]
