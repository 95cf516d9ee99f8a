"""What a `[[peer]]` section says of how much a peer may use: `rate`, `quota`, `paused`. Text to values."""

from __future__ import annotations

import re

from nconnect.errors import ConfigError
from nconnect.model import PeerConfig, Quota

MIN_RATE, MAX_RATE = 64_000, 100 * 10**9  # bits a second
MIN_QUOTA, MAX_QUOTA = 1_000_000, 10**18  # bytes
MAX_WHY_CHARS = 200
_UNITS: dict[str, int] = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_PLACES, _SCALE = 12, 10**12  # digits after the point, at most
_NUMBER = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,12}))?([kKMGT]?)")
_QUOTA = re.compile(r"([^/]*)/(day|month)")


def parse_rate(text: str) -> int:
    """Bits a second: `50M`, `1.5G`, `800k` (powers of 1000). Raises `ConfigError`."""
    rate = _number(text.strip())
    if rate is None or not MIN_RATE <= rate <= MAX_RATE:
        raise ConfigError(f"{text!r} is not a rate: write bits a second such as 50M, from 64k to 100G")
    return rate


def parse_quota(text: str) -> Quota:
    """Bytes in each calendar day or month (UTC): `100G/month`, `5G/day`. Raises `ConfigError`."""
    found = _QUOTA.fullmatch(text.strip())
    size = None if found is None else _number(found[1].strip())
    if found is None or size is None or not MIN_QUOTA <= size <= MAX_QUOTA:
        raise ConfigError(
            f"{text!r} is not a quota: write bytes and a period such as 100G/month or 5G/day, from 1M on"
        )
    return Quota(size, "day" if found[2] == "day" else "month")


def check_why(text: str) -> str:
    """The reason that a paused peer is told; "" is none. Raises `ConfigError`."""
    if len(text) > MAX_WHY_CHARS or not all(each.isprintable() for each in text):
        raise ConfigError(f"must be one line of at most {MAX_WHY_CHARS} printable characters")
    return text


def format_rate(rate: int) -> str:
    return _text(rate)


def format_quota(quota: Quota) -> str:
    return f"{_text(quota.bytes)}/{quota.period}"


def as_written(peer: PeerConfig) -> dict[str, str | None]:
    """A peer's `rate`, `quota` and `paused` as the file has them; None where it does not."""
    return {
        "rate": None if peer.rate is None else format_rate(peer.rate),
        "quota": None if peer.quota is None else format_quota(peer.quota),
        "paused": peer.paused,
    }


def _number(text: str) -> int | None:
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    whole, unit = found[1], "k" if found[3] == "K" else found[3]
    fraction: str = found[2] or ""
    return int(whole + fraction.ljust(_PLACES, "0")) * _UNITS[unit] // _SCALE


def _text(number: int) -> str:
    """The shortest text that is read as the same number."""
    for unit, factor in reversed(_UNITS.items()):
        if number >= factor and number * 1000 % factor == 0:
            rest = f".{number % factor * 1000 // factor:03}".rstrip("0.") if number % factor else ""
            return f"{number // factor}{rest}{unit}"
    return str(number)
