"""Recognising a captive portal: it answers with a redirect or a page where a seed would answer with JSON."""

from __future__ import annotations

import re
from urllib.parse import quote, urljoin, urlsplit

REDIRECTS = frozenset({301, 302, 303, 307, 308})  # RFC 9110 section 15.4
MUST_LOG_IN = 511  # RFC 6585 section 6
MAX_URL = 200  # characters; guessed: a terminal's two lines
_QUERY = re.compile(r"\?\S*")
_URL_SAFE = "%/:?#[]@!$&'()*+,;=-._~"  # RFC 3986: what stands for itself


def login_page(asked: str, status: int, location: str, content_type: str, body: bytes) -> str | None:
    """The page to open if this answer to a request to `asked` comes from a portal; otherwise None.

    The URL is safe to print: http or https, ASCII, at most `MAX_URL` characters, without a login. `location`
    and `content_type` are the headers' values, "" when absent.
    """
    if status in REDIRECTS and location:
        return cleaned(location, base=asked) or cleaned(asked)
    if status == MUST_LOG_IN or (status == 200 and _is_html(content_type, body)):
        return cleaned(asked)
    return None


def over_tls(asked: str, status: int, location: str) -> str | None:
    """The target of a permanent redirect to https on the same host, which no portal sends; otherwise None."""
    if status not in (301, 308) or not location:
        return None
    try:
        was, now = urlsplit(asked), urlsplit(urljoin(asked, location))
        is_same = (was.scheme, now.scheme) == ("http", "https") and was.hostname == now.hostname
        return now.geturl() if is_same and now.port != 0 and now.username is None else None
    except ValueError:
        return None


def cleaned(url: str, *, base: str = "") -> str | None:
    """The URL (maybe relative to `base`) in a form that is safe to print; None if it is not a usable URL.

    If it is too long, its query is removed, then its path.
    """
    try:
        parts = urlsplit(urljoin(base, url))
        host, port = parts.hostname or "", parts.port
        path = quote(parts.path or "/", safe=_URL_SAFE)
        query = f"?{quote(parts.query, safe=_URL_SAFE)}" if parts.query else ""
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host or not host.isascii():
        return None
    place = quote(host, safe="-._~:")
    place = f"[{place}]" if ":" in place else place
    start = f"{parts.scheme}://{place}{f':{port}' if port else ''}"
    candidates = (start + path + query, start + path, f"{start}/")
    return next((found for found in candidates if len(found) <= MAX_URL), None)


def without_query(text: str) -> str:
    """The sentence without the query of its URL: portals put a different number into each."""
    return _QUERY.sub("", text)


def _is_html(content_type: str, body: bytes) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("text/html", "application/xhtml+xml") or body.lstrip()[:1] == b"<"
