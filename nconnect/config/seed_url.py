"""A seed's URL: `http://HOST:PORT` or `https://HOST:PORT`, the latter perhaps with a pin.

A pin is the fragment `#sha256=<64 hex digits>`: the SHA-256 of the DER of the one certificate that the seed
may show. With a pin neither the certificate's name, nor its dates, nor who issued it matter.
"""

from __future__ import annotations

from urllib.parse import urlsplit

PIN = "#sha256="
TLS_SCHEMES = ("https", "wss")


def pin_of(url: str) -> str | None:
    """The certificate that the URL pins, 64 hex digits in lower case; None where it pins none."""
    _, mark, pin = url.partition(PIN)
    return pin.lower() if mark else None


def pinned(url: str, pin: str | None) -> str:
    """The URL with this pin; as it is without one."""
    return url if pin is None else url + PIN + pin


def is_secure(url: str) -> bool:
    """Whether it is asked over TLS."""
    return url.partition("://")[0].lower() in TLS_SCHEMES


def place_of(url: str) -> tuple[str, int]:
    """Host (lower case, without brackets) and port; ("", 0) where it names none."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port or (443 if is_secure(url) else 80)
    except ValueError:
        return "", 0
