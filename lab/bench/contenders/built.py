"""Programs that the bench builds from a package registry, once, into a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

BUILD_TIMEOUT_S = 1800
GO_LINE = "go 1.24"  # the least version; a module that is required may want a later one


def cache_folder() -> Path:
    """Where the bench keeps what it builds, outside of the checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "nconnect-bench")


def go_programs(folder: Path, modules: Mapping[str, str], *packages: str) -> str | None:
    """Build commands as FOLDER/NAME where they are missing; return why not, if so.

    `modules` are the versions required. They are the least ones: Go takes a later one where another module of
    them wants it. A module of its own is made, because `go install` asks for lists of versions as well, which
    not every proxy has.
    """
    absent = [package for package in packages if not (folder / package.rpartition("/")[2]).exists()]
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if not absent or go is None:
        return "Go is not installed" if absent else None
    folder.mkdir(parents=True, exist_ok=True)
    required = "".join(f"require {name} {version}\n" for name, version in modules.items())
    (folder / "go.mod").write_text(f"module bench\n\n{GO_LINE}\n\n{required}")
    command = [go, "build", "-mod=mod", "-o", f"{folder}/", *absent]
    return _build(command, folder, {"CGO_ENABLED": "0", "GOFLAGS": ""})


def rust_program(folder: Path, version: str, crate: str, *options: str) -> str | None:
    """Build the command of a Rust crate as FOLDER/bin/CRATE if it is missing; return why not, if so."""
    if (folder / "bin" / crate).exists():
        return None
    cargo = shutil.which("cargo") or shutil.which("cargo", path=str(Path.home() / ".cargo" / "bin"))
    if cargo is None:
        return "Rust is not installed"
    command = [cargo, "install", crate, "--version", version, "--locked", "--root", str(folder), *options]
    return _build(command, folder)


def python_package(folder: Path, version: str, name: str) -> str | None:
    """Install a package without what it depends on into FOLDER, for PYTHONPATH; return why not, if so."""
    if (folder / name).exists():
        return None
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    return _build([*command, f"{name}=={version}"], folder)


def _build(command: Sequence[str], folder: Path, environment: dict[str, str] | None = None) -> str | None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no word why"])[-1]
        return f"building it failed: {last}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"building it failed: {error}"
    return None
