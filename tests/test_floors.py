"""Imports go downward only, and the lower three floors touch neither the clock nor the machine."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "nconnect"
FLOORS = {
    "model": 1, "config": 1, "errors": 1,
    "wire": 2, "ip": 2, "crypto": 2, "queueing": 2,
    "tunnel": 3, "invite": 3, "nkn": 3, "node": 3, "host": 3, "doctor": 3,
    "io": 4, "control": 4, "sdk": 4,
    "daemon": 5,
    "cli": 6, "__main__": 6,
}  # fmt: skip
IMPURE = {"asyncio", "socket", "os", "time", "random", "secrets", "subprocess", "threading"}
MODULES = sorted(p for p in ROOT.rglob("*.py"))


def floor_of(module: str) -> int:
    parts = module.split(".")[1:]
    for length in (2, 1):
        floor = FLOORS.get(".".join(parts[:length]))
        if floor is not None and len(parts) >= length:
            return floor
    return 0  # the package itself


def imports_of(path: Path) -> list[str]:
    """Every module that is imported when the file's module is (imports inside functions count too)."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(node.module or "")
            if node.module == "nconnect":
                found += [f"nconnect.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downward_only(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    floor = floor_of(module)
    for imported in imports_of(path):
        if imported.startswith("nconnect."):
            assert floor_of(imported) <= floor or module == "nconnect.nkn", (
                f"{module} imports {imported} from above"
            )
        elif 1 <= floor <= 3:
            assert imported.partition(".")[0] not in IMPURE, f"{module} is pure but imports {imported}"


# What each part of the checkout may not import: the package ships alone, and the tests stand on the lab.
ABOVE = {"nconnect": {"lab", "tests", "netns_tests"}, "lab": {"tests", "netns_tests"}}


@pytest.mark.parametrize("part", ABOVE)
def test_no_part_imports_what_stands_on_it(part: str) -> None:
    for path in (ROOT.parent / part).rglob("*.py"):
        above = {name for name in imports_of(path) if name.partition(".")[0] in ABOVE[part]}
        assert not above, f"{path.relative_to(ROOT.parent)} imports {above}"
