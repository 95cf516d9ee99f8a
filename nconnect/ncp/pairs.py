"""The pairs of sub-clients over which a session runs: how much each may carry, and what became of it.

The windows of a session's pairs are shares of one total, as in the official SDKs: what is acknowledged makes
a pair's share larger, what is lost halves it. So a fast pair carries more than a slow one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from nconnect.ncp import settings

_ACK_JITTER_S = 0.2  # guessed: four times what an official receiver waits to acknowledge
_SUSPECT_S = 0.5  # guessed: a pair whose oldest packet waits longer gets new ones only if all pairs do


class SubClientPair:
    """A sub-client of ours and one of the other side's; all packets between them take the same way."""

    __slots__ = (
        "_backed_off_at", "_backoff_before", "_measured_at", "_rttvar_s", "_srtt_s", "acked_sent_at",
        "backoff", "flight", "flight_bytes", "index", "local", "min_rto_s", "remote", "reorder_s", "window",
    )  # fmt: skip

    def __init__(self, index: int, local: str, remote: str, window: float) -> None:
        self.index = index
        self.local = local  # such as "__0__"; "": the bare address
        self.remote = remote
        self.window = window  # in packets
        self.flight: OrderedDict[int, float] = OrderedDict()  # count -> when sent; the oldest first
        self.flight_bytes = 0
        self.acked_sent_at = 0.0  # when the newest packet was sent that was acknowledged
        self.backoff = 1.0
        self.min_rto_s = settings.MIN_OFFICIAL_RTO_S
        self.reorder_s = settings.REORDER_S
        self._backed_off_at = 0.0
        self._backoff_before = 1.0  # for what was sent until then
        self._srtt_s: float | None = None
        self._measured_at = 0.0
        self._rttvar_s = 0.0

    @property
    def rto_s(self) -> float:
        """After how many seconds without an acknowledgement a packet sent now is lost (after RFC 6298)."""
        return self._rto(self.backoff)

    def _rto(self, backoff: float) -> float:
        if self._srtt_s is None:
            return min(settings.FIRST_RTO_S * backoff, settings.MAX_RTO_S)
        rto_s = max(self.min_rto_s, self._srtt_s + max(4 * self._rttvar_s, _ACK_JITTER_S))
        return min(rto_s * backoff, settings.MAX_RTO_S)

    def timed_out_at(self, sent_at: float) -> float:
        """When a packet that was sent then is lost."""
        is_new = sent_at >= self._backed_off_at
        return sent_at + self._rto(self.backoff if is_new else min(self.backoff, self._backoff_before))

    def back_off(self, sent_at: float, now: float) -> None:
        """A packet has timed out: wait longer for what is sent from now on; once for all in flight."""
        if sent_at >= self._backed_off_at:
            self._backoff_before, self._backed_off_at = self.backoff, now
            self.backoff = min(8.0, self.backoff * 2)

    @property
    def srtt_s(self) -> float | None:
        return self._srtt_s

    def measured(self, rtt_s: float, now: float) -> None:
        """A round trip of a packet that was sent once; one in each round trip counts."""
        if now - self._measured_at < (self._srtt_s or 0.0):
            return
        self._measured_at = now
        if self._srtt_s is None:
            self._srtt_s, self._rttvar_s = rtt_s, rtt_s / 2
        else:
            self._rttvar_s += (abs(rtt_s - self._srtt_s) - self._rttvar_s) / 4
            self._srtt_s += (rtt_s - self._srtt_s) / 8

    def is_suspect(self, now: float) -> bool:
        """Whether its oldest packet has waited for long."""
        return bool(self.flight) and now >= self.suspect_at()

    def suspect_at(self) -> float:
        """When it is suspect if nothing is acknowledged; there is something in flight."""
        return next(iter(self.flight.values())) + max(_SUSPECT_S, 2 * (self._srtt_s or 0.0))

    def lost(self, now: float) -> list[int]:
        """The packets in flight that are lost, by time or because much later ones arrived."""
        overtaken = self.acked_sent_at - max(self.reorder_s, (self._srtt_s or 0.0) / 2)
        found: list[int] = []
        for count, sent_at in self.flight.items():
            if self.timed_out_at(sent_at) > now and sent_at >= overtaken:
                break
            found.append(count)
        return found

    def timeout_at(self) -> float | None:
        return self.timed_out_at(next(iter(self.flight.values()))) if self.flight else None


def paired(local_ids: Sequence[str], remote_ids: Sequence[str]) -> list[tuple[str, str]]:
    """Which sub-client talks to which: both sides list their ids in the same order."""
    return list(zip(local_ids, remote_ids, strict=False))


def rescale(pairs: Sequence[SubClientPair], total: float) -> None:
    """Let the windows add up to `total` packets; each keeps at least one."""
    factor = total / sum(pair.window for pair in pairs)
    for pair in pairs:
        pair.window = max(1.0, pair.window * factor)
