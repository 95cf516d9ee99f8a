"""How often one host may do something: a token bucket for each, in a table of bounded size."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from math import inf

_MAX_HOSTS = 16_384  # guessed: 2 MB; a host that is pushed out gets a full bucket again
_IPV6_SITE_BITS = 64  # one customer is usually given at least this much


def limit_key(host: str) -> str:
    """What counts as one host: an IPv4 address, or the /64 of an IPv6 address.

    >>> limit_key("::ffff:192.0.2.1"), limit_key("2001:db8::1:2:3:4")
    ('192.0.2.1', '2001:db8::')
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    site = int(address) >> (128 - _IPV6_SITE_BITS) << (128 - _IPV6_SITE_BITS)
    return str(IPv6Address(site))


class RateLimiter:
    """Token buckets by host. `rate_per_s` None: everything is allowed and nothing is stored."""

    def __init__(
        self,
        rate_per_s: float | None,
        burst: float,
        *,
        max_hosts: int = _MAX_HOSTS,
        key: Callable[[str], str] = limit_key,
    ) -> None:
        """`key` maps a host to the bucket that it shares."""
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._max_hosts = max_hosts
        self._key = key
        # host -> (tokens, when they were counted), the one that has not asked for longest first
        self._buckets: dict[str, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def allow(self, host: str, now: float) -> bool:
        """Take one token from the host's bucket; False if none is left."""
        if self._rate_per_s is None:
            return True
        if self.left(host, now) < 1.0:
            return False
        self.take(host, 1.0)
        return True

    def left(self, host: str, now: float) -> float:
        """How many tokens the host's bucket holds."""
        if self._rate_per_s is None:
            return inf
        key = self._key(host)
        tokens, counted_at = self._buckets.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + max(0.0, now - counted_at) * self._rate_per_s)
        self._buckets[key] = (tokens, now)
        if len(self._buckets) > self._max_hosts:
            del self._buckets[next(iter(self._buckets))]
        return tokens

    def take(self, host: str, tokens: float) -> None:
        """Take tokens from a host's bucket, right after a call of `left` for it."""
        if self._rate_per_s is not None:
            key = self._key(host)
            held, counted_at = self._buckets[key]
            self._buckets[key] = (held - tokens, counted_at)
