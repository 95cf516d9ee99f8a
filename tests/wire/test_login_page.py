"""Which answers come from a captive portal, and which of their URLs may be shown."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.wire.login_page import MAX_URL, cleaned, login_page, over_tls

ASKED = "http://203.0.113.7:30003"
HOME = "http://203.0.113.7:30003/"


@pytest.mark.parametrize(
    ("status", "location", "content_type", "body", "page"),
    [
        (302, "http://portal.example/login", "", b"", "http://portal.example/login"),
        (307, "https://portal.example/?a=1", "", b"", "https://portal.example/?a=1"),
        (301, "/login", "", b"", "http://203.0.113.7:30003/login"),
        (303, "//portal.example", "", b"", "http://portal.example/"),
        (302, "javascript:alert(1)", "", b"", HOME),
        (302, "ftp://portal.example/", "", b"", HOME),
        (302, "http://[", "", b"", HOME),
        (200, "", "text/html; charset=utf-8", b"", HOME),
        (200, "", "", b"\r\n <!DOCTYPE html><title>Log in</title>", HOME),
        (511, "", "text/plain", b"log in", HOME),
        (302, "", "", b"", None),
        (200, "", "application/json", b'{"id": "1"}', None),
        (200, "", "", b"", None),
        (403, "", "text/html", b"<html>", None),
        (500, "", "text/html", b"<html>", None),
    ],
)
def test_a_portal_is_told_from_a_seed(
    status: int, location: str, content_type: str, body: bytes, page: str | None
) -> None:
    assert login_page(ASKED, status, location, content_type, body) == page


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://bob:hunter2@portal.example/x#y", "http://portal.example/x"),
        ("HTTP://Portal.Example", "http://portal.example/"),
        ("http://[fd00::1]:8080/x", "http://[fd00::1]:8080/x"),
        ("http://p/\x1b[31m\u202e", "http://p/%1B[31m%E2%80%AE"),
        ("http://p/?" + "x" * 300, "http://p/"),
        ("http://p/" + "x" * 300, "http://p/"),
        ("http://" + "p" * 300, None),
        ("http://bücher.example/", None),
        ("http:///x", None),
        ("http://p:99999/", None),
        ("data:text/html,x", None),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str | None) -> None:
    assert cleaned(url) == shown


@given(st.text(max_size=300))
def test_whatever_a_portal_says_is_safe_to_print(location: str) -> None:
    for text in (location, f"http://{location}", f"http://p/{location}", f"https://p/?{location}"):
        page = login_page(ASKED, 302, text, "", b"")
        assert page is None or (page.isascii() and page.isprintable() and len(page) <= MAX_URL)
        assert page is None or (" " not in page and urlsplit(page).scheme in ("http", "https"))
        over_tls(ASKED, 301, text)


@pytest.mark.parametrize(
    ("asked", "status", "location", "moved"),
    [
        ("http://seed.example:30003", 308, "https://seed.example/", "https://seed.example/"),
        ("http://seed.example:80/", 301, "https://SEED.example:30005/rpc", "https://SEED.example:30005/rpc"),
        ("http://seed.example:80/", 302, "https://seed.example/", None),
        ("http://seed.example:80/", 308, "https://other.example/", None),
        ("http://seed.example:80/", 308, "http://seed.example:81/", None),
        ("https://seed.example/", 308, "https://seed.example/x", None),
        ("https://seed.example/", 308, "http://seed.example/", None),
        ("http://seed.example/", 308, "https://bob@seed.example/", None),
        ("http://seed.example/", 308, "https://[", None),
    ],
)
def test_only_the_same_host_over_tls_is_followed(
    asked: str, status: int, location: str, moved: str | None
) -> None:
    assert over_tls(asked, status, location) == moved
