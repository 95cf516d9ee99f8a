"""The handshakes with all peers: started, answered, retried; and the key pairs that they make. Pure.

The only module that changes `Peer.session` and `Peer.handshake`. `nconnect.tunnel.handshake` has the messages
and what they are refused for; `nconnect.tunnel.sessions` decides when a handshake is wanted and when keys
end.
"""

from __future__ import annotations

from nconnect.errors import DropReason, RemoteProtocolError
from nconnect.tunnel.constants import (
    HANDSHAKE_JITTER_S,
    HANDSHAKE_RETRY_S,
    MAX_BATCH_BYTES,
    MAX_HANDSHAKE_BYTES,
    MAX_REFUSED_HANDSHAKES_PER_S,
    MIN_INITIATION_INTERVAL_S,
    REKEY_ATTEMPT_S,
)
from nconnect.tunnel.handshake import Attempt, boxed, read_initiation
from nconnect.tunnel.outputs import Context, CountersMoved, Send
from nconnect.tunnel.paths.manager import PathManager
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.session import KeyPair
from nconnect.tunnel.timers import NEVER, Timer
from nconnect.wire.direct import INDEX_MASK
from nconnect.wire.message import Message, Payload, PayloadType
from nconnect.wire.tunnel import (
    INSTANCE_BYTES,
    FrameKind,
    HandshakeFrame,
    Hello,
    RecordKind,
    WrongVersionError,
    decode_handshake,
    is_handshake,
)


class Handshakes:
    """The key pairs of all peers, by the index that we gave them, and the attempts under way."""

    def __init__(self, context: Context, path_manager: PathManager, last_counter: int) -> None:
        """`last_counter`: of the newest initiation that we ever sent."""
        self.by_index: dict[int, tuple[Peer, KeyPair]] = {}
        self.by_low_index: dict[int, tuple[Peer, KeyPair]] = {}  # by its lower 24 bits: datagrams' headers
        self.last_counter = last_counter
        self._context = context
        self._path_manager = path_manager
        self._attempts: dict[int, Peer] = {}
        self._instance = context.rng(INSTANCE_BYTES)

    def receive(self, peer: Peer, message: Message, now: float, source: str) -> bool:
        """An NKN message from a peer's address that is no data frame. Never raises, whatever is in it.

        True if it completed a handshake of ours: its keys are the current ones.
        """
        return self._act_on(peer, self._read(peer, message), now, source)

    def receive_directly(self, peer: Peer, data: bytes, now: float) -> bool:
        """The same for a handshake frame that came over the direct path, under keys that are still good.

        So a dead node does not end a direct path: a rekey's retries go that way too.
        """
        frame = DropReason.PEER_EXPIRED if peer.expired else _decode(data)
        return self._act_on(peer, frame, now, None)

    def _act_on(self, peer: Peer, frame: HandshakeFrame | DropReason, now: float, source: str | None) -> bool:
        """`source`: the NKN address that it came from; None: it came over the direct path."""
        if isinstance(frame, DropReason):
            peer.drops[frame] += 1
            return False
        if frame.kind is FrameKind.INITIATION:
            self._on_initiation(peer, frame, now, source)
            return False
        return self._on_response(peer, frame, now)

    def _read(self, peer: Peer, message: Message) -> HandshakeFrame | DropReason:
        """The handshake frame in a message from a peer's address, or why it is refused."""
        if peer.expired:
            return DropReason.PEER_EXPIRED
        if not message.encrypted or len(message.nonce) != 24:
            return DropReason.NOT_OURS
        if len(message.payload) > MAX_HANDSHAKE_BYTES:  # not worth opening
            return DropReason.MALFORMED
        plaintext = peer.handshake.box.open(bytes(message.payload), message.nonce)
        if plaintext is None:
            return DropReason.NOT_AUTHENTIC
        try:
            payload = Payload.decode(plaintext)
            data = bytes(payload.data)
        except RemoteProtocolError:
            return DropReason.MALFORMED
        return _decode(data) if payload.type == PayloadType.BINARY else DropReason.NOT_OURS

    def initiate(self, peer: Peer, now: float) -> None:
        """Start a handshake unless one is under way."""
        if peer.handshake.attempt is not None or peer.expired:
            return
        peer.timers.set_if_unset(Timer.GIVE_UP_HANDSHAKE, now + REKEY_ATTEMPT_S)
        self.send_initiation(peer, now)

    def send_initiation(self, peer: Peer, now: float) -> None:
        """Send a new initiation, in place of an attempt that is under way."""
        self.drop_attempt(peer)
        self.last_counter = max(self._context.wall_clock_ns(), self.last_counter + 1)
        attempt = Attempt(
            identity=self._context.identity,
            address=self._context.address,
            peer=peer.config.address,
            peer_dh_key=peer.handshake.dh_key,
            preshared_key=peer.config.preshared_key,
            suite=self._context.settings.suite,
            local_index=self._new_index(),
            hello=self._hello(self.last_counter),
            started_at=now,
            rng=self._context.rng,
        )
        peer.handshake.attempt = attempt
        self._attempts[attempt.local_index] = peer
        self._context.outputs.append(CountersMoved())
        dest, link = (
            peer.relayed.lanes.dest_to_try(peer.handshake.attempts),
            self._path_manager.link_to_try(peer.handshake.attempts),
        )
        if stream := peer.relayed.lanes.stream_to_try(peer.handshake.attempts):
            dest, link = stream.dest, stream.link
        message = boxed(peer.handshake.box, attempt.frame, self._context.rng)
        self._context.outputs.append(Send(dest, message, link))
        if spare := peer.relayed.lanes.spare_dest(peer.handshake.attempts):
            self._context.outputs.append(Send(spare, message, link))
        if peer.handshake.attempts:  # the relay did not bring an answer
            self._send_directly(peer, attempt.frame, now)
        wait = HANDSHAKE_RETRY_S[min(peer.handshake.attempts, len(HANDSHAKE_RETRY_S) - 1)]
        peer.handshake.attempts += 1
        jitter = int.from_bytes(self._context.rng(2)) / 65536 * HANDSHAKE_JITTER_S
        peer.timers.set(Timer.RETRY_HANDSHAKE, now + wait + jitter)
        self._context.timer_heap.schedule(peer)

    def _send_directly(self, peer: Peer, frame: bytes, now: float) -> None:
        """Over the direct path, if packets go there."""
        remote = None if peer.direct is None else peer.direct.remote
        if remote is not None:
            self._context.send_datagram(peer, remote, ((RecordKind.HANDSHAKE, frame),), now)

    def confirmed(self, peer: Peer, pair: KeyPair, now: float) -> None:
        """The peer has used the pair that we answered with: make it the current one."""
        self._forget(peer.session.received_on(pair))
        if peer.rtt_s is None:  # the peer confirms as soon as it has our answer
            peer.rtt_s = now - peer.handshake.last_initiation_at
        self._finished(peer, now)

    def drop_attempt(self, peer: Peer) -> None:
        """Forget the attempt under way, if there is one; an answer to it will be refused."""
        if peer.handshake.attempt is not None:
            self._attempts.pop(peer.handshake.attempt.local_index, None)
            peer.handshake.attempt = None

    def give_up(self, peer: Peer) -> None:
        """Stop retrying until `initiate` is called again."""
        self.drop_attempt(peer)
        peer.handshake.attempts = 0
        peer.timers.clear(Timer.RETRY_HANDSHAKE)

    def begin_again(self, peer: Peer, now: float) -> None:
        """Restart the attempts with the first interval: those so far went over a link that was down."""
        peer.handshake.attempts = 0
        self.send_initiation(peer, now)

    def erase_old(self, peer: Peer, now: float) -> bool:
        """Erase the pairs that are too old. False if none is left."""
        self._forget(peer.session.expire(now))
        peer.timers.set(Timer.ERASE_KEYS, peer.session.ends_at)
        return peer.session.ends_at != NEVER

    def erase(self, peer: Peer) -> None:
        """Erase all keys shared with a peer, and stop the handshake that is under way."""
        self.drop_attempt(peer)
        self._forget(peer.session.erase())
        peer.timers.session_ended()
        for timer in (Timer.RETRY_HANDSHAKE, Timer.GIVE_UP_HANDSHAKE):
            peer.timers.clear(timer)

    def _on_initiation(self, peer: Peer, frame: HandshakeFrame, now: float, source: str | None) -> None:
        if now < peer.handshake.last_initiation_at + MIN_INITIATION_INTERVAL_S or not self._is_worth_reading(
            peer, now
        ):
            peer.drops[DropReason.HANDSHAKE_FLOOD] += 1
            return
        try:
            initiation = read_initiation(
                frame,
                identity=self._context.identity,
                address=self._context.address,
                peer=peer.config.address,
                peer_dh_key=peer.handshake.dh_key,
                rng=self._context.rng,
            )
            if initiation.hello.counter <= peer.handshake.last_counter:
                self._refuse(peer, DropReason.HANDSHAKE_REPLAYED)
                return
            local_index = self._new_index()
            pair, response = initiation.answer(
                preshared_key=peer.config.preshared_key,
                local_index=local_index,
                hello=self._hello(0),
                now=now,
            )
        except RemoteProtocolError:
            self._refuse(peer, DropReason.HANDSHAKE_REFUSED)
            return
        peer.handshake.last_counter = initiation.hello.counter
        peer.handshake.last_initiation_at = now
        if not self._is_first(peer):
            self.drop_attempt(peer)
        self._forget(peer.session.responded(pair))
        self._remember(peer, pair)
        self._learn(peer, initiation.hello, now)
        if source is None:
            self._send_directly(peer, response, now)
        else:
            dest, link = peer.relayed.lanes.dest_of(source), self._path_manager.link_to_try(0)
            if stream := peer.relayed.lanes.stream_to_try():
                dest, link = stream.dest, stream.link
            boxed_response = boxed(peer.handshake.box, response, self._context.rng)
            self._context.outputs.append(Send(dest, boxed_response, link))
        self._context.outputs.append(CountersMoved())
        peer.timers.set(Timer.ERASE_KEYS, peer.session.ends_at)
        self._context.timer_heap.schedule(peer)

    def _refuse(self, peer: Peer, reason: DropReason) -> None:
        """Reading it has cost public-key operations."""
        peer.drops[reason] += 1
        peer.handshake.refusals += 1

    def _is_worth_reading(self, peer: Peer, now: float) -> bool:
        """False after many refusals within a second: replayed handshakes must not keep us busy."""
        if now >= peer.handshake.refusals_since + 1.0:
            peer.handshake.refusals_since, peer.handshake.refusals = now, 0
        return peer.handshake.refusals < MAX_REFUSED_HANDSHAKES_PER_S

    def _is_first(self, peer: Peer) -> bool:
        """Whether we keep our attempt when both sides start at once: the side with the smaller public key
        does.

        That side answers the other's initiation and keeps its own attempt too, which may have been sent
        before the other side was there. The other side drops its own. So whichever initiation arrives is
        completed.
        """
        return self._context.address.public_key < peer.config.address.public_key

    def _on_response(self, peer: Peer, frame: HandshakeFrame, now: float) -> bool:
        attempt = peer.handshake.attempt
        if attempt is None or frame.receiver != attempt.local_index:
            peer.drops[DropReason.NO_SESSION] += 1
            return False
        if not self._is_worth_reading(peer, now):
            peer.drops[DropReason.HANDSHAKE_FLOOD] += 1
            return False
        try:
            pair, hello = attempt.finish(frame, now)
        except RemoteProtocolError:
            self._refuse(peer, DropReason.HANDSHAKE_REFUSED)
            return False
        pair.rekey_at = now + self._context.settings.rekey_after_s
        peer.rtt_s = now - attempt.started_at
        self._forget(peer.session.initiated(pair))
        self._remember(peer, pair)
        self._finished(peer, now)
        self._learn(peer, hello, now)
        return True

    def _finished(self, peer: Peer, now: float) -> None:
        """There are new current keys. An attempt of ours has succeeded, or one of theirs was faster."""
        self.give_up(peer)
        peer.handshake.finished_at = now
        peer.timers.clear(Timer.GIVE_UP_HANDSHAKE)
        peer.timers.set(Timer.ERASE_KEYS, peer.session.ends_at)

    def _learn(self, peer: Peer, hello: Hello, now: float) -> None:
        self._path_manager.greeted(peer, hello, now)
        peer.shared_key.met(hello.instance, now)
        peer.handshake.clock_ahead_s = (hello.wall_clock_ns - self._context.wall_clock_ns()) / 1e9

    def _hello(self, counter: int) -> Hello:
        return Hello(
            counter,
            self._context.settings.features,
            sum(1 << k for k in self._path_manager.links),
            self._context.settings.mtu,
            MAX_BATCH_BYTES,
            self._context.wall_clock_ns(),
            self._instance,
        )

    def _remember(self, peer: Peer, pair: KeyPair) -> None:
        self.by_index[pair.local_index] = self.by_low_index[pair.local_index & INDEX_MASK] = peer, pair

    def _forget(self, pairs: list[KeyPair]) -> None:
        for pair in pairs:
            self.by_index.pop(pair.local_index, None)
            self.by_low_index.pop(pair.local_index & INDEX_MASK, None)

    def _new_index(self) -> int:
        """One whose lower 24 bits no other has: datagrams carry no more."""
        taken = {index & INDEX_MASK for index in self._attempts}
        while True:
            index = int.from_bytes(self._context.rng(4), "little")
            low = index & INDEX_MASK
            if low and low not in self.by_low_index and low not in taken:
                return index


def _decode(data: bytes) -> HandshakeFrame | DropReason:
    """The handshake frame in these bytes, or why it is refused."""
    if not is_handshake(data):
        return DropReason.NOT_OURS
    try:
        return decode_handshake(data)
    except WrongVersionError:
        return DropReason.WRONG_VERSION
    except RemoteProtocolError:
        return DropReason.MALFORMED
