"""Looks for a direct path to one peer: when to search, what to tell, whom to probe.

A side searches when there is traffic, and not before `may_begin_at`. It tells the peer its candidates by the
relay, and the peer answers with its own under the same id: so both probe at about the same time, which opens
their NATs for each other. Searches that find nothing become rarer (BACK_OFF_S); one begins at once when
either side's addresses change. What comes of the probes is for `DirectPath` to decide.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace
from math import inf

from nconnect.errors import DropReason, RemoteProtocolError
from nconnect.model import Address, DirectMode, Endpoint
from nconnect.queueing.rate_limiter import RateLimiter
from nconnect.tunnel.paths.direct import reasons
from nconnect.tunnel.paths.direct.budget import Named
from nconnect.tunnel.paths.direct.candidates import to_probe, whereabouts
from nconnect.tunnel.paths.direct.constants import (
    ANSWER_EVERY_S,
    BACK_OFF_S,
    LISTS_BURST,
    LISTS_PER_S,
    LOW_TTL_S,
    MAX_LOW_TTL_S,
    PAUSE_AFTER,
    REMEMBER_S,
    SEARCH_PAUSE_S,
    SILENCE_S,
    STALE_MAPPING_S,
)
from nconnect.tunnel.paths.direct.outputs import AskReflexive, Output, SendCandidates
from nconnect.tunnel.paths.direct.pair import Pair
from nconnect.tunnel.paths.direct.probes import Probes, Purpose
from nconnect.tunnel.paths.direct.search import Search
from nconnect.tunnel.paths.direct.surroundings import Surroundings
from nconnect.wire.direct import Candidates, NatVerdict


class Finder:
    """One peer's searches."""

    def __init__(
        self, surroundings: Surroundings, probes: Probes, outputs: deque[Output], mode: DirectMode, now: float
    ) -> None:
        self.mode: DirectMode = mode
        self.drops: Counter[DropReason] = Counter()
        self.relay_rtt_s: float | None = None
        self.theirs: Candidates | None = None  # what the peer told last
        self.search: Search | None = None
        self.may_begin_at = now
        self.quiet_until = -inf  # nothing is probed before, but by a search of the peer's
        self._surroundings = surroundings
        self._probes = probes
        self._outputs = outputs
        self._named = Named()
        self._lists = RateLimiter(LISTS_PER_S, LISTS_BURST, max_hosts=1, key=str)
        self._ended_at = -inf
        self._failures = 0  # in a row
        self._ours: frozenset[tuple[Address, int]] = frozenset()
        self._answered_id = -1  # the peer's search that was answered last
        self._answered_at = -inf

    def reset(self, now: float) -> None:
        """Something has changed: a search may begin at once."""
        self._failures, self.may_begin_at = 0, now

    def may_begin(self, now: float, silent_s: float = 0.0) -> bool:
        """Whether to search, since there is traffic; `silent_s`: there was none for so long before."""
        if self.search is not None or self.mode == "off":
            return False
        # A pause of the second back-off is long enough for routers to forget the last search.
        return now >= self.may_begin_at or (silent_s >= SILENCE_S and now >= self._ended_at + BACK_OFF_S[1])

    def begin(self, now: float, last: Pair | None, *, search_id: int | None = None) -> None:
        """Search; `last`: the pair that is or was in use. `search_id`: the peer's search, which is joined."""
        is_ours = search_id is None
        if search_id is None:
            drawn = self._probes.draw_id()
            search_id = drawn - drawn % PAUSE_AFTER + self._failures % PAUSE_AFTER
        search = self.search = Search(search_id, now, is_ours=is_ours)
        self._probes.search_id = search_id
        if self._surroundings.wants_reflexive(now):
            self._outputs.append(AskReflexive())
        self.tell(search_id)
        if last is not None and last.acked_at > now - REMEMBER_S and self._probes.may_probe(last.endpoint):
            # Where the mapping may have expired be as careful as with an unknown address.
            is_fresh = last.heard_at > now - STALE_MAPPING_S
            search.add(last.endpoint, now, low_ttl_s=0.0 if is_fresh else self._low_ttl_s(knows_us=False))
            self.send_due(now)

    def tell(self, search_id: int) -> None:
        """Send the peer our candidates."""
        around = self._surroundings
        verdict = NatVerdict.OFF if self.mode == "off" else around.verdict
        entries = around.candidates(self.mode)
        told = Candidates(around.revision, verdict, around.largest, search_id, entries)
        self._outputs.append(SendCandidates(told.encode()))

    def ours_changed(self, now: float) -> None:
        """What we tell has changed."""
        around = self._surroundings
        ours = whereabouts(around.candidates(self.mode), around.verdict)
        if ours != self._ours:
            self._ours = ours
            self._failures, self.may_begin_at = 0, min(self.may_begin_at, now)
        self.tell_again(now)

    def tell_again(self, now: float) -> None:
        """What the peer was told in this search has changed, or may be lost."""
        if self.search is not None:
            self.tell(self.search.id)
            self.search.told_at = now
            self.search.knows_us_at(now + self._low_ttl_s(knows_us=False), now)
            self._add_theirs(now, knows_us=False)

    def on_candidates(self, body: bytes | memoryview, now: float, last: Pair | None) -> Candidates | None:
        """The peer's list: answered, and probed. None when it is refused or ignored."""
        try:
            told = Candidates.decode(body)
        except RemoteProtocolError:
            self.drops[DropReason.BAD_RECORD] += 1
            return None
        if not self._lists.allow("", now):
            self.drops[DropReason.BAD_CANDIDATE] += 1
            return None
        before = self.theirs
        if before and told.search_id == before.search_id and told.revision < before.revision:
            return None  # it was overtaken; a peer that started again counts anew, and searches anew
        is_known = told.search_id == self._answered_id or (
            self.search is not None and told.search_id == self.search.id
        )
        if not is_known:
            if now < self._answered_at + ANSWER_EVERY_S:
                return None
            self._answered_id, self._answered_at = told.search_id, now
        admitted = tuple(each for each in told.entries if self._named.admits(each.endpoint.address, now))
        if len(admitted) < len(told.entries):
            self.drops[DropReason.BAD_CANDIDATE] += len(told.entries) - len(admitted)
            told = replace(told, entries=admitted)
        if self.theirs is None or is_elsewhere(told, self.theirs):
            self._failures = 0
        self.theirs = told
        if told.verdict is NatVerdict.OFF:
            return told
        _, refused = to_probe(self._surroundings.network, told.entries)
        if refused:
            self.drops[DropReason.BAD_CANDIDATE] += refused
        if self.mode == "off" or self.search is not None:
            if not is_known:
                self.tell(told.search_id)
        elif not is_known:
            self.begin(now, last, search_id=told.search_id)
        if self.search is not None:
            # Its answer to our own id says that it has our list, so it has begun to open its NAT for us.
            knows_us = told.search_id == self.search.id and self._is_known(self.search, now)
            if knows_us:
                self.search.answered(now)
            self._add_theirs(now, knows_us=knows_us)
        return told

    def on_probe(self, source: Endpoint, now: float) -> None:
        """An authentic probe came from there: a peer-reflexive candidate, if it is not known."""
        if self.search is not None:
            self.search.heard(source, now)
            self.search.add(source, now)
            self.send_due(now)

    def send_due(self, now: float) -> None:
        """Send the probes that are due."""
        if self.search is not None:
            for endpoint, ttl in self.search.due(now):
                self._probes.send(endpoint, now, Purpose.SEARCH, ttl=ttl)

    def next_at(self) -> float:
        """When to call `send_due`."""
        return self.search.next_at() if self.search is not None else inf

    def ends_at(self) -> float:
        """When the search has failed, if it was not ended before."""
        return self.search.ends_at if self.search is not None else inf

    def end(self, now: float) -> None:
        """End the search, if there is one."""
        if self.search is not None:
            self._surroundings.budget.search_ended(self.search.id)
            self.search = self._probes.search_id = None
            self._ended_at = now

    def pause_if_due(self, now: float) -> None:
        """The search has failed; after some, which both sides know by their ids, nothing is probed then."""
        if self.search is not None and self.search.id % PAUSE_AFTER == PAUSE_AFTER - 1:
            self.quiet_until = now + SEARCH_PAUSE_S

    def back_off(self, now: float, *, was_direct: bool) -> None:
        """The search found nothing that is of use: wait before the next, longer each time.

        `was_direct`: there was a path a short time ago, so it will probably be there again.
        """
        last = 1 if was_direct else len(BACK_OFF_S) - 1
        self.may_begin_at = now + BACK_OFF_S[min(self._failures, last)]
        if self.quiet_until > now:
            self.may_begin_at = now + BACK_OFF_S[1]
        self._failures += 1

    def why_failed(self) -> str:
        """Why the search that is about to end found nothing."""
        probed = self.search is not None and bool(self.search.targets)
        return reasons.why_failed(self.mode, self._surroundings.verdict, self.theirs, probed=probed)

    def _add_theirs(self, now: float, *, knows_us: bool) -> None:
        if self.search is None or self.theirs is None:
            return
        around = self._surroundings
        usable, _ = to_probe(around.network, self.theirs.entries, own_reflexive=around.reflexive)
        low_ttl_s = self._low_ttl_s(knows_us=knows_us)
        for candidate in usable:
            self.search.add(candidate.endpoint, now, low_ttl_s=low_ttl_s)
        self.send_due(now)

    def _is_known(self, search: Search, now: float) -> bool:
        """Whether an answer to our own search means that the peer has all that we told it."""
        told_all = not self._surroundings.is_asking
        return search.is_ours and told_all and now >= search.told_at + 0.9 * (self.relay_rtt_s or 0.0)

    def _low_ttl_s(self, *, knows_us: bool) -> float:
        """For how long probes have a low TTL: until the peer must have begun too."""
        if self._surroundings.is_asking:
            return MAX_LOW_TTL_S  # until `ours_changed`
        relay_s = 0.0 if knows_us else 0.75 * (self.relay_rtt_s or 0.0)
        return min(max(LOW_TTL_S, relay_s), MAX_LOW_TTL_S)


def is_elsewhere(told: Candidates, before: Candidates) -> bool:
    """Whether a peer is in another network than before, by what it tells."""
    return whereabouts(told.entries, told.verdict) != whereabouts(before.entries, before.verdict)
