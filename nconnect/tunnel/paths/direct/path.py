"""The direct path to one peer: found, judged by what is delivered, and left when it fails. Pure.

The package's text is its theory of operation, and says how to drive it.
"""

from __future__ import annotations

from collections import Counter, deque
from math import inf

from nconnect.errors import DropReason, RemoteProtocolError
from nconnect.model import Deadline, DirectMode, Endpoint, Rng
from nconnect.tunnel.paths.direct import reasons
from nconnect.tunnel.paths.direct.candidates import to_probe
from nconnect.tunnel.paths.direct.comeback import Comeback
from nconnect.tunnel.paths.direct.constants import (
    BACK_OFF_S,
    BASE_BYTES,
    BETTER_TIMES,
    CHOOSE_AFTER_S,
    DEAD_PENALTY_S,
    GIVE_UP_AFTER_S,
    KEEPALIVE_BUSY_S,
    LET_GO_S,
    LOSSY_PENALTY_S,
    OTHER_PAIR_EVERY_S,
    QUESTION_AFTER_S,
    ROAMED_EVERY_S,
    SEARCH_S,
    SLOWER_BY_S,
    STALE_MAPPING_S,
    SUSPECT_AFTER_S,
    TRAFFIC_S,
    TRIGGERED_EVERY_S,
)
from nconnect.tunnel.paths.direct.deadlines import Deadlines, PathTimer
from nconnect.tunnel.paths.direct.delivery import Delivery
from nconnect.tunnel.paths.direct.finder import Finder, is_elsewhere
from nconnect.tunnel.paths.direct.keepalive import Keepalive, KeepaliveStep
from nconnect.tunnel.paths.direct.mtu import MtuSearch
from nconnect.tunnel.paths.direct.outputs import Answered, AskReflexive, Output, PathState, StateChanged
from nconnect.tunnel.paths.direct.pair import Pair
from nconnect.tunnel.paths.direct.probes import QUESTION_DATAGRAM_BYTES, Probes, Purpose
from nconnect.tunnel.paths.direct.surroundings import Surroundings
from nconnect.wire.direct import Candidate, Candidates, NatVerdict, ProbeAck, decode_probe


class DirectPath:
    """One peer's direct path."""

    def __init__(self, surroundings: Surroundings, *, now: float, rng: Rng, mode: DirectMode = "on") -> None:
        self.state = PathState.RELAY
        self.why = reasons.OFF if mode == "off" else reasons.NO_SESSION
        self.relay_is_up = True  # the owner keeps it current, as it does `relay_rtt_s`
        self.seen: Endpoint | None = None  # our address, as the peer saw it last
        self.mtu: MtuSearch | None = None
        self.delivery = Delivery(now)
        self._surroundings = surroundings
        self._outputs: deque[Output] = deque()
        self._probes = Probes(surroundings, self._outputs, rng)
        self._finder = Finder(surroundings, self._probes, self._outputs, mode, now)
        self._at = Deadlines()
        self._has_session = False
        self._current: Pair | None = None  # in DIRECT and SUSPECT
        self._comeback = Comeback(now)
        self._keepalive = Keepalive()  # of the pair in use
        self._traffic_at = -inf
        # A proven pair that the peer uses and we do not: its address, the pair, and when to look at it again.
        self._heard_from: tuple[Endpoint | None, Pair | None, float] = (None, None, -inf)

    # What is so now

    @property
    def carries_direct(self) -> bool:
        """Whether the next packet goes by the direct path."""
        return self._current is not None

    @property
    def carries_relay(self) -> bool:
        """Whether the next packet goes by the relay."""
        return self.state is not PathState.DIRECT

    @property
    def remote(self) -> Endpoint | None:
        """Where data goes, in DIRECT and SUSPECT."""
        return self._current.endpoint if self._current else None

    def is_proven(self, source: Endpoint) -> bool:
        """Whether a probe of ours to this address was answered."""
        pair = self._probes.pairs.get(source)
        return pair is not None and pair.is_proven

    @property
    def theirs(self) -> Candidates | None:
        """What the peer told last of how to reach it."""
        return self._finder.theirs

    def reachable(self) -> list[Candidate]:
        """Those of the peer's addresses that may be sent to at all."""
        around, theirs = self._surroundings, self._finder.theirs
        if theirs is None or theirs.verdict is NatVerdict.OFF:
            return []
        return to_probe(around.network, theirs.entries, own_reflexive=around.reflexive)[0]

    @property
    def rtt_s(self) -> float | None:
        """The round trip of the pair in use."""
        return self._current.rtt_s if self._current else None

    @property
    def datagram_bytes(self) -> int:
        """The largest datagram (UDP payload) for data."""
        return self.mtu.size if self.mtu else BASE_BYTES

    @property
    def mode(self) -> DirectMode:
        return self._finder.mode

    @property
    def drops(self) -> Counter[DropReason]:
        """What the peer sent and was refused."""
        return self._finder.drops

    @property
    def relay_rtt_s(self) -> float | None:
        """The relayed path's round trip."""
        return self._finder.relay_rtt_s

    @relay_rtt_s.setter
    def relay_rtt_s(self, rtt_s: float | None) -> None:
        self._finder.relay_rtt_s = rtt_s

    # What the owner tells

    def session_started(self, now: float) -> None:
        """There are keys, after there were none. Not for a rekey."""
        self._has_session = True
        self._finder.theirs = None
        self._finder.reset(now)
        if self.mode != "off":
            self.why = reasons.IDLE

    def session_ended(self, now: float) -> None:
        """There are no keys any more."""
        self._has_session = False
        self._probes.forget()
        self._to_relay(reasons.NO_SESSION, now)

    def set_mode(self, mode: DirectMode, now: float) -> None:
        """The peer's `direct` setting has changed."""
        if mode == self.mode:
            return
        self._finder.mode = mode
        self._finder.reset(now)
        if mode == "off":
            self._probes.forget()
            self._to_relay(reasons.OFF, now)
            if self._has_session:
                self._finder.tell(self._probes.draw_id())  # the peer need not find out
        elif self.state is PathState.RELAY:
            self.why = reasons.IDLE

    def traffic(self, now: float) -> None:
        """A batch went to the peer or came from it, whichever way."""
        silent_s = now - self._traffic_at
        self._traffic_at = now
        if self.state is PathState.RELAY and self._has_session and self._finder.may_begin(now, silent_s):
            self._search(now)
        if now >= self._comeback.recheck_at:
            self._recheck(now)

    def sent(self, size: int, now: float) -> None:
        """Data of `size` bytes, before sealing, left on the direct path."""
        was_clear = self.delivery.unreported_since is None
        self.delivery.sent(size, now)
        if was_clear:
            self._watch_delivery()
        if self.mtu is not None and self._at[PathTimer.MTU] == inf:
            self._at[PathTimer.MTU] = self.mtu.next_at

    def reported(self, sent_bytes: int, arrived_bytes: int, rtt_s: float | None, now: float) -> None:
        """The peer says that of the first `sent_bytes` of data sent here `arrived_bytes` arrived."""
        current = self._current
        bad_slot = self.delivery.reported(sent_bytes, arrived_bytes, now)
        if current is None:
            return
        if rtt_s is not None:
            current.took(rtt_s)
        if self.state is PathState.SUSPECT:
            since = self.delivery.unreported_since
            if not self.delivery.is_dropping and (since is None or now - since < self._suspect_after_s()):
                self._at[PathTimer.GIVE_UP] = inf
                self._set_state(PathState.DIRECT, "")
        elif self.delivery.is_dropping:
            self._suspect(now)
        elif bad_slot and self.mtu is not None and self.mtu.size > BASE_BYTES:
            self.mtu.doubt(now)
            self._at[PathTimer.MTU] = self.mtu.next_at
        self._watch_delivery()
        if self.delivery.is_lossy and self.relay_is_up and not (self.mtu and self.mtu.is_doubted):
            self._fall(reasons.LOSSY, LOSSY_PENALTY_S, now)

    def too_big(self, size: int, now: float) -> None:
        """The kernel refused a datagram of `size` bytes (EMSGSIZE)."""
        if self.mtu is not None:
            self.mtu.too_big(size, now)
            self._at[PathTimer.MTU] = self.mtu.next_at

    def network_changed(self, now: float) -> None:
        """This device's addresses or default route have changed: what was proven is void."""
        self._finder.end(now)
        self._finder.reset(now)
        self._comeback.forgive(now)
        self.mtu = None
        if self._current is not None:
            if self.relay_is_up:
                self._to_relay(reasons.NETWORK_CHANGED, now)
            elif not self._leave_if_closed(now):
                self._suspect(now)
        if now - self._traffic_at < TRAFFIC_S and self._has_session and self._finder.may_begin(now):
            self._search(now)
        elif self.state is PathState.SEARCH:
            self._set_state(PathState.RELAY, reasons.NETWORK_CHANGED)
        self._watch_search()

    def relay_came_back(self, now: float) -> None:
        """A link to a node is up again: what was told over the old one is lost, and the search with it."""
        if not self._has_session or self._current is not None:
            return
        self._surroundings.doubt_silence()
        if self._finder.search is not None:
            if self._surroundings.wants_reflexive(now):
                self._outputs.append(AskReflexive())
            self._finder.tell_again(now)
            self._watch_search()
        elif now >= self._comeback.direct_from and now - self._traffic_at < TRAFFIC_S:
            self._finder.reset(now)
            if self._finder.may_begin(now):
                self._search(now)

    def candidates_changed(self, now: float) -> None:
        """What we tell peers has changed: a STUN server or the router has answered, or routes of tunnels."""
        self._leave_if_closed(now)
        self._finder.ours_changed(now)
        self._watch_search()

    def _leave_if_closed(self, now: float) -> bool:
        """Whether a route of a tunnel covers the address in use now: our datagrams would be its packets."""
        self._probes.forget_closed()
        if self._current is None or self._probes.may_probe(self._current.endpoint):
            return False
        self._to_relay(reasons.INTO_TUNNEL, now)
        return True

    # What the peer says

    def on_candidates(self, body: bytes | memoryview, now: float) -> None:
        """A CANDIDATES record, which the relay brought."""
        if not self._has_session:
            return
        before = self._finder.theirs
        told = self._finder.on_candidates(body, now, self._current or self._comeback.last)
        if told is None:
            return
        if told.verdict is NatVerdict.OFF:
            self._to_relay(self.why if self.mode == "off" else reasons.PEER_OFF, now, BACK_OFF_S[-1])
            return
        if before is not None and before.verdict is NatVerdict.OFF:
            self._comeback.direct_from = now
        elif before is not None and is_elsewhere(told, before):
            self._comeback.forgive(now)
            self._comeback.peer_moved = True
        self._show_search(now)

    def received(self, source: Endpoint, size: int, newest: bool, now: float) -> bool:
        """An authentic datagram of `size` bytes; `newest`: its counter is the highest so far.

        False when it is to be dropped.
        """
        if not self._has_session or self._finder.mode == "off":
            return False
        known_source, known, until = self._heard_from
        if source is known_source and known is not None and known is not self._current and now < until:
            known.heard_at = (
                now  # the peer uses another proven pair than we do, and that was looked at just now
            )
            return True
        current = self._current
        if current is not None and current.endpoint == source:  # it is proven: no budget
            keepalive = self._keepalive  # no call: this is done for each packet
            current.heard_at = keepalive.heard_at = now
            keepalive.misses = 0
            return True
        self._surroundings.budget.heard(source, size, now)
        if (pair := self._probes.pairs.get(source)) is not None:
            pair.heard_at = now
            if pair.is_proven:
                self._heard_from = source, pair, now + OTHER_PAIR_EVERY_S
        if self._current is not None and newest:
            # It moved, or uses another pair than we do: see whether that is true; `on_ack` decides.
            self._probes.send_rarely(source, now, Purpose.CHECK, ROAMED_EVERY_S)
        return True

    def ping(self, ping_id: int, now: float) -> bool:
        """Measure the round trip of the path in use, whose answer is an `Answered`.

        False, and nothing is sent, while packets do not go by it alone. `ping_id`: 64 random bits.
        """
        if self.state is not PathState.DIRECT or self._current is None:
            return False
        return self._probes.send(self._current.endpoint, now, Purpose.PING, probe_id=ping_id)

    def on_probe(self, body: bytes | memoryview, source: Endpoint, size: int, now: float) -> None:
        """A PROBE record in a datagram of `size` bytes from `source`."""
        try:
            probe_id = decode_probe(body)
        except RemoteProtocolError:
            self.drops[DropReason.BAD_RECORD] += 1
            return
        if not self._probes.may_probe(source):
            return
        self._probes.answer(probe_id, source, size, now)
        self._finder.on_probe(source, now)
        self._watch_search()
        if self._finder.search is None and (self._current is not None or now - self._traffic_at > TRAFFIC_S):
            return
        self._probes.send_rarely(source, now, Purpose.SEARCH, TRIGGERED_EVERY_S)

    def on_ack(self, body: bytes | memoryview, source: Endpoint, now: float) -> None:
        """A PROBE_ACK record in a datagram from `source`."""
        try:
            ack = ProbeAck.decode(body)
        except RemoteProtocolError:
            self.drops[DropReason.BAD_RECORD] += 1
            return
        found = self._probes.acknowledged(ack, source, now, is_choosing=self._current is None)
        if found is None:
            return
        pair, asked = found
        if asked.purpose is Purpose.PING:
            self._outputs.append(Answered(ack.probe_id, now - asked.sent_at))
        self.seen = ack.seen
        if pair is self._current:
            self._keepalive.heard(now)
            if asked.purpose is Purpose.MTU and self.mtu is not None:
                self.mtu.acknowledged(asked.size, now)
                self._at[PathTimer.MTU] = self.mtu.next_at
        elif self.state is PathState.SUSPECT:
            self._use(pair, now)
        elif self._current is not None:
            pair.better_times = pair.better_times + 1 if pair.is_better_than(self._current) else 0
            if pair.better_times >= BETTER_TIMES:
                self._use(pair, now)
        elif now >= self._comeback.direct_from and self._at[PathTimer.CHOOSE] == inf and self._is_wanted(now):
            self._at[PathTimer.CHOOSE] = now + CHOOSE_AFTER_S

    # Outputs and time

    def poll_output(self) -> Output | None:
        """What to do next, or None."""
        return self._outputs.popleft() if self._outputs else None

    @property
    def has_output(self) -> bool:
        """Whether `poll_output` has something."""
        return bool(self._outputs)

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout`, and for what."""
        return self._at.next()

    @property
    def next_at(self) -> float:
        """The same without the reason; infinite if never."""
        return self._at.next_at()

    def handle_timeout(self, now: float) -> None:
        """Do what is due. Early calls are harmless."""
        for timer in self._at.due(now):
            self._on_timer(timer, now)

    def _on_timer(self, timer: PathTimer, now: float) -> None:
        if timer is PathTimer.PROBES:
            self._finder.send_due(now)
            self._watch_search()
        elif timer is PathTimer.SEARCH_END:
            self._search_over(now)
        elif timer is PathTimer.CHOOSE:
            self._choose(now)
        elif timer is PathTimer.QUESTION:
            self._question(now)
        elif timer is PathTimer.SUSPECT:
            self._suspect(now)
        elif timer is PathTimer.GIVE_UP:
            self._give_up(now)
        elif timer is PathTimer.KEEPALIVE:
            self._look_alive(now)
        elif timer is PathTimer.LET_GO:
            self._let_go(now)
        elif timer is PathTimer.MTU:
            self._search_mtu(now)

    # The search

    def _search(self, now: float) -> None:
        self._finder.begin(now, self._current or self._comeback.last)
        self._show_search(now)

    def _show_search(self, now: float) -> None:
        """A search may have begun; during a penalty it is for the peer alone."""
        if (
            self.state is PathState.RELAY
            and self._finder.search is not None
            and now >= self._comeback.direct_from
        ):
            self._set_state(PathState.SEARCH, reasons.SEARCHING)
        self._watch_search()

    def _watch_search(self) -> None:
        self._at[PathTimer.PROBES] = self._finder.next_at()
        self._at[PathTimer.SEARCH_END] = self._finder.ends_at()

    def _search_over(self, now: float) -> None:
        """The time of the search is up."""
        if self._at[PathTimer.CHOOSE] < inf:  # an answer came at the last moment
            self._at[PathTimer.CHOOSE] = inf
            self._choose(now)
        if self._finder.search is not None:
            best = self._best(now)
            self._search_failed(self._finder.why_failed() if best is None else self._why_slower(best), now)

    def _search_failed(self, why: str, now: float) -> None:
        self._finder.pause_if_due(now)
        self._finder.end(now)
        self._watch_search()
        if self.state is PathState.SEARCH:
            self._finder.back_off(now, was_direct=self._comeback.was_direct(now))
            self._set_state(PathState.RELAY, why)

    def _choose(self, now: float) -> None:
        """Take the best of the pairs that have just answered, unless the relay is faster.

        Then the search goes on: one answer may have waited for a processor, on either side.
        """
        best = self._best(now)
        if best is not None and self._current is None and not self._why_slower(best):
            self._use(best, now)

    def _best(self, now: float) -> Pair | None:
        """Of the pairs that have answered in this search."""
        fresh = [pair for pair in self._probes.pairs.values() if pair.acked_at > now - SEARCH_S]
        return min(fresh, key=lambda pair: pair.score_s, default=None)

    def _why_slower(self, best: Pair) -> str:
        """ "" if the relay is not faster."""
        relay_s = self.relay_rtt_s if self.relay_is_up else None
        is_slower = relay_s is not None and best.rtt_s > relay_s + SLOWER_BY_S
        return reasons.slower(best.rtt_s, relay_s) if is_slower and relay_s is not None else ""

    def _is_wanted(self, now: float) -> bool:
        return self._finder.search is not None or now - self._traffic_at < TRAFFIC_S

    # The path in use

    def _use(self, pair: Pair, now: float) -> None:
        """Send on this pair from now on."""
        old = self._current or self._comeback.last
        self._finder.end(now)
        self._finder.reset(now)
        self._comeback.used(now, is_first=self._current is None)
        self._current = pair
        pair.better_times = 0
        self._keepalive.heard(now)
        self.delivery.restart(now)
        if self.mtu is None or old is None or old.endpoint != pair.endpoint:
            theirs = self._finder.theirs
            limit = min(self._surroundings.largest, theirs.largest if theirs else BASE_BYTES)
            version = pair.endpoint.address.version
            self.mtu = MtuSearch(now, version=version, limit=limit, rtt_s=pair.rtt_s)
        self._at.clear()
        self._at[PathTimer.KEEPALIVE] = now + KEEPALIVE_BUSY_S
        self._at[PathTimer.LET_GO] = max(self._traffic_at, now) + LET_GO_S
        self._at[PathTimer.MTU] = self.mtu.next_at
        self._set_state(PathState.DIRECT, "")

    def _watch_delivery(self) -> None:
        """Set the timers of the oldest data that was not reported."""
        since = self.delivery.unreported_since
        if since is None or self._current is None:
            self._at[PathTimer.QUESTION] = self._at[PathTimer.SUSPECT] = inf
            return
        asked_at = self._probes.last_sent(self._current.endpoint)
        self._at[PathTimer.QUESTION] = max(since, asked_at) + self._question_after_s()
        suspect_at = since + self._suspect_after_s()
        self._at[PathTimer.SUSPECT] = suspect_at if self.state is PathState.DIRECT else inf

    def _suspect_after_s(self) -> float:
        return max(SUSPECT_AFTER_S, 3 * (self.rtt_s or 0.0))

    def _question_after_s(self) -> float:
        return max(QUESTION_AFTER_S, 1.5 * (self.rtt_s or 0.0))

    def _question(self, now: float) -> None:
        """Data was not reported: the answer to a probe brings a report."""
        if self._current is not None and self.delivery.unreported_since is not None:
            self._probes.send(self._current.endpoint, now, Purpose.CHECK, size=QUESTION_DATAGRAM_BYTES)
            self._at[PathTimer.QUESTION] = now + self._question_after_s()

    def _suspect(self, now: float) -> None:
        """Data does not arrive: send by both, ask on every pair that is known, and look for another."""
        assert self._current is not None
        since = self.delivery.unreported_since
        others = [pair for pair in self._probes.pairs.values() if pair is not self._current]
        proven = [pair for pair in others if since is not None and pair.acked_at > since]
        if proven:
            self._use(min(proven, key=lambda pair: pair.score_s), now)
            return
        if self.mtu is not None:
            self.mtu.fall_back(now)
            self._at[PathTimer.MTU] = self.mtu.next_at
        self._at[PathTimer.SUSPECT] = inf
        self._at[PathTimer.GIVE_UP] = now + GIVE_UP_AFTER_S
        self._set_state(PathState.SUSPECT, reasons.SILENT)
        for pair in (self._current, *others):
            if pair is self._current or pair.heard_at > now - STALE_MAPPING_S:
                self._probes.send(pair.endpoint, now, Purpose.CHECK, size=QUESTION_DATAGRAM_BYTES)
        if self._finder.search is None:  # one of the NATs may have forgotten its ports
            self._surroundings.doubt_reflexive(now)
            self._search(now)

    def _give_up(self, now: float) -> None:
        """Suspect for GIVE_UP_AFTER_S."""
        if self.relay_is_up:
            self._fall(reasons.SILENT, DEAD_PENALTY_S, now)
            return
        # There is no relay: go on, and look for another pair.
        self._at[PathTimer.GIVE_UP] = now + GIVE_UP_AFTER_S
        if self._finder.may_begin(now):
            self._search(now)

    def _look_alive(self, now: float) -> None:
        if self._current is None:
            return
        is_busy = now - self._traffic_at < TRAFFIC_S
        step, self._at[PathTimer.KEEPALIVE] = self._keepalive.due(
            now, is_busy=is_busy, may_be_dead=self.relay_is_up, rtt_s=self._current.rtt_s
        )
        if step is KeepaliveStep.DEAD:
            self._fall(reasons.SILENT, DEAD_PENALTY_S, now)
        elif step is KeepaliveStep.ASK:
            self._probes.send(self._current.endpoint, now, Purpose.CHECK)

    def _let_go(self, now: float) -> None:
        """Nobody has used the path for LET_GO_S: it is found again by the next packet."""
        if now < self._traffic_at + LET_GO_S:
            self._at[PathTimer.LET_GO] = self._traffic_at + LET_GO_S
        else:
            self._to_relay(reasons.IDLE, now)

    def _search_mtu(self, now: float) -> None:
        if self.mtu is None or self._current is None or now - self._traffic_at > TRAFFIC_S:
            return
        was_doubted = self.mtu.is_doubted
        self.mtu.rtt_s = self._current.rtt_s
        size = self.mtu.due(now)
        if was_doubted and not self.mtu.is_doubted:
            self.delivery.forgive()  # large datagrams were lost, and are not sent any more
        if size is not None:
            self._probes.send(self._current.endpoint, now, Purpose.MTU, size=size)
        self._at[PathTimer.MTU] = self.mtu.next_at

    # Back to the relay

    def _fall(self, why: str, penalty_s: float, now: float) -> None:
        """The path failed: the relay carries for a while, and for longer each time."""
        self._to_relay(why, now, self._comeback.penalty_s(penalty_s, now))

    def _to_relay(self, why: str, now: float, penalty_s: float = 0.0) -> None:
        self._finder.end(now)
        self._at.clear()
        self._comeback.left(self._current, penalty_s, now)
        self._current = None
        self._finder.may_begin_at = now + penalty_s
        self._set_state(PathState.RELAY, why)

    def _recheck(self, now: float) -> None:
        """Ask on the pair that worked last whether it works again; only while there is traffic."""
        last = self._comeback.due(now, self._finder.quiet_until)
        if last is not None and self._has_session and self._probes.may_probe(last.endpoint):
            self._probes.send(last.endpoint, now, Purpose.CHECK)

    def _set_state(self, state: PathState, why: str) -> None:
        if (state, why) != (self.state, self.why) or state is PathState.DIRECT:
            self.state, self.why = state, why
            self._outputs.append(StateChanged(state, why, self.remote))
