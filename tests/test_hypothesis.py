"""No property test fails because the machine is busy: all of them use the profile of `tests/conftest.py`."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import HealthCheck, settings


def test_the_profile_is_in_force() -> None:
    assert settings.default is not None
    assert settings.default.deadline is None
    assert HealthCheck.too_slow in settings.default.suppress_health_check


def test_no_test_has_its_own_deadline_or_health_checks() -> None:
    """One that sets `suppress_health_check` replaces the profile's list, and would be flaky again."""
    here = Path(__file__)
    others = [path for path in here.parent.rglob("*.py") if path not in (here, here.with_name("conftest.py"))]
    own = re.compile(r"\bdeadline=|suppress_health_check")
    assert [path for path in others if "hypothesis" in (text := path.read_text()) and own.search(text)] == []
