"""The lanes of a relayed path: each leads from one of our links to one of the peer's. Pure.

A direct TCP stream is one more lane (`nconnect.tunnel.paths.stream`). While it lives it carries everything,
and the others are asked when it is silent, so that a dead stream can be told from a peer that is away. Once
it was asked only an answer counts, since what comes on it may go one way alone.

Link `n` of a side logs in as sub-client `n` (link 0 as the bare address), so a lane is a pair of numbers.
Lanes are chosen so that each link of either side is in one: first pairs at the same node, then the rest in
order (`pair_up`). The one with the shortest round trip is the *best*: sparse flows and control frames use it.
How bulk flows use the others is decided by `nconnect.tunnel.paths.scheduler`.

A lane is *dead* when nothing comes back on it while another one is answered; from then on it is only pinged
now and then. The peer answers pings and reports arrivals on the lane that they came by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf

from nconnect.ip.packet import mark_congestion
from nconnect.model import NknAddress
from nconnect.queueing.fq_codel import FairQueue
from nconnect.queueing.histogram import Histogram
from nconnect.tunnel.constants import QUEUE_BYTES
from nconnect.tunnel.paths.feedback import Sending
from nconnect.wire.tunnel import MAX_LINKS, SPARES, VIRTIO_HEADER_BYTES
from nconnect.wire.tunnel_streams import STREAM_FLAG

# Guessed. A lane is found dead QUIET_S + SILENT_S after it went silent, if something is sent on it.
QUIET_S = 0.3  # sent, and nothing heard for this long: ask
SILENT_S = 0.6  # asked, and others have answered: dead (or three of its round trips, if that is longer)
SOON_S = 0.01
ASK_DEAD_S = 2.0  # how often a dead lane is asked whether it lives
SWITCH_RATIO = 0.7  # another lane is the best one when its round trip is that much shorter …
SWITCH_S = 0.005  # … and by at least this
HOLD_S, HOLD_SLACK_S = 0.5, 0.005  # the report on what was under way at a move is not waited for longer
REPORTED_BYTES = 16 << 10
SPARE_TURN = 8  # of so many attempts the second and third go to the spare links too: every 40 s in the end
STREAM_NUMBER = MAX_LINKS * MAX_LINKS  # of the lane by a direct TCP stream, on both sides
_OLD, _NEW = 0.8, 0.2  # weights of the smoothed round trip


class Lane:
    """One way to the peer. Its queue holds what is pinned to it."""

    __slots__ = (
        "answered_at", "asked_at", "busy_since", "dead", "dest", "gather_at", "heard_at", "leg_s", "link",
        "number", "pinned_hold", "queue", "round_trips", "rtt_s", "sending", "sent_at", "striped_hold",
    )  # fmt: skip

    def __init__(self, link: int, sub_client: int, dest: str, now: float) -> None:
        self.link = link  # ours
        self.dest = dest
        self.number = link * MAX_LINKS + sub_client
        self.queue: FairQueue[bytearray] = FairQueue(max_bytes=QUEUE_BYTES, mark=mark)
        self.sending = Sending(now)
        self.round_trips: Histogram | None = None  # somebody may want to count them
        self.rtt_s: float | None = None  # smoothed
        self.leg_s: float | None = None  # the peer's part of it, as it said last: to its node and back
        self.sent_at = -inf
        self.gather_at = inf  # until then what waits for it gathers: see `send_queue`
        self.heard_at = -inf
        self.answered_at = -inf  # when a stream's question, or what was sent on it, was last answered
        self.asked_at = inf  # when the first question went out that is unanswered
        self.dead = False
        self.busy_since = inf  # since when its queue has never been empty
        self.pinned_hold = Hold()  # a flow that moved here may not overtake itself
        self.striped_hold = Hold()  # the same for striped flows

    def took(self, rtt_s: float) -> None:
        """A round trip on this lane was measured."""
        self.rtt_s = rtt_s if self.rtt_s is None else _OLD * self.rtt_s + _NEW * rtt_s
        if self.round_trips is not None:
            self.round_trips.observe(rtt_s)

    def heard(self, now: float) -> bool:
        """Something came back on it; True if it was considered dead."""
        was_dead, self.dead = self.dead, False
        self.heard_at, self.asked_at = now, inf
        return was_dead


class Hold:
    """What must have arrived over other lanes before something may be sent: a flow keeps its order."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: list[tuple[Lane, int, float]] = []  # lane, bytes to be reported on, at the latest

    def add(self, lane: Lane, new: Lane, now: float) -> None:
        """Before something is sent on `new`, wait for all that is under way on `lane`."""
        sending = lane.sending
        if lane.dead or sending.total_bytes == sending.reported_bytes or now - lane.sent_at > HOLD_S:
            return
        # The last few packets are not reported, so nobody waits much longer than all of it should take.
        patience_s = min(HOLD_S, 2 * sending.arrives_in_s(now) + HOLD_SLACK_S)
        if sending.total_bytes - sending.reported_bytes < REPORTED_BYTES:  # maybe too little for a report
            patience_s = max(0.0, (lane.rtt_s or 0.0) - (new.rtt_s or 0.0)) + HOLD_SLACK_S
        self._marks.append((lane, sending.total_bytes, now + patience_s))

    def is_over(self, now: float) -> bool:
        """Whether it may be sent."""
        if self._marks:
            self._marks = [
                mark for mark in self._marks if mark[0].sending.reported_bytes < mark[1] and now < mark[2]
            ]
        return not self._marks


class Lanes:
    """All lanes to one peer, and those in use: the stream's, or those over relays. `used` is never empty."""

    __slots__ = ("_all", "_dests", "_relays", "best", "ours", "stream", "theirs", "used")

    def __init__(self, address: NknAddress, now: float) -> None:
        """`address` is the peer's, bare."""
        self._dests = (str(address), *(str(address.sub_client(k)) for k in range(1, MAX_LINKS)))
        self._all: dict[int, Lane] = {}
        self.ours: Mapping[int, int] = {0: 0}  # the links that are up, and the tags of their nodes
        self.theirs: Mapping[int, int] = {0: 0}
        self.best = self.lane(0, 0, now)
        self.stream: Lane | None = None  # by a direct TCP stream, while one is open
        self._relays: list[Lane] = [self.best]
        self.used: list[Lane] = self._relays

    @property
    def all(self) -> Iterable[Lane]:
        return self._all.values()

    @property
    def watched(self) -> list[Lane]:
        """Those that must be known to live or to be dead."""
        return self._relays if self.stream is None else [self.stream, *self._relays]

    def lane(self, link: int, sub_client: int, now: float) -> Lane:
        """The lane between these two, whether in use or not."""
        number = link * MAX_LINKS + sub_client
        found = self._all.get(number)
        if found is None:
            found = self._all[number] = Lane(link, sub_client, self._dests[sub_client], now)
        return found

    def of_peer_number(self, number: int, now: float) -> Lane:
        """The lane that leads back to where a batch with the peer's lane `number` came from."""
        if number == STREAM_NUMBER and self.stream is not None:
            return self.stream
        return self.lane(number % MAX_LINKS, number // MAX_LINKS % MAX_LINKS, now)

    def dest_of(self, source: str) -> str:
        """Where to answer a handshake message from `source`: there, if that is an address of the peer."""
        return source if source in self._dests else self._dests[0]

    def dest_to_try(self, attempt: int) -> str:
        """Where to send the handshake message of attempt `attempt` (from 0): each known address in turn."""
        known = sorted(self.theirs)
        return self._dests[known[attempt % len(known)]]

    def stream_to_try(self, attempt: int = 0) -> Lane | None:
        """The stream, for the handshake message of every second attempt, while it lives: it needs no node."""
        return self.stream if self.stream is not None and not self.stream.dead and not attempt % 2 else None

    def spare_dest(self, attempt: int) -> str | None:
        """Where to send an attempt as well: to a spare link of the peer's, since no other may be up.

        None at most attempts, and if the peer has already said that this sub-client is one of its links.
        """
        spare = attempt % SPARE_TURN
        is_turn = 1 <= spare <= SPARES
        return self._dests[spare] if is_turn and spare not in self.theirs else None

    def pair(self, ours: Mapping[int, int], theirs: Mapping[int, int], now: float) -> list[Lane]:
        """Use the lanes between these links; returns the lanes that are no longer in use."""
        if not ours or not theirs or (ours == self.ours and theirs == self.theirs):
            return []
        self.ours, self.theirs = dict(ours), dict(theirs)
        before = self.used
        self._relays = [self.lane(link, sub, now) for link, sub in pair_up(ours, theirs)]
        self.choose()
        return [lane for lane in before if lane not in self.used]

    def open_stream(self, link: int, now: float) -> None:
        """A direct TCP stream is open, as our link `link`: both sides have just proved their keys."""
        lane = self.stream = self._all[STREAM_NUMBER] = Lane(link, 0, self._dests[0], now)
        lane.number, lane.heard_at = STREAM_NUMBER, now
        self.choose()

    def doubts_stream(self, now: float) -> bool:
        """Whether to ask on the stream, since the peer asks on another lane: it hears nothing on it."""
        stream = self.stream
        return (
            stream is not None
            and not stream.dead
            and stream.asked_at == inf
            and now - stream.answered_at >= QUIET_S
        )

    def forget_stream(self) -> None:
        """Nothing waits for the stream's lane any more, which is closed and dead."""
        self.stream = None
        self._all.pop(STREAM_NUMBER, None)

    def choose(self) -> None:
        """Make the fastest lane the best one, unless it is hardly faster than the present best.

        A stream that lives is always the best, and the only one in use.
        """
        stream = self.stream
        self.used = self._relays if stream is None or stream.dead else [stream]
        alive = [lane for lane in self.used if not lane.dead] or self.used
        quickest = min(alive, key=lambda lane: (inf if lane.rtt_s is None else lane.rtt_s, lane.number))
        best = self.best
        if best not in alive or (
            quickest.rtt_s is not None
            and quickest.rtt_s
            < (inf if best.rtt_s is None else min(SWITCH_RATIO * best.rtt_s, best.rtt_s - SWITCH_S))
        ):
            self.best = quickest

    def judge(self, now: float) -> tuple[list[Lane], list[Lane]]:
        """(lanes to ask now, lanes found dead now); `asked` is to be called for each that was asked."""
        ask, died = [], []
        watched = self.watched
        for lane in watched:
            if lane.dead:
                if now - lane.asked_at >= ASK_DEAD_S:
                    ask.append(lane)
            elif lane.asked_at == inf:
                if lane.sent_at > lane.heard_at and now - lane.heard_at >= QUIET_S:
                    ask.append(lane)
            elif now - lane.asked_at >= max(SILENT_S, 3 * (lane.rtt_s or 0.0)) and any(
                other.heard_at > lane.asked_at for other in watched
            ):
                lane.dead = True
                lane.asked_at = now
                died.append(lane)
        if any(not lane.dead for lane in ask):
            # Whether the others answer tells a dead lane from a peer that is away.
            ask += [lane for lane in watched if lane not in ask and not lane.dead and lane.asked_at == inf]
        if died:
            self.choose()
        return ask, died

    def asked(self, lane: Lane, now: float) -> None:
        """A ping went out on this lane."""
        if lane.dead or lane.asked_at == inf:
            lane.asked_at = now

    def judge_at(self, now: float) -> float:
        """When to call `judge` again: soon, and for a stream as soon as it is to be asked or may be dead."""
        stream = self.stream
        if stream is None or stream.dead:
            return now + QUIET_S
        if stream.asked_at < inf:
            due_at = stream.asked_at + max(SILENT_S, 3 * (stream.rtt_s or 0.0))
        else:
            due_at = stream.heard_at + QUIET_S
        return min(now + QUIET_S, max(now + SOON_S, due_at))

    def is_watching(self) -> bool:
        """Whether `judge` has to be called again soon."""
        return any(lane.asked_at < inf or lane.sent_at > lane.heard_at for lane in self.watched)


def pair_up(ours: Mapping[int, int], theirs: Mapping[int, int]) -> list[tuple[int, int]]:
    """The lanes between links, given as number -> tag of the node (0: unknown): (our link, theirs)."""
    left, right = sorted(ours), sorted(theirs)
    pairs = []
    for link in sorted(ours):
        same = next((sub for sub in right if theirs[sub] == ours[link] != 0), None)
        if same is not None:
            pairs.append((link, same))
            left.remove(link)
            right.remove(same)
    for index in range(max(len(left), len(right))):
        link = left[index] if index < len(left) else sorted(ours)[index % len(ours)]
        sub = right[index] if index < len(right) else sorted(theirs)[index % len(theirs)]
        pairs.append((link, sub))
    return pairs


def mark(record: bytearray) -> bool:
    """Mark a queued packet instead of dropping it, where it allows that.

    A stream's frames are not dropped: `tunnel.streams` lets only a little of each stream wait here.
    """
    if record[0] == STREAM_FLAG:
        return True
    return mark_congestion(memoryview(record)[VIRTIO_HEADER_BYTES:])
