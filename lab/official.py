"""NKN's own programs, as `scripts/setup --dev` builds them from the modules in `tests/official`."""

from __future__ import annotations

from lab import CHECKOUT
from lab.netns import LabError

MODULES = CHECKOUT / "tests" / "official"
BUILT = CHECKOUT / ".official"


def wanted() -> list[str]:
    """The names of all programs, built or not."""
    return sorted(found.parent.name for found in MODULES.glob("*/go.mod"))


def missing(*names: str) -> list[str]:
    """Those of `names`, by default of all, that are not built."""
    return [name for name in names or wanted() if not (BUILT / name).exists()]


def program(name: str) -> str:
    """The path of a program; `LabError` when it is not built."""
    if missing(name):
        raise LabError(f"{name} is not built: run scripts/setup --dev, which says why if it cannot")
    return str(BUILT / name)
