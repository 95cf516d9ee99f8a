"""docs/security.md names a test for each claim: each of them exists."""

from __future__ import annotations

import re
from pathlib import Path

from lab.attack.rows import PARTS

ROOT = Path(__file__).parent.parent
NAMED = re.compile(r"`((?:netns_)?tests/[\w/]+\.py)::(test_\w+)`")


def test_every_test_that_is_named_exists() -> None:
    named = NAMED.findall((ROOT / "docs" / "security.md").read_text())
    assert len(named) >= 30
    for file, test in named:
        assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.M), f"{file}::{test}"


def test_every_row_of_a_table_names_one() -> None:
    text, _, attacks = (ROOT / "docs" / "security.md").read_text().partition("\n| part |")
    text += attacks.partition("\n| tried |")[2]
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| it could"):
            assert NAMED.search(line), line


def test_every_attack_that_is_named_exists() -> None:
    known = {attack.name for rows in PARTS.values() for attack in rows}
    section = (ROOT / "docs" / "security.md").read_text().partition("\n| part |")[2].partition("\n\n")[0]
    named = re.findall(r"`(\w+)`", section)
    assert len(named) == len(set(named)) >= 50
    assert set(named) <= known
