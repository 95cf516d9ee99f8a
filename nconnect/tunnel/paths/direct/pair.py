"""An address of the peer's that answered a probe: a pair of our socket and it."""

from __future__ import annotations

from math import inf

from nconnect.model import Endpoint
from nconnect.tunnel.paths.direct.constants import BETTER_BY, BETTER_BY_S, SEARCH_S

SMOOTHING = 0.25
V6_BONUS = 0.9  # IPv6 wins where it is hardly slower: it has no NAT whose mapping could expire


class Pair:
    """What is known of a path to `endpoint`."""

    __slots__ = ("acked_at", "better_times", "endpoint", "heard_at", "rtt_s")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.acked_at = -inf  # a probe of ours was answered: proof of both directions
        self.heard_at = -inf  # something authentic came from there
        self.rtt_s = 0.0
        self.better_times = 0  # in a row, than the pair that is used

    @property
    def is_proven(self) -> bool:
        return self.acked_at > -inf

    @property
    def score_s(self) -> float:
        """Lower is better."""
        return self.rtt_s * (V6_BONUS if self.endpoint.address.version == 6 else 1.0)

    def took(self, rtt_s: float) -> None:
        self.rtt_s += (rtt_s - self.rtt_s) * SMOOTHING if self.is_proven else rtt_s - self.rtt_s

    def found(self, rtt_s: float, now: float) -> None:
        """A round trip of a search: the least counts, since others waited for something besides."""
        self.rtt_s = min(rtt_s, self.rtt_s) if self.acked_at > now - SEARCH_S else rtt_s

    def is_better_than(self, other: Pair) -> bool:
        """Clearly: by BETTER_BY_S and by the part BETTER_BY."""
        gain = other.score_s - self.score_s
        return gain >= BETTER_BY_S and gain >= BETTER_BY * other.score_s
