"""The life of the session with each peer: when one is wanted, comes up, gets old, is lost and ends. Pure.

Heads the control lane for `nconnect.tunnel.core`: `handshakes` makes key pairs, `control_frames` talks to the
peer's core, `announcements` tells it our statement, `path_manager` chooses lanes, `direct` drives direct
paths, `timer_heap` says whose timers are due. Results go to `outputs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nconnect.errors import DropReason
from nconnect.tunnel.announcements import Announcements
from nconnect.tunnel.constants import (
    ANSWER_S,
    ASK_S,
    KEEPALIVE_S,
    PERSISTENT_KEEPALIVE_S,
    PERSISTENT_RETRY_S,
    QUESTION_S,
    UNANSWERED_S,
)
from nconnect.tunnel.control_frames import ControlFrames
from nconnect.tunnel.direct import DirectPaths
from nconnect.tunnel.handshakes import Handshakes
from nconnect.tunnel.outputs import Context, Deliver, ExpiryChanged, SessionLost, SessionUp, StreamEnds
from nconnect.tunnel.paths.manager import PathManager
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.session import KeyPair
from nconnect.tunnel.streams.table import StreamTable
from nconnect.tunnel.timers import NEVER, Timer
from nconnect.wire.message import Message
from nconnect.wire.tunnel import SHARED_KEY_BODY, RecordKind

EXPIRY_CHECK_S = 60.0  # the wall clock may be set: look again this often


class Sessions:
    """The sessions with all peers, and all that time does to them."""

    def __init__(self, context: Context, last_counter: int) -> None:
        """`last_counter`: of the newest initiation that we ever sent."""
        self.outputs, self.timer_heap = context.outputs, context.timer_heap
        self.path_manager = PathManager(context.timer_heap, context.rng)
        self.handshakes = Handshakes(context, self.path_manager, last_counter)
        self.control_frames = ControlFrames(context, self.path_manager, self.handshakes)
        self.announcements = Announcements(context, self.control_frames)
        self.direct = DirectPaths(context, self.path_manager, self.control_frames)
        self.streams = StreamTable(context)
        self._settings = context.settings
        self._wall_clock_ns = context.wall_clock_ns

    def can_send(self, peer: Peer, now: float) -> bool:
        """Whether packets may leave; if not, a handshake is under way when this returns.

        Nothing is sent to a peer that does not answer: packets wait, so that the newest of each flow is there
        when the peer returns. Otherwise a TCP connection that was cut for a minute would wait for another
        minute, by its own exponential backoff.
        """
        pair = peer.session.current
        if pair is not None and not peer.doubtful and pair.can_send(now):
            return True
        self.handshakes.initiate(peer, now)
        return False

    # What a peer sent

    def receive_handshake(self, peer: Peer, message: Message, now: float, source: str) -> None:
        """An NKN message from a peer's address that is no data frame. Never raises, whatever is in it."""
        if self.handshakes.receive(peer, message, now, source):
            self._answered(peer, now)

    def receive_handshake_directly(self, peer: Peer, frame: bytes, now: float) -> None:
        """A handshake frame that came over the direct path, from a proven address. Never raises."""
        if self.handshakes.receive_directly(peer, frame, now):
            self._answered(peer, now)
            # The same over the direct path: the relay may be why the answer came this way.
            self.direct.say_keepalive(peer, now)

    def _answered(self, peer: Peer, now: float) -> None:
        """An attempt of ours has led to keys."""
        peer.last_received_at = now
        peer.doubtful = False
        peer.timers.keepalive_received()
        # The responder may not send before it has received a batch under these keys: send one now.
        self.control_frames.send(peer, now)
        self._came_up(peer, now)

    def batch_received(self, peer: Peer, pair: KeyPair, size: int, now: float) -> None:
        """An authentic batch of `size` bytes came under `pair`."""
        peer.last_received_at = now
        if peer.doubtful:
            peer.doubtful = False
            peer.keep_newest(now)
            self.outputs.append(SessionUp(peer))
            self.announcements.session_up(peer, now)
        if pair is peer.session.next:
            self.handshakes.confirmed(peer, pair, now)
            self._came_up(peer, now)
        if size:
            peer.timers.data_received(now)
        else:
            peer.timers.keepalive_received()
        if pair is peer.session.current and now >= pair.rekey_on_receive_at:
            self.handshakes.initiate(peer, now)
        if peer.check_at > now + KEEPALIVE_S:
            self.timer_heap.schedule(peer)

    def close_received(self, peer: Peer, now: float) -> None:
        """The peer has announced, in the current session, that it is going away."""
        self._lose(peer, now, f"{peer.name} has gone offline")
        self.streams.end(peer, f"{peer.name} has gone offline", now)
        peer.left_at = now
        if self._settings.persistent:
            peer.timers.set(Timer.PERSISTENT_KEEPALIVE, now + PERSISTENT_RETRY_S)
        self.timer_heap.schedule(peer)

    def _came_up(self, peer: Peer, now: float) -> None:
        peer.left_at = None
        peer.keep_newest(now)
        self.direct.session_up(peer, now)
        timers = peer.timers
        if self._settings.persistent:
            timers.set(Timer.PERSISTENT_KEEPALIVE, now + PERSISTENT_KEEPALIVE_S)
        self.timer_heap.schedule(peer)
        self.outputs.append(SessionUp(peer))
        if peer.shared_key.is_peers(now):
            age_s = int(now - peer.shared_key.seen_at)
            self.control_frames.send(peer, now, (RecordKind.SHARED_KEY, SHARED_KEY_BODY.pack(age_s)))
        self.announcements.session_up(peer, now)
        if peer.relayed.watches:
            self.control_frames.probe(peer, peer.relayed.lanes.watched, now)

    # What happened to us

    def stream_opened(self, peer: Peer, link: int, now: float) -> None:
        """A direct TCP stream to this peer is open, as our link `link`: use it, and measure it."""
        lane = self.path_manager.stream_opened(peer, link, now)
        self.control_frames.probe(peer, [lane], now)

    def set_links(self, peers: Iterable[Peer], links: Mapping[int, int], now: float) -> None:
        """Our links that are up have changed. If none is, the last ones are kept until one is back."""
        if self.path_manager.set_links(links):
            for peer in peers:
                self.path_manager.pair(peer, now)
                if peer.can_send(now):
                    self.control_frames.probe(peer, peer.relayed.lanes.used, now)

    def link_up(self, peers: Iterable[Peer], now: float) -> None:
        """A link came up: what was sent while it was down is lost, so try again now."""
        for peer in peers:
            if peer.expired:
                continue
            peer.keep_newest(now)
            self.direct.relay_came_back(peer, now)
            if peer.handshake.attempt is not None:
                self.handshakes.begin_again(peer, now)
            elif peer.session.current is not None:
                self._ask(peer, now)
                self.announcements.link_up(peer, now)
            elif self._is_wanted(peer):
                self.handshakes.initiate(peer, now)

    def _ask(self, peer: Peer, now: float) -> None:
        """Ask whether the peer is there; that also tells a peer that has given us up that we are back.

        When a node was gone, the peer has lost its link too, perhaps for longer than we have. What we sent
        before its link is back would be lost, and TCP would double its timeout. So packets wait for the
        peer's answer, or for a ping of its own.
        """
        self.control_frames.ping(peer, now)
        if peer.last_received_at is None or now > peer.last_received_at + ASK_S:
            peer.doubtful = True
            peer.timers.set(Timer.UNANSWERED, now + ASK_S)
            self.timer_heap.schedule(peer)

    def close(self, peers: Iterable[Peer], now: float) -> None:
        """Tell every peer that we are going away, and erase all keys."""
        for peer in peers:
            if peer.can_send(now):
                self.control_frames.send(peer, now, (RecordKind.CLOSE, b""))
            self.end(peer, now)

    # In time

    def handle_timeout(self, now: float) -> None:
        """Do what is due. Early calls are harmless."""
        for peer, timer in self.timer_heap.due(now):
            self._on_timer(peer, timer, now)

    def _on_timer(self, peer: Peer, timer: Timer, now: float) -> None:
        if timer is Timer.RETRY_HANDSHAKE:
            # There may be no attempt: ours gave way to one of theirs, which was never confirmed.
            if peer.handshake.attempt is not None or (not peer.can_send(now) and self._is_wanted(peer)):
                self.handshakes.send_initiation(peer, now)
        elif timer is Timer.GIVE_UP_HANDSHAKE:
            self._give_up(peer, now)
        elif timer is Timer.UNANSWERED:
            if not peer.doubtful:
                peer.doubtful = True
                self.outputs.append(SessionLost(peer, f"{peer.name} does not answer"))
            self.handshakes.initiate(peer, now)
        elif timer is Timer.QUESTION:
            if not peer.doubtful and self.control_frames.ping(peer, now) is not None:
                wait_s = min(max(ANSWER_S, 4 * (peer.rtt_s or 0.0)), UNANSWERED_S - QUESTION_S)
                peer.timers.set(Timer.UNANSWERED, now + wait_s)
        elif timer is Timer.KEEPALIVE:
            self.control_frames.send(peer, now)
        elif timer is Timer.PERSISTENT_KEEPALIVE:
            peer.timers.set(Timer.PERSISTENT_KEEPALIVE, now + PERSISTENT_KEEPALIVE_S)
            if self.can_send(peer, now):
                self.control_frames.probe(peer, peer.relayed.lanes.used, now)
        elif timer is Timer.LANES:
            self._look_at_lanes(peer, now)
        elif timer is Timer.REORDER:
            self.outputs.append(Deliver(peer.dest, tuple(peer.relayed.overdue(now))))
            peer.timers.set(Timer.REORDER, peer.overdue_at())
        elif timer is Timer.DIRECT:
            self.direct.on_timer(peer, now)
        elif timer is Timer.STATEMENT:
            self.announcements.advance(peer, now)
        elif timer is Timer.STREAMS:
            self.streams.on_timer(peer, now)
        elif timer is Timer.ERASE_KEYS:
            if not self.handshakes.erase_old(peer, now):
                self._lose(peer, now, f"the keys shared with {peer.name} are too old")
        elif timer is Timer.EXPIRE:
            self.check_expiry(peer, now)

    def _look_at_lanes(self, peer: Peer, now: float) -> None:
        if ask := self.path_manager.judge(peer, now):
            self.control_frames.probe(peer, ask, now)
        self.path_manager.close_up(peer, now)

    def _give_up(self, peer: Peer, now: float) -> None:
        self.handshakes.give_up(peer)
        peer.keep_newest(now)
        if self._settings.persistent:
            peer.timers.set(Timer.PERSISTENT_KEEPALIVE, now + PERSISTENT_RETRY_S)

    def check_expiry(self, peer: Peer, now: float) -> None:
        """Apply the peer's `expires_at` by the present wall clock."""
        expires_at = peer.config.expires_at
        left = NEVER if expires_at is None else expires_at - self._wall_clock_ns() / 1e9
        if peer.expired != (left <= 0):
            peer.expired = left <= 0
            self.outputs.append(ExpiryChanged(peer))
        if left == NEVER:
            peer.timers.clear(Timer.EXPIRE)
        else:
            peer.timers.set(Timer.EXPIRE, now + (min(left, EXPIRY_CHECK_S) if left > 0 else EXPIRY_CHECK_S))
        if peer.expired and (peer.session.current or peer.session.next or peer.handshake.attempt):
            self.end(peer, now)
            self.outputs.append(SessionLost(peer, f"{peer.name} has expired"))

    # The end of one

    def end(self, peer: Peer, now: float) -> None:
        """Erase the keys shared with a peer, and drop what waits for it."""
        self._erase(peer, now)
        peer.clear_queues(DropReason.NO_KEY)
        self.streams.end(peer, f"the session with {peer.name} has ended", now)

    def _lose(self, peer: Peer, now: float, why: str) -> None:
        """Erase the keys of a peer that may return; the newest packets of each flow wait for it."""
        self._erase(peer, now)
        peer.keep_newest(now)
        self.outputs.append(SessionLost(peer, why))

    def _erase(self, peer: Peer, now: float) -> None:
        self.handshakes.erase(peer)
        self.direct.session_ended(peer, now)
        peer.doubtful = False
        peer.pinged_at.clear()
        if peer.relayed.lanes.stream is not None:
            self.outputs.append(StreamEnds(peer))

    def _is_wanted(self, peer: Peer) -> bool:
        """Whether a session with this peer is needed now."""
        return not peer.expired and (self._settings.persistent or peer.path.bytes_held > 0)
