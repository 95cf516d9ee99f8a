"""The scripts' own words: what a person sees who asks for help or mistypes."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from lab import CHECKOUT

# The modules that the scripts run.
LABS = sorted(
    name
    for script in (CHECKOUT / "scripts").iterdir()
    if script.is_file()
    for name in re.findall(r"^run_lab (\S+)", script.read_text(), re.M)
)


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


# Makes every package fail to import that is in the lock of the development tools alone.
WITHOUT_TOOLS = """
import importlib.metadata, re, runpy, sys
from pathlib import Path

def locked(name):
    return set(re.findall("^([a-z0-9_.-]+)==", Path(f"requirements/{name}.lock").read_text(), re.M))

tools = locked("dev") - locked("runtime") - locked("demo")

owners = importlib.metadata.packages_distributions()

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if tools & set(owners.get(name, ())):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Refuse())
module = sys.argv.pop(1)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("name", LABS)
def test_help_needs_no_development_tools(name: str) -> None:
    """After `scripts/demo` they are not installed."""
    done = run(sys.executable, "-c", WITHOUT_TOOLS, name, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()
