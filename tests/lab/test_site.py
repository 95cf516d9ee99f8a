"""What can be said of the site without building it: `scripts/docs build` checks every link."""

from __future__ import annotations

import re

import pytest

from lab import CHECKOUT

DOCS = CHECKOUT / "docs"
NAV = re.findall(r"^ +- (?:.*: )?([\w/-]+\.md)$", (CHECKOUT / "mkdocs.yml").read_text(), re.MULTILINE)


def test_what_stands_in_the_navigation_is_there_once() -> None:
    assert len(NAV) > 20
    assert [page for page in NAV if not (DOCS / page).is_file()] == []
    assert len(NAV) == len(set(NAV))


@pytest.mark.parametrize("path", sorted((DOCS / "pictures").glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_loads_nothing_and_has_a_background(path: object) -> None:
    text = (DOCS / "pictures" / str(path)).read_text()
    assert re.findall(r"(?:href|src|url)\s*[=(]\s*[\"']?https?://", text) == []
    assert "<rect" in text


def test_the_site_loads_nothing_from_elsewhere() -> None:
    text = (CHECKOUT / "mkdocs.yml").read_text()
    assert "font: false" in text
    assert "://" not in text
