"""The lock files hold what pyproject.toml asks for, with all that it needs, and nothing else."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

packaging = pytest.importorskip("packaging.requirements", reason="needs packaging (scripts/setup --dev)")

CHECKOUT = Path(__file__).parent.parent
LOCKS = sorted((CHECKOUT / "requirements").glob("*.lock"))
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [("runtime", PROJECT["project"]["dependencies"]), ("dev", PROJECT["dependency-groups"]["dev"])],
    ids=["runtime", "dev"],
)
def test_a_lock_is_what_is_wanted_and_what_that_needs(lock: str, wanted: list[str]) -> None:
    text = (CHECKOUT / "requirements" / f"{lock}.lock").read_text()
    locked = {_name(found) for found in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}
    assert locked == _closure(wanted)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_package_has_hashes_and_no_place_of_its_own(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert "--index" not in text
    for entry in text.replace("\\\n", " ").splitlines():
        if entry.strip() and not entry.startswith("#"):
            assert re.match(r"[\w.-]+==[\w.]+ .*--hash=sha256:[0-9a-f]{64}", entry), entry[:80]


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def _closure(wanted: list[str]) -> set[str]:
    """The names of these requirements and of all that they need here, by what is installed."""
    todo = [packaging.Requirement(text) for text in wanted]
    names: set[str] = set()
    while todo:
        requirement = todo.pop()
        name = _name(requirement.name)
        if name in names or not (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            continue
        names.add(name)
        try:
            todo += map(packaging.Requirement, distribution(name).requires or ())
        except PackageNotFoundError:
            pytest.skip(f"{name} is not installed (scripts/setup --dev)")
    return names
