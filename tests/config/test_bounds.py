from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.config.bounds import (
    MAX_QUOTA,
    MAX_RATE,
    MIN_QUOTA,
    MIN_RATE,
    check_why,
    format_quota,
    format_rate,
    parse_quota,
    parse_rate,
)
from nconnect.errors import ConfigError
from nconnect.model import Quota


@pytest.mark.parametrize(
    ("text", "rate"),
    [("50M", 50_000_000), ("1.5G", 1_500_000_000), ("800k", 800_000), ("800K", 800_000), ("64000", 64_000)],
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "M", "fast", "-5M", "0", "63k", "101G", "5 M", "5MB", "1e9", "5.M", "٥M", "9" * 400, "5M/s"]
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a rate: write bits a second such as 50M"):
        parse_rate(text)


def test_quotas() -> None:
    assert parse_quota("100G/month") == Quota(100 * 10**9, "month")
    assert parse_quota("1.5T/day") == Quota(1_500 * 10**9, "day")


@pytest.mark.parametrize(
    "text",
    ["", "/", "100G", "100G/", "/day", "100G/week", "100G/Month", "1k/day", "-1G/day", "NaN/day", "inf/day",
     "1G/day/day", "9999999T/day", "1G month"],
)  # fmt: skip
def test_what_is_no_quota(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a quota: write bytes and a period"):
        parse_quota(text)


@given(st.integers(MIN_RATE, MAX_RATE))
def test_a_rate_is_written_as_it_is_read(rate: int) -> None:
    assert parse_rate(format_rate(rate)) == rate


@given(st.integers(MIN_QUOTA, MAX_QUOTA), st.sampled_from(["day", "month"]))
def test_a_quota_is_written_as_it_is_read(size: int, period: str) -> None:
    quota = Quota(size, "day" if period == "day" else "month")
    assert parse_quota(format_quota(quota)) == quota


def test_short_texts() -> None:
    assert format_rate(50_000_000) == "50M"
    assert format_rate(1_500_000_000) == "1.5G"
    assert format_quota(Quota(100 * 10**9, "month")) == "100G/month"


@pytest.mark.parametrize("text", ["a\nb", "a\x1b[2J", "x" * 201])
def test_a_reason_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="must be one line"):
        check_why(text)
    assert check_why("") == ""
