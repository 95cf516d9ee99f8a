"""Which lane each peer's traffic takes, as links come and go on either side. Pure.

The only module that changes `Peer.path` and `Peer.relayed`. `paths.lanes` says what a lane is and when it is
dead, and `paths.scheduler` distributes flows over several; this joins the two so that no flow overtakes
itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nconnect.model import Rng
from nconnect.tunnel.constants import MAX_BATCH_BYTES
from nconnect.tunnel.paths.direct.outputs import PathState
from nconnect.tunnel.paths.feedback import Arrivals
from nconnect.tunnel.paths.lanes import QUIET_S, STREAM_NUMBER, Lane
from nconnect.tunnel.paths.path import Path
from nconnect.tunnel.paths.scheduler import Scheduler
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.timer_heap import TimerHeap
from nconnect.tunnel.timers import Timer
from nconnect.wire.tunnel import MAX_LINKS, MAX_PACKET_BODY_BYTES, RECORD_HEADER_BYTES, Hello


class PathManager:
    """Our links, and the lanes of all peers. `links` is never empty: number -> tag of its node."""

    def __init__(self, timer_heap: TimerHeap, rng: Rng) -> None:
        self.links: dict[int, int] = {0: 0}
        self.revision = 0  # of `links`
        self._timer_heap = timer_heap
        self._rng = rng

    def set_links(self, links: Mapping[int, int]) -> bool:
        """Our links that are up; whether they changed. If none is, the last ones stay until one is back."""
        if not links or links == self.links:
            return False
        self.links = dict(links)
        self.revision += 1
        return True

    def link_to_try(self, attempt: int) -> int:
        """The link for the handshake message of attempt `attempt` (from 0): each in turn."""
        links = sorted(self.links)
        return links[attempt % len(links)]

    def pair(self, peer: Peer, now: float, theirs: Mapping[int, int] | None = None) -> None:
        """Use the lanes between our links and the peer's: `theirs`, or what is known of them."""
        lanes = peer.relayed.lanes
        left = lanes.pair(self.links, lanes.theirs if theirs is None else theirs, now)
        self._leave(peer, left, now)

    def stream_opened(self, peer: Peer, link: int, now: float) -> Lane:
        """A direct TCP stream to the peer is open, as our link `link`, in place of an earlier one."""
        self.stream_closed(peer, now)
        lanes = peer.relayed.lanes
        old, before = peer.relayed.lane, lanes.used
        lanes.open_stream(link, now)
        self._change(peer, old, before, now)
        return lanes.best

    def stream_closed(self, peer: Peer, now: float) -> None:
        """The stream is closed, if there was one: what was under way on it is lost."""
        lanes = peer.relayed.lanes
        if lanes.stream is not None:
            closed = lanes.stream
            closed.dead = True
            lanes.choose()
            self._leave(peer, [closed], now)
            lanes.forget_stream()
            peer.relayed.watches = len(lanes.watched) > 1
            peer.relayed.lane_arrivals.pop(STREAM_NUMBER, None)

    def greeted(self, peer: Peer, hello: Hello, now: float) -> None:
        """A handshake has told what the peer takes, and which links it has: no tags, and no revision yet."""
        path = peer.relayed
        path.links_revision = -1
        known = path.lanes.theirs
        self.pair(peer, now, {k: known.get(k, 0) for k in range(MAX_LINKS) if (hello.links or 1) >> k & 1})
        path.features = hello.features
        if peer.datagrams is not None:
            peer.datagrams.features = hello.features
        smallest = MAX_PACKET_BODY_BYTES + RECORD_HEADER_BYTES
        path.batch_bytes = max(smallest, min(hello.batch_bytes, MAX_BATCH_BYTES))

    def links_told(self, peer: Peer, revision: int, links: Mapping[int, int], now: float) -> bool:
        """The peer's list of its links came; whether that changed anything."""
        path = peer.relayed
        if revision <= path.links_revision:
            return False
        path.links_revision = revision
        if links == path.lanes.theirs:
            return False
        self.pair(peer, now, links)
        return True

    def choose_path(self, peer: Peer, now: float) -> None:
        """A stream that lives carries packets, else the path over UDP while it is direct, else relays."""
        stream, datagrams = peer.relayed.lanes.stream, peer.datagrams
        by_udp = datagrams is not None and datagrams.machine.state is PathState.DIRECT
        if datagrams is not None and by_udp and (stream is None or stream.dead):
            self._carry(peer, datagrams, now)
        else:
            self._carry(peer, peer.relayed, now)

    def _carry(self, peer: Peer, path: Path, now: float) -> None:
        """Packets go by this path of the peer's from now on; those that wait go with it.

        On a direct path they wait for what is under way over nodes, so that no flow overtakes itself.
        """
        before = peer.path
        if path is before:
            return
        waiting = [
            (flow, *item)
            for queue in before.queues
            for flow, _ in queue.flows()
            for item in queue.take_flow(flow)
        ]
        before.scheduler = None
        peer.path = path
        for flow, record, size, since in waiting:
            path.lane.queue.enqueue(flow, record, size, since)
        if path is peer.datagrams:
            relayed = peer.relayed.lane
            relayed.rtt_s = max(relayed.rtt_s or 0.0, peer.rtt_s or 0.0) or None  # the smoothed one lags
            peer.datagrams.lane.rtt_s = peer.datagrams.machine.rtt_s
            peer.datagrams.sending.wait_for(peer.relayed.lanes.used, path.lane, now)

    def watch(self, peer: Peer, now: float) -> None:
        """Something was sent: check soon whether its lane answers."""
        if not peer.timers.is_set(Timer.LANES):
            peer.timers.set(Timer.LANES, now + QUIET_S)
            self._timer_heap.schedule(peer)

    def spread_out(self, peer: Peer, now: float) -> Scheduler:
        """From now on each flow has a lane of its own, until one lane is enough again."""
        if not peer.relayed.stripe_number:  # a new start, or a wrap: the peer must not take it for a late one
            peer.relayed.stripe_number = int.from_bytes(self._rng(4))
        peer.relayed.scheduler = Scheduler(peer.relayed.lanes, now)
        self.watch(peer, now)
        return peer.relayed.scheduler

    def heard_on(self, peer: Peer, number: int, now: float) -> tuple[Arrivals, Lane]:
        """A batch came on the peer's lane `number`: what has arrived on it, and the lane that leads back."""
        lanes = peer.relayed.lanes
        if number != STREAM_NUMBER or lanes.stream is None:
            number %= MAX_LINKS * MAX_LINKS
        back = lanes.of_peer_number(number, now)
        if back is lanes.stream:
            back.heard_at = now
        elif back.heard(now):
            self.choose(peer, now)
        arrivals = peer.relayed.arrivals
        if number:
            arrivals = peer.relayed.lane_arrivals.get(number) or peer.relayed.lane_arrivals.setdefault(
                number, Arrivals()
            )
        return arrivals, back if back is lanes.stream or back.link in self.links else peer.relayed.lane

    def answered(self, peer: Peer, lane: Lane, now: float) -> None:
        """What was sent on this lane has arrived, and the peer has said so."""
        if lane is peer.relayed.lanes.stream:
            lane.heard(now)
            lane.answered_at = now
        self.choose(peer, now)

    def choose(self, peer: Peer, now: float) -> None:
        """Choose the best lane anew; flows that continue on another one must not overtake themselves."""
        lanes = peer.relayed.lanes
        old, before = peer.relayed.lane, lanes.used
        lanes.choose()
        self._change(peer, old, [lane for lane in before if lane not in lanes.used], now)

    def judge(self, peer: Peer, now: float) -> list[Lane]:
        """Leave the lanes that are dead; returns those that should be pinged."""
        ask, died = peer.relayed.lanes.judge(now)
        self._leave(peer, died, now)
        return ask

    def close_up(self, peer: Peer, now: float) -> None:
        """After `judge` and its pings: go back to one lane if that is enough, else look again soon."""
        if peer.relayed.scheduler is not None and peer.relayed.scheduler.close_up(now):
            peer.relayed.scheduler = None
        if peer.relayed.scheduler is not None or peer.relayed.lanes.is_watching():
            peer.timers.set(Timer.LANES, peer.relayed.lanes.judge_at(now))

    def _change(self, peer: Peer, old: Lane, left: Iterable[Lane], now: float) -> None:
        """Another lane may be the best than `old`; `left` are not in use any more."""
        new = peer.relayed.lanes.best
        if new is not old:
            new.pinned_hold.add(old, new, now)
            if peer.relayed.scheduler is None and not new.pinned_hold.is_over(now):
                self.spread_out(peer, now)
        self._leave(peer, left, now)

    def _leave(self, peer: Peer, lanes: Iterable[Lane], now: float) -> None:
        """Stop using these lanes."""
        path = peer.relayed
        path.lane = path.lanes.best
        path.several, path.watches = len(path.lanes.used) > 1, len(path.lanes.watched) > 1
        for lane in lanes:
            if path.scheduler is None and lane.queue:
                self.spread_out(peer, now)
            if path.scheduler is not None:
                path.scheduler.hand_over(lane, now)
        self.choose_path(peer, now)
