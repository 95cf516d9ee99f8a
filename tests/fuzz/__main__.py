"""`python -m tests.fuzz TARGET [libFuzzer's options and corpora]`: one target under Atheris."""

from __future__ import annotations

import shlex
import sys

import atheris  # type: ignore[import-untyped, unused-ignore]

with atheris.instrument_imports(include=["nconnect"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name = sys.argv.pop(1)
    # For -merge libFuzzer starts this program anew, through a shell.
    sys.argv[0] = f"{shlex.quote(sys.executable)} -m tests.fuzz {name}"
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
