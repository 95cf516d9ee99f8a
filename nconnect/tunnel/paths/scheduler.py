"""The multipath scheduler: which of a peer's lanes each flow takes, while one lane is not enough. Pure.

A flow is pinned to a lane, so that its packets keep their order; a new flow starts on the best lane. Work is
pulled, not pushed: a lane that may send and has nothing to send takes over a share of the bulk flows of a
lane whose queue has stood for a while, and for longer than its own longer round trip costs. So a slow lane is
used only when that helps. If the standing queue belongs to one bulk flow, that flow is *striped*: its packets
go into a queue that all lanes take from, as fast as each may send, in numbered batches that the other side
puts in order again (`nconnect.tunnel.paths.reorder`).

A flow that moves could overtake itself, so the new lane waits until what was under way on the old one has
arrived.
"""

from __future__ import annotations

from math import inf

from nconnect.queueing.fq_codel import MAX_FLOWS, QUANTUM_BYTES, FairQueue
from nconnect.queueing.pacer import UNLIMITED_BYTES
from nconnect.tunnel.constants import QUEUE_BYTES
from nconnect.tunnel.paths.feedback import REPORT_INTERVAL_S
from nconnect.tunnel.paths.lanes import Lane, Lanes, mark

# Guessed, then tried in tests/tunnel/paths/test_scheduler.py and on shaped nodes.
STOOD_S = 0.020  # a queue that stood for so long is more than a burst
_IDLE_S = 1.0  # after such a pause a flow has nothing under way and may be placed anew
BULK_BYTES = 2 * QUANTUM_BYTES  # a flow with that much waiting is bulk
MAX_STRIPE_S = 0.2  # lanes whose round trips differ by more do not share a flow
SLOW_PART = 0.1  # a lane with less than this part of the fastest one's rate takes no part in striping
FIRST_BYTES = 32 << 10  # of striped flows, to be under way on a lane that has not shown what it carries
GROWTH = 1.5  # and so much more than it has shown: what is too much stands there, and holds up the rest
STRIPE_BYTES = 16 << 10  # a batch of a striped flow: what goes over one lane is not shared by the others
STRIPE_S = 0.004  # or what the lane carries in that time, if it is more
UNREPORTED_S = 0.1  # nothing was sent for so long: the last of it has arrived, too little to be reported on
_LOOK_AGAIN_S = 0.005  # whether what a flow is held back for has arrived
TRIAL_S = 1.0  # for so long striping may give less than …
WORTH = 0.9  # … this part of what one lane gave alone
SLACK_S = 0.030  # how much later than its round trip says a batch may come


class _Place:
    """Where a flow goes: `lane` is None while it is striped."""

    __slots__ = ("lane", "last_at")

    def __init__(self, lane: Lane | None, now: float) -> None:
        self.lane = lane
        self.last_at = now


class Scheduler:
    """The flows to one peer over its lanes."""

    def __init__(self, lanes: Lanes, now: float) -> None:
        self.striped: FairQueue[bytearray] = FairQueue(max_bytes=QUEUE_BYTES, mark=mark)
        self._lanes = lanes
        self._places: dict[int, _Place] = {}
        self._striped_turn = False
        # What one lane gave when striping began, in bytes a second; what was striped, and since when.
        self._one_gave = 0.0
        self._striped_bytes = 0
        self._striped_since = now
        self._busy_at = now
        for lane in lanes.all:
            for flow, _ in lane.queue.flows():
                self._places[flow] = _Place(lane, now)

    @property
    def bytes_held(self) -> int:
        return self.striped.bytes_held + sum(lane.queue.bytes_held for lane in self._lanes.all)

    def lane_of(self, flow: int, now: float) -> Lane:
        """The lane that a packet of this flow will take, or for a striped one, the best."""
        place = self._place(flow % MAX_FLOWS, now)
        return place.lane or self._lanes.best

    def enqueue(self, flow: int, record: bytearray, now: float) -> None:
        """Let a packet wait."""
        flow %= MAX_FLOWS
        place = self._place(flow, now)
        place.last_at = now
        lane = place.lane
        if lane is None:
            self.striped.enqueue(flow, record, len(record), now)
            self._striped_bytes += len(record)
            return
        lane.queue.enqueue(flow, record, len(record), now)
        lane.busy_since = min(lane.busy_since, now)

    def next_lane(self, link: int, now: float) -> tuple[Lane, FairQueue[bytearray], int] | None:
        """What may leave over this link of ours now: (lane, queue to take from, bytes), or None."""
        for lane in self._lanes.used:
            if lane.link != link or not lane.sending.budget(now):
                continue
            if lane.dead and lane is not self._lanes.best:
                continue
            if not lane.queue:
                lane.busy_since = inf
                if not self.striped:
                    self._take_over(lane, now)
            room = self._stripe_room(lane, now) if self.striped and lane.striped_hold.is_over(now) else 0
            striped = room > 0
            pinned = bool(lane.queue) and lane.pinned_hold.is_over(now)
            if striped and pinned:
                striped = self._striped_turn = not self._striped_turn
            if striped:
                return lane, self.striped, room
            if pinned:
                return lane, lane.queue, UNLIMITED_BYTES
        return None

    def next_at(self, now: float) -> float:
        """When a lane that has something to send may send it."""
        found = inf
        for lane in self._lanes.used:
            if lane.queue or self.striped:
                hold = lane.pinned_hold if lane.queue else lane.striped_hold
                if not hold.is_over(now) or (not lane.queue and not self._stripe_room(lane, now)):
                    found = min(found, now + _LOOK_AGAIN_S)
                elif not lane.sending.is_clear(now):
                    found = min(found, lane.sending.next_at(now))
        return found

    def wait_s(self, now: float) -> float:
        """How long the peer should let a striped batch wait for those before it, in seconds."""
        lanes = [lane for lane in self._lanes.used if not lane.dead]
        trips = [lane.rtt_s for lane in lanes if lane.rtt_s is not None]
        if not trips:
            return SLACK_S
        # A queue that has just built up on the way is not in the smoothed round trip yet.
        slowest = max(*trips, *(lane.sending.arrives_in_s(now) for lane in lanes))
        return min(slowest - min(trips), MAX_STRIPE_S) + SLACK_S

    def hand_over(self, gone: Lane, now: float) -> None:
        """A lane is dead or no longer in use: move all its flows to the best one."""
        best = self._lanes.best
        for flow in [flow for flow, place in self._places.items() if place.lane is gone]:
            self._move(flow, gone, best, now)

    def close_up(self, now: float) -> bool:
        """Forget idle flows; True if one lane is enough again."""
        places = self._places
        for flow in [flow for flow, place in places.items() if now - place.last_at > _IDLE_S]:
            if (lane := places[flow].lane) is None or not lane.queue:
                del places[flow]
        if any(place.lane is None for place in places.values()):
            self._judge_striping(now)
            self._busy_at = now
        if self.bytes_held:
            self._busy_at = now
            return False
        return now - self._busy_at > _IDLE_S or all(p.lane is self._lanes.best for p in places.values())

    # Below: placing

    def _place(self, flow: int, now: float) -> _Place:
        place = self._places.get(flow)
        if place is None:
            place = self._places[flow] = _Place(self._lanes.best, now)
        elif now - place.last_at > _IDLE_S and not (place.lane.queue if place.lane else self.striped):
            place.lane = self._lanes.best
        return place

    def _stripe_room(self, lane: Lane, now: float) -> int:
        """How large a striped batch may be on this lane now; 0 if none may go, or would arrive too late."""
        best, sending = self._lanes.best, lane.sending
        if lane is not best and (lane.rtt_s or 0.0) - (best.rtt_s or 0.0) > MAX_STRIPE_S:
            return 0
        shown = sending.pacer.acknowledged_rate
        largest = max(STRIPE_BYTES, int(shown * STRIPE_S))
        rate = sending.pacer.rate
        if rate is None:  # not known to be slow: let it show, but not take all at once
            window = max(FIRST_BYTES, int(GROWTH * shown * ((lane.rtt_s or 0.0) + REPORT_INTERVAL_S)))
            under_way = sending.under_way_bytes if now - lane.sent_at < UNREPORTED_S else 0
            return max(0, min(largest, window - under_way))
        fastest = max(other.sending.pacer.rate or 0.0 for other in self._lanes.used)
        return largest if lane is best or rate >= SLOW_PART * fastest else 0

    def _take_over(self, lane: Lane, now: float) -> None:
        """This lane is idle: take flows from the lane whose queue has stood longest, if that helps."""
        donor, since = None, inf
        for other in self._lanes.used:
            if other is not lane and other.queue and other.busy_since < since:
                donor, since = other, other.busy_since
        if donor is None:
            return
        later = (lane.rtt_s or 0.0) - (donor.rtt_s or 0.0)
        if now - since < STOOD_S + max(0.0, later):
            return
        bulk = sorted(
            (flow for flow, size in donor.queue.flows() if size >= BULK_BYTES),
            key=lambda flow: self._places[flow].last_at if flow in self._places else 0.0,
        )
        if len(bulk) == 1:
            if self._stripe_room(lane, now):
                self._stripe(bulk[0], donor, now)
        elif bulk:
            for flow in bulk[: max(1, len(bulk) // 2)]:
                self._move(flow, donor, lane, now)

    def _move(self, flow: int, old: Lane, new: Lane, now: float) -> None:
        place = self._places.setdefault(flow, _Place(new, now))
        place.lane = new
        new.pinned_hold.add(old, new, now)
        for item, size, at in old.queue.take_flow(flow):
            new.queue.enqueue(flow, item, size, at)
        if new.queue:
            new.busy_since = min(new.busy_since, now)

    def _judge_striping(self, now: float) -> None:
        """Undo striping that is no faster than one lane was: its round trip is the slowest lane's."""
        if now - self._striped_since < TRIAL_S:
            return
        rate = self._striped_bytes / (now - self._striped_since)
        self._striped_bytes, self._striped_since = 0, now
        if rate >= WORTH * self._one_gave:
            return
        best = self._lanes.best
        for lane in self._lanes.used:
            if lane is not best:
                best.pinned_hold.add(lane, best, now)
        for flow, place in self._places.items():
            if place.lane is None:
                place.lane = best
                for item, size, at in self.striped.take_flow(flow):
                    best.queue.enqueue(flow, item, size, at)

    def _stripe(self, flow: int, old: Lane, now: float) -> None:
        if all(place.lane is not None for place in self._places.values()):
            self._one_gave = old.sending.pacer.acknowledged_rate
            self._striped_bytes, self._striped_since = 0, now
        self._places.setdefault(flow, _Place(None, now)).lane = None
        for lane in self._lanes.used:
            if lane is not old:
                lane.striped_hold.add(old, lane, now)
        for item, size, at in old.queue.take_flow(flow):
            self.striped.enqueue(flow, item, size, at)
