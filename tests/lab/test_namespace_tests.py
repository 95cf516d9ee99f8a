"""The files of the namespace tests explain themselves."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from lab import CHECKOUT

FILES = sorted((CHECKOUT / "netns_tests").glob("test_*.py"))
CABLE = re.compile(r"──|══|--read-->")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_docstring_says_what_must_hold_and_draws_the_topology(path: Path) -> None:
    rule, _, rest = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")
    assert rule.endswith(".")
    assert CABLE.search(rest), "which machines are there, and what lies between them?"
