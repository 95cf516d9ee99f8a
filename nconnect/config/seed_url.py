"""A seed's URL: `http://HOST:PORT` or `https://HOST:PORT`, the latter perhaps with a pin.

A pin is the fragment `#sha256=<64 hex digits>`: the SHA-256 of the DER encoding of the only certificate that
the seed may present. With a pin, the certificate's name, dates and issuer are not checked.
"""

from __future__ import annotations

from urllib.parse import urlsplit

PIN = "#sha256="
TLS_SCHEMES = ("https", "wss")


def pin_of(url: str) -> str | None:
    """The pin in the URL, 64 hex digits in lower case; None if it has none."""
    _, mark, pin = url.partition(PIN)
    return pin.lower() if mark else None


def pinned(url: str, pin: str | None) -> str:
    """The URL with this pin; unchanged if it is None."""
    return url if pin is None else url + PIN + pin


def is_secure(url: str) -> bool:
    """Whether the seed is asked over TLS."""
    return url.partition("://")[0].lower() in TLS_SCHEMES


def place_of(url: str) -> tuple[str, int]:
    """Host (lower case, without brackets) and port; ("", 0) if the URL has none."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port or (443 if is_secure(url) else 80)
    except ValueError:
        return "", 0
