"""The Python interpreters on this machine that nconnect supports, besides the one that runs this."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SUPPORTED = ((3, 11), (3, 12), (3, 13))  # Debian 12 has 3.11, Debian 13 has 3.13

ANSWER_S = 60.0  # on a machine with other work

Version = tuple[int, int]


def interpreters() -> dict[Version, str]:
    """The program of each supported version that is here, in order; our own version is `sys.executable`."""
    own = sys.version_info[0], sys.version_info[1]
    found = {own: sys.executable}
    for version in SUPPORTED:
        if version not in found and (program := _find(version)):
            found[version] = program
    return dict(sorted(found.items()))


def _find(version: Version) -> str:
    for candidate in _candidates(version):
        code = "import sys, ensurepip; print(*sys.version_info[:2])"
        try:
            done = subprocess.run(
                (candidate, "-I", "-c", code),
                capture_output=True,
                text=True,
                timeout=ANSWER_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0 and done.stdout.split() == [str(number) for number in version]:
            return candidate
    return ""


def _candidates(version: Version) -> Iterator[str]:
    name = "python{}.{}".format(*version)
    for root in (os.environ.get("PYENV_ROOT", ""), Path.home() / ".pyenv"):
        if root:
            yield from map(str, sorted(Path(root).glob(f"versions/{name[6:]}.*/bin/{name}"), reverse=True))
    if program := shutil.which(name):
        yield program
