"""Token buckets by host, and the bound on their table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.queueing.rate_limiter import RateLimiter, limit_key


def test_a_burst_then_the_rate() -> None:
    limiter = RateLimiter(10.0, 100)
    assert sum(limiter.allow("192.0.2.1", 5.0) for _ in range(150)) == 100
    assert not limiter.allow("192.0.2.1", 5.05)
    assert limiter.allow("192.0.2.1", 5.15)
    assert sum(limiter.allow("192.0.2.1", 10.0) for _ in range(150)) in (48, 49)
    assert sum(limiter.allow("192.0.2.1", 10_000.0) for _ in range(150)) == 100


def test_hosts_do_not_share() -> None:
    limiter = RateLimiter(1.0, 1)
    assert limiter.allow("192.0.2.1", 0.0)
    assert not limiter.allow("192.0.2.1", 0.0)
    assert limiter.allow("192.0.2.2", 0.0)


def test_a_site_of_ipv6_addresses_is_one_host() -> None:
    limiter = RateLimiter(1.0, 1)
    assert limiter.allow("2001:db8:1:2::1", 0.0)
    assert not limiter.allow("2001:db8:1:2:ffff::9", 0.0)
    assert limiter.allow("2001:db8:1:3::1", 0.0)


def test_no_rate_allows_all_and_remembers_nothing() -> None:
    limiter = RateLimiter(None, 1)
    assert all(limiter.allow("192.0.2.1", 0.0) for _ in range(1000))
    assert len(limiter) == 0


def test_the_table_is_bounded() -> None:
    limiter = RateLimiter(10.0, 1, max_hosts=100)
    for n in range(1000):
        limiter.allow(f"10.0.{n // 256}.{n % 256}", n * 0.001)
    assert len(limiter) == 100
    assert not limiter.allow("10.0.3.231", 1.0), "the latest is still known"


def test_a_clock_that_stands_or_goes_back_gives_no_tokens() -> None:
    limiter = RateLimiter(10.0, 1)
    assert limiter.allow("192.0.2.1", 100.0)
    assert not limiter.allow("192.0.2.1", 99.0)
    assert not limiter.allow("192.0.2.1", 99.0)


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::"),
        ("2001:db8:a:b:c:d:e:f", "2001:db8:a:b::"),
        ("", ""),
        ("no address", "no address"),
    ],
)
def test_limit_key(host: str, key: str) -> None:
    assert limit_key(host) == key


@given(st.text(max_size=50))
def test_any_host_has_a_key(host: str) -> None:
    assert isinstance(limit_key(host), str)
