"""The wheel that pipx would install: complete, and runnable on its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent

pytest.importorskip("hatchling", reason="needs hatchling (scripts/setup)")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, timeout=60)
    (built,) = folder.glob("*.whl")
    return built


def test_it_holds_the_whole_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "nconnect").rglob("*.py")}
    assert sources <= names
    assert {name.split("/")[0] for name in names} == {
        "nconnect",
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info",
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_runs_from_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    """The package of the wheel, not of the checkout; its dependencies are those of this environment."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    program = "import nconnect, sys; sys.stdout.write(nconnect.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, check=True, capture_output=True, text=True
    )
    assert Path(where.stdout).is_relative_to(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "nconnect", "version"],
        cwd=tmp_path,
        env=env,
        check=True,
        capture_output=True,
        text=True,
    )
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    assert version in done.stdout


@pytest.mark.slow
def test_it_installs_with_its_dependencies_alone(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, as pipx makes it; needs the network."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=60)
    pip = [str(tmp_path / "venv/bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", str(wheel)], check=True, timeout=100)
    done = subprocess.run(
        [str(tmp_path / "venv/bin/nconnect"), "--help"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert "Usage: nconnect" in done.stdout
