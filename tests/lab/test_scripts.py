"""The scripts' own words: what a person sees who asks for help or mistypes."""

from __future__ import annotations

import subprocess

import pytest

from lab import CHECKOUT


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=60)


@pytest.mark.parametrize(
    "name",
    [
        "setup",
        "lock",
        "demo",
        "test",
        "bench",
        "package",
        "docs",
        "reference",
        "pictures",
        "lib/common.sh",
        "lib/official.sh",
        "../.ci/run",
    ],
)
def test_every_script_is_well_formed(name: str) -> None:
    found = run("bash", "-n", f"scripts/{name}")
    assert found.stderr == ""
    assert found.returncode == 0


def test_setup_explains_itself() -> None:
    done = run("scripts/setup", "--help")
    assert done.returncode == 0
    for option in ("--dev", "--demo", "--quiet", "--json"):
        assert option in done.stdout


def test_setup_refuses_an_unknown_option() -> None:
    done = run("scripts/setup", "--frobnicate")
    assert done.returncode == 2
    assert "--frobnicate" in done.stderr


def test_the_locks_name_no_registry() -> None:
    for lock in (*CHECKOUT.glob("requirements/*.lock"), CHECKOUT / "package-lock.json"):
        text = lock.read_text()
        assert "index-url" not in text
        assert '"resolved"' not in text
    for lock in CHECKOUT.glob("requirements/*.lock"):
        assert "://" not in lock.read_text()
        assert "--hash=sha256:" in lock.read_text()
