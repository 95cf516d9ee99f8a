"""Probes to one peer: those that wait for an answer, the pairs that answered, and answers to the peer's own.

Everything that is sent here passes the budget (`nconnect.tunnel.paths.direct.budget`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from math import inf

from nconnect.model import Endpoint, Rng
from nconnect.tunnel.paths.direct.candidates import may_probe
from nconnect.tunnel.paths.direct.outputs import Output, Transmit
from nconnect.tunnel.paths.direct.pair import Pair
from nconnect.tunnel.paths.direct.surroundings import Surroundings
from nconnect.wire.direct import ProbeAck, encode_probe
from nconnect.wire.tunnel import RecordKind

PROBE_DATAGRAM_BYTES = 64
ACK_DATAGRAM_BYTES = 56
QUESTION_DATAGRAM_BYTES = 96  # its answer carries a report too
MAX_ASKED = 128  # probes that wait for an answer
MAX_PAIRS = 32


class Purpose(Enum):
    """Why a probe was sent."""

    SEARCH = auto()
    CHECK = auto()  # of a pair that is or was in use, or that the peer seems to have moved to
    MTU = auto()
    PING = auto()  # a person asks how long it takes


@dataclass(frozen=True, slots=True)
class Asked:
    """A probe that was sent."""

    endpoint: Endpoint
    sent_at: float
    purpose: Purpose
    size: int


class Probes:
    """One peer's."""

    def __init__(self, surroundings: Surroundings, outputs: deque[Output], rng: Rng) -> None:
        self.pairs: dict[Endpoint, Pair] = {}
        self.search_id: int | None = None  # the search that is under way, for the budget
        self._surroundings = surroundings
        self._outputs = outputs
        self._rng = rng
        self._asked: dict[int, Asked] = {}

    def draw_id(self) -> int:
        """64 random bits: an answer with them comes from somebody who got the probe."""
        return int.from_bytes(self._rng(8))

    def may_probe(self, endpoint: Endpoint) -> bool:
        """For an address that an authentic datagram came from, now or once: private ones too."""
        return may_probe(self._surroundings.network, endpoint, same_nat=True)

    def send(
        self,
        endpoint: Endpoint,
        now: float,
        purpose: Purpose,
        *,
        ttl: int | None = None,
        size: int = PROBE_DATAGRAM_BYTES,
        probe_id: int | None = None,
    ) -> bool:
        """Probe this address, if it may be and the budget allows: whether it was probed."""
        if not self.may_probe(endpoint) or not self._surroundings.budget.take(
            endpoint, size, self.search_id, now
        ):
            return False
        if probe_id is None:
            probe_id = self.draw_id()
        if len(self._asked) >= MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        self._asked[probe_id] = Asked(endpoint, now, purpose, size)
        self._outputs.append(Transmit(endpoint, ((RecordKind.PROBE, encode_probe(probe_id, size)),), ttl))
        return True

    def send_rarely(self, endpoint: Endpoint, now: float, purpose: Purpose, every_s: float) -> None:
        """The same, unless it was probed or has answered within `every_s`."""
        pair = self.pairs.get(endpoint)
        if max(self.last_sent(endpoint), pair.acked_at if pair else -inf) < now - every_s:
            self.send(endpoint, now, purpose)

    def answer(self, probe_id: int, source: Endpoint, size: int, now: float) -> None:
        """Acknowledge a probe that came in a datagram of `size` bytes, if the budget allows."""
        if self._surroundings.budget.take(source, ACK_DATAGRAM_BYTES, self.search_id, now):
            ack = (RecordKind.PROBE_ACK, ProbeAck(probe_id, source).encode())
            reports = size >= QUESTION_DATAGRAM_BYTES
            self._outputs.append(Transmit(source, (ack,), wants_report=reports))

    def acknowledged(
        self, ack: ProbeAck, source: Endpoint, now: float, *, is_choosing: bool
    ) -> tuple[Pair, Asked] | None:
        """An answer came: the pair that it proves. None when it is late, or came by another way.

        `is_choosing`: no pair is in use.
        """
        asked = self._asked.get(ack.probe_id)
        if asked is None or asked.endpoint != source:
            return None
        del self._asked[ack.probe_id]
        self._surroundings.budget.acknowledged(source, now)
        pair = self.pair_at(source)
        if is_choosing:
            pair.found(now - asked.sent_at, now)
        else:
            pair.took(now - asked.sent_at)
        self._surroundings.answered_at = now
        pair.acked_at = pair.heard_at = now
        return pair, asked

    def last_sent(self, endpoint: Endpoint) -> float:
        """When this address was probed last, as far as no answer has come."""
        return max(
            (asked.sent_at for asked in self._asked.values() if asked.endpoint == endpoint), default=-inf
        )

    def forget(self) -> None:
        """Answers that still come count for nothing."""
        self._asked.clear()

    def forget_closed(self) -> None:
        """There are other routes: forget what was proven of addresses that may not be sent to any more."""
        self.pairs = {at: pair for at, pair in self.pairs.items() if self.may_probe(at)}
        self._asked = {n: asked for n, asked in self._asked.items() if self.may_probe(asked.endpoint)}

    def pair_at(self, endpoint: Endpoint) -> Pair:
        """The pair for this address; a new one takes the place of the one that was silent for longest."""
        pair = self.pairs.get(endpoint)
        if pair is None:
            if len(self.pairs) >= MAX_PAIRS:
                del self.pairs[min(self.pairs.values(), key=lambda each: each.heard_at).endpoint]
            pair = self.pairs[endpoint] = Pair(endpoint)
        return pair
