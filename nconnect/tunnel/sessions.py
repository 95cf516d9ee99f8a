"""The sessions with all peers: handshakes, rekeys, keepalives, and the timers behind them. Pure.

Part of the core's control lane: `nconnect.tunnel.core` owns it and calls it. What it wants done goes to
`outputs`. Which handshake message is refused for what, and what a refusal leaves untouched, stands in
`nconnect.tunnel.handshake`.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from nconnect.crypto.aead import TAG_BYTES
from nconnect.crypto.keys import Identity
from nconnect.errors import DropReason, RemoteProtocolError
from nconnect.model import Deadline, NknAddress
from nconnect.tunnel.batch import control_batch
from nconnect.tunnel.constants import (
    ASK_S,
    DEAD_S,
    HANDSHAKE_JITTER_S,
    HANDSHAKE_RETRY_S,
    KEEPALIVE_S,
    MAX_BATCH_BYTES,
    MAX_HANDSHAKE_BYTES,
    MIN_INITIATION_INTERVAL_S,
    PERSISTENT_KEEPALIVE_S,
    PERSISTENT_RETRY_S,
    REJECT_AFTER_S,
    REKEY_ATTEMPT_S,
    STALE_S,
)
from nconnect.tunnel.handshake import Attempt, Rng, boxed, read_initiation
from nconnect.tunnel.lanes import QUIET_S, Lane
from nconnect.tunnel.outputs import (
    CountersMoved,
    Deliver,
    ExpiryChanged,
    Output,
    Pong,
    Send,
    SessionLost,
    SessionUp,
    Settings,
)
from nconnect.tunnel.pacing import Arrivals
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.session import KeyPair
from nconnect.tunnel.spread import Spread
from nconnect.tunnel.timers import NEVER, Timer
from nconnect.wire.nkn import Message, Payload, PayloadType, message_prefix
from nconnect.wire.tunnel import (
    LEG_BODY,
    MAX_LINKS,
    MAX_PACKET_BODY_BYTES,
    PING_BODY,
    RECORD_HEADER_BYTES,
    FrameKind,
    HandshakeFrame,
    Hello,
    RecordKind,
    WrongVersionError,
    decode_handshake,
    decode_links,
    encode_links,
    is_handshake,
)

EXPIRY_CHECK_S = 60.0  # the wall clock may be set: look again this often
MAX_PINGS = 16  # of one peer that may be unanswered


class Sessions:
    """The key pairs of all peers, by index, and whatever has to happen to them in time."""

    def __init__(
        self,
        identity: Identity,
        address: NknAddress,
        settings: Settings,
        *,
        rng: Rng,
        wall_clock_ns: Callable[[], int],
        last_counter: int,
    ) -> None:
        """`last_counter`: of the newest initiation that we ever sent."""
        self.outputs: deque[Output] = deque()
        self.by_index: dict[int, tuple[Peer, KeyPair]] = {}
        self.last_counter = last_counter
        self.is_busy: Callable[[], bool] = bool  # False
        self.leg_s: Callable[[int], float | None] = lambda link: None
        self._identity = identity
        self._address = address
        self._settings = settings
        self._rng = rng
        self._wall_clock_ns = wall_clock_ns
        self._attempts: dict[int, Peer] = {}
        self._checks: list[tuple[float, int, Peer]] = []  # a heap; an entry is void if not at peer.check_at
        self._check_number = 0
        self._links: dict[int, int] = {0: 0}
        self._links_revision = 0

    def receive_handshake(self, peer: Peer, message: Message, now: float, source: str) -> None:
        """An NKN message from a peer's address that is no data frame; whatever it is, it never raises."""
        if peer.expired:
            peer.drops[DropReason.PEER_EXPIRED] += 1
            return
        if not message.encrypted or len(message.nonce) != 24:
            peer.drops[DropReason.NOT_OURS] += 1
            return
        if len(message.payload) > MAX_HANDSHAKE_BYTES:  # not worth opening
            peer.drops[DropReason.MALFORMED] += 1
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
            self._on_initiation(peer, frame, now, source)
        else:
            self._on_response(peer, frame, now)

    def _on_initiation(self, peer: Peer, frame: HandshakeFrame, now: float, source: str) -> None:
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
            if self._is_first(peer) and _is_fresh(peer.attempt, now):
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
        if not self._is_first(peer):
            self._drop_attempt(peer)
        self._forget(peer.session.responded(pair))
        self.by_index[local_index] = (peer, pair)
        self._learn(peer, initiation.hello, now)
        dest = peer.lanes.dest_of(source)
        self.outputs.append(Send(dest, boxed(peer.box, response, self._rng), self._link_to_try(0)))
        self.outputs.append(CountersMoved())
        peer.timers.set(Timer.ERASE_KEYS, now + REJECT_AFTER_S)
        self.schedule(peer)

    def _is_first(self, peer: Peer) -> bool:
        """Both sides started at once: who stays the initiator, by public key.

        The first ignores the other's initiation for as long as its own first try may take, then answers it
        too, since its own may never arrive; the other always gives way. So one of the two is finished,
        and by both sides.
        """
        return self._address.public_key < peer.config.address.public_key

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
        pair.rekey_at = now + self._settings.rekey_after_s
        peer.rtt_s = now - attempt.started_at
        peer.attempt = None
        self._attempts.pop(attempt.local_index, None)
        self._forget(peer.session.initiated(pair))
        self.by_index[pair.local_index] = (peer, pair)
        self._learn(peer, hello, now)
        peer.last_received_at = now
        peer.doubtful = False
        peer.timers.keepalive_received()
        # The responder may send only once it has heard from us under these keys: say something now.
        self.send_control(peer, now)
        self._session_up(peer, now)

    def batch_received(self, peer: Peer, pair: KeyPair, size: int, now: float) -> None:
        """An authentic batch of `size` bytes came under `pair`."""
        peer.last_received_at = now
        if peer.doubtful:
            peer.doubtful = False
            self._freshen(peer, now)
            self.outputs.append(SessionUp(peer))
        if pair is peer.session.next:
            self._forget(peer.session.received_on(pair))
            self._drop_attempt(peer)  # ours is overtaken, and nothing would retry it any more
            self._session_up(peer, now)
        if size:
            peer.timers.data_received(now)
        else:
            peer.timers.keepalive_received()
        if pair is peer.session.current and pair.wants_rekey_on_receive(now):
            self.initiate(peer, now)
        if peer.check_at > now + KEEPALIVE_S:
            self.schedule(peer)

    def record_received(self, peer: Peer, kind: int, body: memoryview, now: float, back: Lane) -> None:
        """A record that is no packet, from an authentic batch; `back` is the lane to answer on."""
        if kind == RecordKind.PING:
            self.send_control(peer, now, *self._leg(back.link), (RecordKind.PONG, bytes(body)), lane=back)
        elif kind == RecordKind.PONG:
            (ping_id,) = PING_BODY.unpack(body)
            sent_at, lane = peer.pinged_at.pop(ping_id, (None, peer.lane))
            if sent_at is not None:
                lane.took(now - sent_at)
                if lane is peer.lane:
                    peer.rtt_s = now - sent_at
                self._choose(peer, now)
                self.outputs.append(Pong(peer, ping_id, now - sent_at, lane.link, lane.leg_s))
        elif kind == RecordKind.LEG:
            back.leg_s = LEG_BODY.unpack(body)[0] / 1e6
        elif kind == RecordKind.FEEDBACK:
            self._on_report(peer, body, now, back)
        elif kind == RecordKind.LINKS:
            self._on_links(peer, body, now)
        elif kind == RecordKind.CLOSE:
            self._lose_keys(peer, now)
            self.outputs.append(SessionLost(peer, f"{peer.name} has gone offline"))
            if self._settings.persistent:
                peer.timers.set(Timer.PERSISTENT_KEEPALIVE, now + PERSISTENT_RETRY_S)
            self.schedule(peer)

    def _leg(self, link: int) -> list[tuple[RecordKind, bytes]]:
        """The record about a link of ours; none while its round trip is not known."""
        leg_s = self.leg_s(link)
        return [] if leg_s is None else [(RecordKind.LEG, LEG_BODY.pack(min(int(leg_s * 1e6), 0xFFFF_FFFF)))]

    def initiate(self, peer: Peer, now: float) -> None:
        """Start a handshake unless one is under way."""
        if peer.attempt is not None or peer.expired:
            return
        peer.timers.set_if_unset(Timer.GIVE_UP_HANDSHAKE, now + REKEY_ATTEMPT_S)
        self._send_initiation(peer, now)

    def _send_initiation(self, peer: Peer, now: float) -> None:
        self._drop_attempt(peer)
        self.last_counter = max(self._wall_clock_ns(), self.last_counter + 1)
        attempt = Attempt(
            identity=self._identity,
            address=self._address,
            peer=peer.config.address,
            peer_dh_key=peer.dh_key,
            preshared_key=peer.config.preshared_key,
            suite=self._settings.suite,
            local_index=self._new_index(),
            hello=self._hello(self.last_counter),
            started_at=now,
            rng=self._rng,
        )
        peer.attempt = attempt
        self._attempts[attempt.local_index] = peer
        self.outputs.append(CountersMoved())
        dest, link = peer.lanes.dest_to_try(peer.attempts), self._link_to_try(peer.attempts)
        self.outputs.append(Send(dest, boxed(peer.box, attempt.frame, self._rng), link))
        wait = HANDSHAKE_RETRY_S[min(peer.attempts, len(HANDSHAKE_RETRY_S) - 1)]
        peer.attempts += 1
        jitter = int.from_bytes(self._rng(2)) / 65536 * HANDSHAKE_JITTER_S
        peer.timers.set(Timer.RETRY_HANDSHAKE, now + wait + jitter)
        self.schedule(peer)

    def _session_up(self, peer: Peer, now: float) -> None:
        peer.attempts = 0
        self._freshen(peer, now)
        peer.last_handshake_at = now
        timers = peer.timers
        timers.clear(Timer.RETRY_HANDSHAKE)
        timers.clear(Timer.GIVE_UP_HANDSHAKE)
        timers.set(Timer.ERASE_KEYS, now + REJECT_AFTER_S)
        if self._settings.persistent:
            timers.set(Timer.PERSISTENT_KEEPALIVE, now + PERSISTENT_KEEPALIVE_S)
        self.schedule(peer)
        self.outputs.append(SessionUp(peer))
        if len(peer.lanes.used) > 1:
            self.probe(peer, peer.lanes.used, now)

    def can_send(self, peer: Peer, now: float) -> bool:
        """Whether packets may leave; if not, a handshake is under way when this returns.

        A peer that does not answer gets none: they wait, and the newest of each flow is there when it
        returns. Else a TCP that was cut for a minute would wait for another minute by its own backoff.
        """
        if _can_send(peer, now) and not peer.doubtful:
            return True
        self.initiate(peer, now)
        return False

    def ping(
        self, peer: Peer, now: float, lane: Lane | None = None, *records: tuple[RecordKind, bytes]
    ) -> int | None:
        """Measure the round trip to a peer: the id that its `Pong` will have, or None without a session.

        On the best lane, or the one that is named; `records` go with it.
        """
        if not _can_send(peer, now):
            self.initiate(peer, now)
            return None
        lane = lane or peer.lane
        ping_id = int.from_bytes(self._rng(8))
        if len(peer.pinged_at) >= MAX_PINGS:
            peer.pinged_at.pop(next(iter(peer.pinged_at)))
        peer.pinged_at[ping_id] = (now, lane)
        self.send_control(peer, now, (RecordKind.PING, PING_BODY.pack(ping_id)), *records, lane=lane)
        return ping_id

    def send_control(
        self, peer: Peer, now: float, *records: tuple[RecordKind, bytes], lane: Lane | None = None
    ) -> None:
        """Seal and send a small batch of our own; nothing when there is no key."""
        lane = lane or peer.lane
        pair = peer.session.current
        if pair is None or not pair.can_send(now):
            return
        batch = control_batch(*records)
        out = bytearray(len(batch) + TAG_BYTES)
        header, size = pair.seal_into(batch, memoryview(out), lane.number)
        if any(kind is RecordKind.PING for kind, _ in records):
            lane.sent_at = now
            peer.timers.data_sent(now)
        else:
            peer.timers.keepalive_sent()
        self.schedule(peer)
        if pair.wants_rekey_on_send(now):
            self.initiate(peer, now)
        self.outputs.append(Send(lane.dest, message_prefix(header, size) + out, lane.link))

    # Several lanes

    def set_links(self, peers: Iterable[Peer], links: Mapping[int, int], now: float) -> None:
        """Our links that are up have changed; without any, what we had stays until one is back."""
        if not links or links == self._links:
            return
        self._links = dict(links)
        self._links_revision += 1
        for peer in peers:
            self._pair_lanes(peer, now)
            if _can_send(peer, now):
                self.probe(peer, peer.lanes.used, now)

    def watch_lanes(self, peer: Peer, now: float) -> None:
        """Something was sent: see in a while whether its lane answers."""
        if not peer.timers.is_set(Timer.LANES):
            peer.timers.set(Timer.LANES, now + QUIET_S)
            self.schedule(peer)

    def spread_out(self, peer: Peer, now: float) -> Spread:
        """From now on each flow has its lane, until one is enough again."""
        if not peer.stripe_number:  # another run of ours, or a wrap: the other side must not take it for late
            peer.stripe_number = int.from_bytes(self._rng(4))
        peer.spread = Spread(peer.lanes, now)
        self.watch_lanes(peer, now)
        return peer.spread

    def heard_on(self, peer: Peer, number: int, now: float) -> tuple[Arrivals, Lane]:
        """A batch came on the peer's lane `number`: what has arrived on it, and the lane that leads back."""
        number %= MAX_LINKS * MAX_LINKS
        back = peer.lanes.of_peer_number(number, now)
        if back.heard(now):
            self._choose(peer, now)
        arrivals = peer.arrivals
        if number:
            arrivals = peer.lane_arrivals.get(number) or peer.lane_arrivals.setdefault(number, Arrivals())
        return arrivals, back if back.link in self._links else peer.lane

    def probe(self, peer: Peer, lanes: Iterable[Lane], now: float) -> None:
        """Ask on each of these lanes whether it lives, and say which links we have."""
        for lane in lanes:
            if len(peer.lanes.used) == 1 and len(self._links) == 1 and not self._links_revision:
                self.ping(peer, now, lane)
                continue
            links = encode_links(self._links_revision, self._links)
            if self.ping(peer, now, lane, (RecordKind.LINKS, links)) is None:
                return
            peer.lanes.asked(lane, now)
        if len(peer.lanes.used) > 1:
            self.watch_lanes(peer, now)

    def _look_at_lanes(self, peer: Peer, now: float) -> None:
        ask, died = peer.lanes.judge(now)
        self._leave(peer, died, now)
        if ask:
            self.probe(peer, ask, now)
        if peer.spread is not None and peer.spread.close_up(now):
            peer.spread = None
        if peer.spread is not None or peer.lanes.is_watching():
            peer.timers.set(Timer.LANES, now + QUIET_S)

    def _leave(self, peer: Peer, lanes: Iterable[Lane], now: float) -> None:
        """These lanes carry nothing any more."""
        peer.lane = peer.lanes.best
        for lane in lanes:
            if peer.spread is None and lane.queue:
                self.spread_out(peer, now)
            if peer.spread is not None:
                peer.spread.hand_over(lane, now)

    def _choose(self, peer: Peer, now: float) -> None:
        """Another lane may be the best; flows that go on there must not overtake themselves."""
        old = peer.lane
        peer.lanes.choose()
        new = peer.lane = peer.lanes.best
        if new is not old:
            new.pinned_hold.add(old, new, now)
            if peer.spread is None and not new.pinned_hold.is_over(now):
                self.spread_out(peer, now)

    def _pair_lanes(self, peer: Peer, now: float, theirs: Mapping[int, int] | None = None) -> None:
        lanes = peer.lanes
        self._leave(peer, lanes.pair(self._links, lanes.theirs if theirs is None else theirs, now), now)

    def _on_links(self, peer: Peer, body: memoryview, now: float) -> None:
        try:
            revision, links = decode_links(body)
        except RemoteProtocolError:
            peer.drops[DropReason.BAD_RECORD] += 1
            return
        if revision > peer.links_revision:
            peer.links_revision = revision
            if links != peer.lanes.theirs:
                self._pair_lanes(peer, now, links)
                self.probe(peer, peer.lanes.used, now)

    def _on_report(self, peer: Peer, body: memoryview, now: float, back: Lane) -> None:
        for lane in (back, *peer.lanes.all):  # it came back on its lane, if it could
            rtt_s = lane.sending.on_report(body, now, busy=self.is_busy())
            if rtt_s is not None:
                if len(peer.lanes.used) > 1:
                    lane.took(rtt_s)
                    self._choose(peer, now)
                return

    def _link_to_try(self, attempt: int) -> int:
        links = sorted(self._links)
        return links[attempt % len(links)]

    # All peers

    def link_up(self, peers: Iterable[Peer], now: float) -> None:
        """A link came (back): what was sent meanwhile is lost, so try again now."""
        for peer in peers:
            if peer.expired:
                continue
            self._freshen(peer, now)
            if peer.attempt is not None:
                peer.attempts = 0
                self._send_initiation(peer, now)
            elif peer.session.current is not None:
                self._ask(peer, now)
            elif self._is_wanted(peer):
                self.initiate(peer, now)

    def _ask(self, peer: Peer, now: float) -> None:
        """Is the peer there? That also tells one that has given us up that we are back.

        When the node was gone, the peer has lost its link too, perhaps for longer than we: what we sent
        before it is back would be lost, and a TCP would wait for twice as long. So packets wait for its
        answer, or for its own question.
        """
        self.ping(peer, now)
        if peer.last_received_at is None or now > peer.last_received_at + ASK_S:
            peer.doubtful = True
            peer.timers.set(Timer.UNANSWERED, now + ASK_S)
            self.schedule(peer)

    def close(self, peers: Iterable[Peer], now: float) -> None:
        """Tell every peer that we go, and erase all keys."""
        for peer in peers:
            pair = peer.session.current
            if pair is not None and pair.can_send(now):
                self.send_control(peer, now, (RecordKind.CLOSE, b""))
            self.end(peer)

    def next_at(self) -> float:
        """When a timer may be due; `NEVER` when none is set."""
        checks = self._checks
        while checks and checks[0][2].check_at != checks[0][0]:
            heapq.heappop(checks)
        return checks[0][0] if checks else NEVER

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout`, and for what."""
        at = self.next_at()
        if at == NEVER:
            return None
        peer = self._checks[0][2]
        deadline = peer.timers.next()
        return Deadline(at, f"{peer.name}: {deadline.why if deadline else 'check'}")

    def handle_timeout(self, now: float) -> None:
        """Do what is due. Early calls are harmless."""
        while self.next_at() <= now:
            peer = heapq.heappop(self._checks)[2]
            peer.check_at = NEVER
            for timer in peer.timers.due(now):
                self._on_timer(peer, timer, now)
            self.schedule(peer)

    def _on_timer(self, peer: Peer, timer: Timer, now: float) -> None:
        if timer is Timer.RETRY_HANDSHAKE:
            # Without an attempt: it gave way to one of theirs, which has not been confirmed since.
            if peer.attempt is not None or (not _can_send(peer, now) and self._is_wanted(peer)):
                self._send_initiation(peer, now)
        elif timer is Timer.GIVE_UP_HANDSHAKE:
            self._give_up(peer, now)
        elif timer is Timer.UNANSWERED:
            if not peer.doubtful:
                peer.doubtful = True
                self.outputs.append(SessionLost(peer, f"{peer.name} does not answer"))
            self.initiate(peer, now)
        elif timer is Timer.KEEPALIVE:
            if peer.session.current is not None and peer.session.current.can_send(now):
                self.send_control(peer, now)
        elif timer is Timer.PERSISTENT_KEEPALIVE:
            peer.timers.set(Timer.PERSISTENT_KEEPALIVE, now + PERSISTENT_KEEPALIVE_S)
            if self.can_send(peer, now):
                self.probe(peer, peer.lanes.used, now)
        elif timer is Timer.LANES:
            self._look_at_lanes(peer, now)
        elif timer is Timer.REORDER:
            self.outputs.append(Deliver((*peer.striped.expire(now), *peer.order.expire(now))))
            peer.timers.set(Timer.REORDER, min(peer.striped.next_at(), peer.order.next_at()))
        elif timer is Timer.ERASE_KEYS:
            self._lose_keys(peer, now)
            self.outputs.append(SessionLost(peer, f"the keys shared with {peer.name} are too old"))
        elif timer is Timer.EXPIRE:
            self.check_expiry(peer, now)

    def _give_up(self, peer: Peer, now: float) -> None:
        self._drop_attempt(peer)
        peer.attempts = 0
        peer.timers.clear(Timer.RETRY_HANDSHAKE)
        self._freshen(peer, now)
        if self._settings.persistent:
            peer.timers.set(Timer.PERSISTENT_KEEPALIVE, now + PERSISTENT_RETRY_S)

    def check_expiry(self, peer: Peer, now: float) -> None:
        """Apply the peer's expiry, by the wall clock as it is now."""
        expires_at = peer.config.expires_at
        left = NEVER if expires_at is None else expires_at - self._wall_clock_ns() / 1e9
        if peer.expired != (left <= 0):
            peer.expired = left <= 0
            self.outputs.append(ExpiryChanged(peer))
        if left == NEVER:
            peer.timers.clear(Timer.EXPIRE)
        else:
            peer.timers.set(Timer.EXPIRE, now + (min(left, EXPIRY_CHECK_S) if left > 0 else EXPIRY_CHECK_S))
        if peer.expired and (peer.session.current or peer.session.next or peer.attempt):
            self.end(peer)
            self.outputs.append(SessionLost(peer, f"{peer.name} has expired"))

    def end(self, peer: Peer) -> None:
        """Erase the keys shared with a peer, and drop what waits for it."""
        self._erase(peer)
        peer.clear_queues(DropReason.NO_KEY)

    def _lose_keys(self, peer: Peer, now: float) -> None:
        """Erase the keys shared with a peer that may return: the newest packets wait for that."""
        self._erase(peer)
        self._freshen(peer, now)

    def _freshen(self, peer: Peer, now: float) -> None:
        """Let go of what waited through an outage, except for the newest of each flow."""
        for queue in peer.queues:
            if queue:
                peer.drops[DropReason.NO_KEY] += queue.keep_newest(now, stale_s=STALE_S, dead_s=DEAD_S)

    def _erase(self, peer: Peer) -> None:
        self._drop_attempt(peer)
        self._forget(peer.session.erase())
        peer.timers.session_ended()
        for timer in (Timer.RETRY_HANDSHAKE, Timer.GIVE_UP_HANDSHAKE):
            peer.timers.clear(timer)
        peer.doubtful = False
        peer.pinged_at.clear()

    def _drop_attempt(self, peer: Peer) -> None:
        if peer.attempt is not None:
            self._attempts.pop(peer.attempt.local_index, None)
            peer.attempt = None

    def _is_wanted(self, peer: Peer) -> bool:
        """Whether a session with this peer is of use now."""
        return not peer.expired and (self._settings.persistent or peer.bytes_held > 0)

    def _forget(self, pairs: list[KeyPair]) -> None:
        for pair in pairs:
            self.by_index.pop(pair.local_index, None)

    def _learn(self, peer: Peer, hello: Hello, now: float) -> None:
        links = {k: peer.lanes.theirs.get(k, 0) for k in range(MAX_LINKS) if (hello.links or 1) >> k & 1}
        peer.links_revision = -1
        self._pair_lanes(peer, now, links)
        peer.features = hello.features
        peer.clock_ahead_s = (hello.wall_clock_ns - self._wall_clock_ns()) / 1e9
        smallest = MAX_PACKET_BODY_BYTES + RECORD_HEADER_BYTES
        peer.batch_bytes = max(smallest, min(hello.batch_bytes, MAX_BATCH_BYTES))

    def _hello(self, counter: int) -> Hello:
        settings = self._settings
        return Hello(
            counter,
            settings.features,
            sum(1 << k for k in self._links),
            settings.mtu,
            MAX_BATCH_BYTES,
            self._wall_clock_ns(),
        )

    def _new_index(self) -> int:
        while True:
            index = int.from_bytes(self._rng(4), "little")
            if index and index not in self.by_index and index not in self._attempts:
                return index

    def schedule(self, peer: Peer) -> None:
        """Look at this peer's timers when the earliest is due."""
        at = peer.timers.next_at()
        if at < peer.check_at:
            peer.check_at = at
            self._check_number += 1
            heapq.heappush(self._checks, (at, self._check_number, peer))


def _can_send(peer: Peer, now: float) -> bool:
    """Whether there is a key to send under."""
    pair = peer.session.current
    return pair is not None and pair.can_send(now)


def _is_fresh(attempt: Attempt | None, now: float) -> bool:
    """Whether an answer to this attempt is due any moment."""
    return attempt is not None and now < attempt.started_at + HANDSHAKE_RETRY_S[0]
