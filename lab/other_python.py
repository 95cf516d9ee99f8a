"""The unit tests on another Python that is on this machine: `python -m lab.other_python 3.13`.

Its libraries are in `.venv-3.13`: the locked ones, made again when the locks change.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys

from lab import CHECKOUT
from lab.interpreters import interpreters

LOCKS = tuple(CHECKOUT / "requirements" / f"{name}.lock" for name in ("runtime", "dev", "build"))


def environment(version: str) -> str:
    """The interpreter of a virtual environment for this version, which has what the tests need."""
    major, minor = map(int, version.split("."))
    folder = CHECKOUT / f".venv-{version}"
    python, stamp = folder / "bin" / "python", folder / "stamp"
    wanted = hashlib.sha256(b"".join(lock.read_bytes() for lock in LOCKS)).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run((interpreters()[major, minor], "-m", "venv", folder), check=True)
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        locks = [word for lock in LOCKS for word in ("-r", lock)]
        subprocess.run((*pip, "--require-hashes", *locks), check=True)
        subprocess.run((*pip, "--no-deps", "--no-build-isolation", "--editable", CHECKOUT), check=True)
        stamp.write_text(wanted)
    return str(python)


def main() -> None:
    python = environment(sys.argv[1])
    tests = ("-m", "pytest", "tests", "-q", "-m", "not slow", "-p", "no:cacheprovider")
    os.execv(python, (python, *tests))


if __name__ == "__main__":
    main()
