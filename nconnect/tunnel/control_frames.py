"""Control frames: records other than packets. Pings, pongs, delivery reports, lists of links. Pure.

They are sent in small batches of their own, under the session's keys. A keepalive is an empty batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nconnect.crypto.aead import TAG_BYTES
from nconnect.errors import DropReason, RemoteProtocolError
from nconnect.tunnel.handshakes import Handshakes
from nconnect.tunnel.outputs import Context, Pong, Send
from nconnect.tunnel.paths.lanes import Lane
from nconnect.tunnel.paths.manager import PathManager
from nconnect.tunnel.peer import Peer
from nconnect.wire.tunnel import (
    LEG_BODY,
    PING_BODY,
    SHARED_KEY_BODY,
    RecordKind,
    control_batch,
    decode_links,
    encode_links,
)

MAX_PINGS = 16  # of one peer that may be unanswered


class ControlFrames:
    """Sends control frames, and acts on those that arrive."""

    def __init__(self, context: Context, path_manager: PathManager, handshakes: Handshakes) -> None:
        self._context = context
        self._path_manager = path_manager
        self._handshakes = handshakes

    def send(
        self, peer: Peer, now: float, *records: tuple[RecordKind, bytes], lane: Lane | None = None
    ) -> None:
        """Send these records as one batch, on `lane` or else the best one. Does nothing without a key."""
        lane = lane or peer.relayed.lane
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
        self._context.timer_heap.schedule(peer)
        if now >= pair.rekey_at:
            self._handshakes.initiate(peer, now)
        self._context.outputs.append(Send(lane.dest, peer.relayed.prefix(header, size) + out, lane.link))

    def ping(
        self, peer: Peer, now: float, lane: Lane | None = None, *records: tuple[RecordKind, bytes]
    ) -> int | None:
        """Measure the round trip to a peer: the id that its `Pong` will have, or None without a session.

        The ping goes over `lane`, or else the best one, in one batch with `records`.
        """
        if not peer.can_send(now):
            self._handshakes.initiate(peer, now)
            return None
        lane = lane or peer.relayed.lane
        ping_id = int.from_bytes(self._context.rng(8))
        if len(peer.pinged_at) >= MAX_PINGS:
            peer.pinged_at.pop(next(iter(peer.pinged_at)))
        peer.pinged_at[ping_id] = (now, lane)
        self.send(peer, now, (RecordKind.PING, PING_BODY.pack(ping_id)), *records, lane=lane)
        return ping_id

    def probe(self, peer: Peer, lanes: Iterable[Lane], now: float) -> None:
        """Ping on each of these lanes to see whether it is alive, and tell the peer which links we have."""
        links, revision = self._path_manager.links, self._path_manager.revision
        for lane in lanes:
            if not peer.relayed.watches and len(links) == 1 and not revision:
                self.ping(peer, now, lane)
                continue
            if self.ping(peer, now, lane, (RecordKind.LINKS, encode_links(revision, links))) is None:
                return
            peer.relayed.lanes.asked(lane, now)
        if peer.relayed.watches:
            self._path_manager.watch(peer, now)

    def received(
        self,
        peer: Peer,
        kind: int,
        body: memoryview,
        now: float,
        back: Lane,
        is_busy: Callable[[], bool],
        leg_s: Callable[[int], float | None],
    ) -> None:
        """One from an authentic batch, other than CLOSE; `back` is the lane to answer on.

        `is_busy` and `leg_s` are asked as `BatchReceiver.received` says.
        """
        if kind == RecordKind.PING:
            leg = leg_s(back.link) if back is not peer.relayed.lanes.stream else None  # that has no node
            us = None if leg is None else min(int(leg * 1e6), 0xFFFF_FFFF)
            before = [] if us is None else [(RecordKind.LEG, LEG_BODY.pack(us))]
            self.send(peer, now, *before, (RecordKind.PONG, bytes(body)), lane=back)
            if back is not peer.relayed.lanes.stream and peer.relayed.lanes.doubts_stream(now):
                self.probe(peer, peer.relayed.lanes.watched, now)
        elif kind == RecordKind.PONG:
            self._on_pong(peer, body, now)
        elif kind == RecordKind.LEG:
            back.leg_s = LEG_BODY.unpack(body)[0] / 1e6
        elif kind == RecordKind.SHARED_KEY:
            peer.shared_key.told_at = now - SHARED_KEY_BODY.unpack(body)[0]
        elif kind == RecordKind.FEEDBACK:
            self._on_report(peer, body, now, back, is_busy())
        elif kind == RecordKind.LINKS:
            self._on_links(peer, body, now)
        elif peer.datagrams is not None:
            if kind == RecordKind.CANDIDATES:
                peer.datagrams.machine.on_candidates(body, now)
            elif kind == RecordKind.DIRECT_FEEDBACK:
                peer.datagrams.on_report(body, now, by_datagram=False, busy=is_busy())

    def _on_pong(self, peer: Peer, body: memoryview, now: float) -> None:
        (ping_id,) = PING_BODY.unpack(body)
        sent_at, lane = peer.pinged_at.pop(ping_id, (None, peer.relayed.lane))
        if sent_at is None:
            return
        lane.took(now - sent_at)
        if lane is peer.relayed.lane:
            peer.rtt_s = now - sent_at
        self._path_manager.answered(peer, lane, now)
        self._context.outputs.append(Pong(peer, ping_id, now - sent_at, lane.link, lane.leg_s))

    def _on_report(self, peer: Peer, body: memoryview, now: float, back: Lane, busy: bool) -> None:
        for lane in (back, *peer.relayed.lanes.all):  # reports come back on their own lane where possible
            rtt_s = lane.sending.on_report(body, now, busy=busy)
            if rtt_s is not None:
                if peer.relayed.watches:
                    lane.took(rtt_s)
                    self._path_manager.answered(peer, lane, now)
                return

    def _on_links(self, peer: Peer, body: memoryview, now: float) -> None:
        try:
            revision, links = decode_links(body)
        except RemoteProtocolError:
            peer.drops[DropReason.BAD_RECORD] += 1
            return
        if self._path_manager.links_told(peer, revision, links, now):
            self.probe(peer, peer.relayed.lanes.used, now)
