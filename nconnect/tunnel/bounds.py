"""How much may be exchanged with one peer in a second (`rate`): what we send is paced, what comes is policed.

Each side has a rate of its own for the other. A peer that is told ours paces what it sends, and then nothing
is lost; so only what is clearly above it is dropped. Rates are of inner packets, as `Traffic` counts them.
"""

from __future__ import annotations

from nconnect.queueing.token_bucket import TokenBucket

# Guessed. Timers on a busy machine are late by tens of milliseconds; what a rate loses so it may make up.
PACED_BURST_S = 0.05
POLICED_ABOVE = 1.1  # a peer's clock and what it counts differ a little
POLICED_BURST_S = 0.25
MIN_BURST_BYTES = 128 << 10  # two super-packets, which cannot be sent in parts
MIN_TOLD_RATE = 64_000  # bits a second, as the lowest `rate` of a configuration
_EVERY_S = 0.004  # as the pacers of links and lanes: what leaves at once
_PACKET_BYTES = 1500


class Bounds:
    """One peer's, of which there is at least one."""

    __slots__ = ("paced", "policed", "told")

    def __init__(self, rate: int | None, told: int | None, now: float) -> None:
        """Bits a second: our `rate` for the peer, and what the peer lets us send."""
        most = [bits / 8 for bits in (rate, told) if bits is not None]
        assert most, "without any there are no bounds"
        self.told = told
        self.paced = TokenBucket(min(most), min(most) * PACED_BURST_S, now)
        self.policed: TokenBucket | None = None
        if rate is not None:
            above = rate / 8 * POLICED_ABOVE
            self.policed = TokenBucket(above, max(above * POLICED_BURST_S, MIN_BURST_BYTES), now)

    def admits(self, size: int, now: float) -> bool:
        """Whether a packet of `size` bytes that came may pass."""
        if self.policed is None:
            return True
        if not self.policed.budget(now):
            return False
        self.policed.take(size)
        return True

    def next_at(self, now: float) -> float:
        """When a packet may be sent; `now` if one may."""
        return self.paced.next_at(now, max(_PACKET_BYTES, int(self.paced.rate * _EVERY_S)))


def bounds_of(rate: int | None, told: int | None, now: float) -> Bounds | None:
    """None where there are none."""
    return None if rate is None and told is None else Bounds(rate, told, now)
