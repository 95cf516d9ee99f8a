"""Packets that wait to be sent: which peer's turn it is, and which packets make up the next batch. Pure.

Each lane of each peer has a fair queue (`nconnect.queueing.fq_codel`), in which flows share. Peers share by
bytes, however many flows they have: the one that was given the least has its turn. A peer whose path is
slower than its traffic is skipped until its pacer allows another batch.
"""

from __future__ import annotations

from nconnect.errors import DropReason
from nconnect.ip import offload, packet
from nconnect.ip.refusal import opens, refusal_of
from nconnect.queueing.fq_codel import FairQueue
from nconnect.tunnel.constants import RETURN_S
from nconnect.tunnel.outputs import Deliver
from nconnect.tunnel.paths.lanes import Lane
from nconnect.tunnel.paths.scheduler import Scheduler
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.sessions import Sessions
from nconnect.tunnel.streams.constants import MAX_QUEUED_BYTES, MIN_DATA_BYTES, QUEUED_UNITS
from nconnect.tunnel.timers import NEVER
from nconnect.wire.tunnel import (
    MAX_PACKET_BODY_BYTES,
    RECORD_HEADER_BYTES,
    STRIPE_RECORD_BYTES,
    VIRTIO_HEADER_BYTES,
    put_record,
    put_stripe,
)
from nconnect.wire.tunnel_streams import DATA_HEAD_BYTES

NO_LIMIT = 1 << 30
CREDIT_BYTES = 256 << 10  # guessed: a batch; a flow whose queue is empty at times gets its share nevertheless
# Where each message must be signed, and verified by the node, a few large ones cost less than many small
# ones. So while much is under way, a batch leaves when GATHER_BYTES wait, or GATHER_S after the previous one.
# Measured over the official node: 5 to 10 % less CPU a byte for all three processes, and as much more rate.
GATHER_BYTES = 192 << 10
GATHER_S = 0.002
GATHER_UNDER_WAY_BYTES = 128 << 10


class SendQueue:
    """The packets of all peers that wait."""

    def __init__(self, sessions: Sessions) -> None:
        self.backlog: dict[Peer, None] = {}  # peers with packets that wait, in the order of their turn
        # By link, set by the driver: bytes a second of a slow one; it takes messages now, and each must be
        # signed.
        self.link_rates: dict[int, float | None] = {}
        self.link_signs: dict[int, bool] = {}
        self._sessions = sessions
        self._turn = 0  # `Traffic.turn` of whose turn it was last

    def enqueue(self, peer: Peer, record: bytearray, now: float) -> None:
        """Let a packet (virtio-net header and IP packet) wait; the queue owns `record` from here on."""
        if peer.expired:
            peer.drops[DropReason.PEER_EXPIRED] += 1
            return
        view = memoryview(record)
        if peer.left_at is not None and self._refuse(peer, view, now):
            return
        flow = packet.flow_hash(view[VIRTIO_HEADER_BYTES:])
        path = peer.path
        scheduler = path.scheduler
        if scheduler is None and path.several:
            scheduler = self._sessions.path_manager.spread_out(peer, now)
        lane = path.lane if scheduler is None else scheduler.lane_of(flow, now)
        unit = self._unit(peer, lane)
        pieces = [record] if len(record) <= unit else map(bytearray, offload.cut(view, unit))
        for piece in pieces:
            if scheduler is None:
                lane.queue.enqueue(flow, piece, len(piece), now)
            else:
                scheduler.enqueue(flow, piece, now)
        self._waits(peer)

    def _unit(self, peer: Peer, lane: Lane) -> int:
        """The largest record that the lane should be held by."""
        rate, bounds = self.link_rates.get(lane.link), peer.traffic.bounds
        if bounds is not None:
            rate = min(bounds.paced.rate, rate or bounds.paced.rate)
        return peer.path.unit(lane, rate)

    def _waits(self, peer: Peer) -> None:
        if peer not in self.backlog:
            self.backlog[peer] = None
            # Who had nothing waiting for a while may not make up for all of it.
            peer.traffic.turn = max(peer.traffic.turn, self._turn - CREDIT_BYTES)

    def pull_frames(self, now: float) -> None:
        """Take the frames of streams for which there is room."""
        for peer in list(self._sessions.streams.ready):
            self._pull_of(peer, now)

    def _pull_of(self, peer: Peer, now: float) -> None:
        path = peer.path
        held = {flow: size for queue in path.queues if queue for flow, size in queue.flows()}
        unit = max(self._unit(peer, path.lane), MIN_DATA_BYTES)
        most = min(unit, path.frame_bytes(now)) - DATA_HEAD_BYTES
        room_each = min(MAX_QUEUED_BYTES, QUEUED_UNITS * unit)
        frames = self._sessions.streams.pull(peer, most, held, room_each, now)
        if not frames:
            return
        if path.scheduler is None and path.several:
            self._sessions.path_manager.spread_out(peer, now)
        scheduler = path.scheduler
        for flow, frame in frames:
            if scheduler is None:
                path.lane.queue.enqueue(flow, frame, len(frame), now)
            else:
                scheduler.enqueue(flow, frame, now)
        self._waits(peer)

    def _refuse(self, peer: Peer, record: memoryview, now: float) -> bool:
        """Answer a packet to a peer that has gone offline by a refusal, so that no program waits in vain.

        False while it is to wait, in a connection that may go on when a daemon that restarts is back.
        """
        view = record[VIRTIO_HEADER_BYTES:]
        assert peer.left_at is not None
        if not packet.is_well_formed(view) or (now - peer.left_at < RETURN_S and not opens(view)):
            return False
        peer.drops[DropReason.PEER_LEFT] += 1
        self._sessions.handshakes.initiate(peer, now)  # it may be back, and wait to be asked
        if (refusal := refusal_of(view)) is not None:
            answer = memoryview(bytearray(VIRTIO_HEADER_BYTES) + refusal)
            if peer.translation is not None:
                peer.translation.from_peer(answer)
            self._sessions.outputs.append(Deliver(peer.dest, (answer,)))
        return True

    def next_batch(
        self, arena: bytearray, now: float, room: int = NO_LIMIT, link: int = 0, of: Peer | None = None
    ) -> tuple[Peer, int, int, Lane] | None:
        """Fill `arena` with the next batch that may leave over this link: (peer, bytes, packets, lane).

        None if there is none. A peer that must wait for its path is skipped until `next_send_at`. A batch
        ends with the packet that reaches `room` bytes, or the lane's own budget. `of`: a peer of the backlog,
        whose batches alone are wanted.
        """
        if of is not None:
            return self._next_of(of, arena, now, room, link)
        waiting = list(self.backlog)
        if len(waiting) > 1:
            waiting.sort(key=_turn_of)
        for peer in waiting:
            batch = self._next_of(peer, arena, now, room, link)
            if batch is not None:
                return batch
        return None

    def _next_of(
        self, peer: Peer, arena: bytearray, now: float, room: int, link: int
    ) -> tuple[Peer, int, int, Lane] | None:
        """This peer's next batch; of peers that were given as much, the others come first after that."""
        del self.backlog[peer]
        scheduler, lane, limit = peer.path.scheduler, peer.path.lane, room
        queue = lane.queue
        if not (queue if scheduler is None else scheduler.bytes_held):
            return None  # its session ended, and what waited went with it
        self.backlog[peer] = None
        if scheduler is not None:
            found = scheduler.next_lane(link, now)
            if found is None:
                return None
            lane, queue, limit = found
            limit = min(limit, room)
        elif lane.link != link:
            return None
        lane.gather_at = NEVER
        budget, bounds = lane.sending.budget(now), peer.traffic.bounds
        if bounds is not None:
            budget = min(budget, bounds.paced.budget(now))
        if not budget or not self._sessions.can_send(peer, now):
            return None
        if scheduler is None and queue.bytes_held < GATHER_BYTES and self.gathers(lane, now):
            lane.gather_at = lane.sent_at + GATHER_S
            return None
        limit = min(budget, limit)
        if scheduler is None or queue is lane.queue:
            size, packets = self._fill(peer, queue, arena, now, limit)
        else:
            size, packets = self._fill_striped(peer, scheduler, arena, now, limit)
        if peer in self._sessions.streams.ready:
            self._pull_of(peer, now)
        if not (queue if scheduler is None else scheduler.bytes_held):
            del self.backlog[peer]
        if packets:
            if bounds is not None:
                bounds.paced.take(size - packets * (RECORD_HEADER_BYTES + VIRTIO_HEADER_BYTES))
            self._turn = max(self._turn, peer.traffic.turn)
            peer.traffic.turn += size
            return peer, size, packets, lane
        return None

    def _fill_striped(
        self, peer: Peer, scheduler: Scheduler, arena: bytearray, now: float, limit: int
    ) -> tuple[int, int]:
        size, packets = self._fill(
            peer, scheduler.striped, arena, now, limit + STRIPE_RECORD_BYTES, STRIPE_RECORD_BYTES
        )
        if packets:
            put_stripe(arena, peer.relayed.next_stripe(), scheduler.wait_s(now))
        return size, packets

    def next_send_at(self, now: float) -> float:
        """When a peer that waits for its path may send again; `NEVER` if none does."""
        at = NEVER
        for peer in self.backlog:
            if peer.session.current is None:
                continue
            scheduler, lane = peer.path.scheduler, peer.path.lane
            if peer.traffic.bounds is not None and (may_at := peer.traffic.bounds.next_at(now)) > now:
                at = min(at, may_at)
            elif scheduler is not None:
                at = min(at, scheduler.next_at(now))
            elif not lane.sending.is_clear(now):
                at = min(at, lane.sending.next_at(now))
            elif self.link_signs.get(lane.link, False):
                at = min(at, lane.gather_at)  # perhaps over by now: then at once
        return at

    def gathers(self, lane: Lane, now: float) -> bool:
        """Whether a batch should wait briefly until it is larger (see GATHER_BYTES)."""
        return (
            self.link_signs.get(lane.link, False)
            and now - lane.sent_at < GATHER_S
            and lane.sending.under_way_bytes > GATHER_UNDER_WAY_BYTES
        )

    def _fill(
        self, peer: Peer, queue: FairQueue[bytearray], arena: bytearray, now: float, limit: int, at: int = 0
    ) -> tuple[int, int]:
        path, packets = peer.path, 0
        room = min(len(arena), path.batch_bytes) - RECORD_HEADER_BYTES - MAX_PACKET_BODY_BYTES
        while at <= room and at < limit:
            record = queue.dequeue(now)
            if record is None:
                break
            for piece in path.suited(record):
                if at + RECORD_HEADER_BYTES + len(piece) > len(arena):  # tiny segments, all headers
                    peer.drops[DropReason.TOO_BIG] += 1
                    continue
                at = put_record(arena, at, piece)
                packets += 1
                peer.traffic.tx_bytes += len(piece) - VIRTIO_HEADER_BYTES
        peer.traffic.tx_packets += packets
        return at, packets


def _turn_of(peer: Peer) -> int:
    return peer.traffic.turn
