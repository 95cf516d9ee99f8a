from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lab import interpreters as module
from lab.interpreters import interpreters
from lab.package import python_dependency


def test_our_own_is_there_and_others_are_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = sys.version_info[:2]
    other, broken = [v for v in module.SUPPORTED if v != own]
    for version, prints in ((other, "{} {}".format(*other)), (broken, "2 7")):
        program = tmp_path / "python{}.{}".format(*version)
        program.write_text(f"#!/bin/sh\necho {prints}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    found = interpreters()
    assert found[own] == sys.executable
    assert found[other] == str(tmp_path / "python{}.{}".format(*other))
    assert broken not in found
    assert list(found) == sorted(found)


def test_one_that_does_not_answer_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = next(v for v in module.SUPPORTED if v != sys.version_info[:2])
    program = tmp_path / "python{}.{}".format(*other)
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(module, "ANSWER_S", 0.1)
    assert other not in interpreters()


@pytest.mark.parametrize(
    ("versions", "depends"),
    [
        ([(3, 11)], "python3 (>= 3.11), python3 (<< 3.12)"),
        ([(3, 11), (3, 12), (3, 13)], "python3 (>= 3.11), python3 (<< 3.14)"),
        (
            [(3, 11), (3, 13)],
            "python3 (>= 3.11), python3 (<< 3.12) | python3 (>= 3.13), python3 (<< 3.14)",
        ),
    ],
)
def test_the_package_depends_on_the_pythons_it_fits(versions: list[module.Version], depends: str) -> None:
    assert python_dependency(versions) == depends
