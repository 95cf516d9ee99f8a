"""`python -m tests.fuzz TARGET [libFuzzer's options and corpora]`: one target under Atheris.

Without arguments: for each line on standard input, a JSON list [file, seconds, arguments as above…], fork and
do that. What the fuzzer says goes to the file, it is killed after so many seconds, and its exit status is a
line on standard output. To import everything instrumented takes longer than a short run of a target.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time

import atheris  # type: ignore[import-untyped, unused-ignore]

with atheris.instrument_imports(include=["nconnect"]):
    from tests.fuzz.targets import TARGETS

POLL_S = 0.02


def main() -> None:
    if sys.argv[1:]:
        fuzz(sys.argv[1:])
    for line in sys.stdin:
        log, seconds, *arguments = json.loads(line)
        print(_status(log, seconds, arguments), flush=True)


def fuzz(arguments: list[str]) -> None:
    """Does not return."""
    name, *rest = arguments
    # For -merge libFuzzer starts this program anew, through a shell.
    atheris.Setup([f"{shlex.quote(sys.executable)} -m tests.fuzz {name}", *rest], TARGETS[name])
    atheris.Fuzz()


def _status(log: str, seconds: float, arguments: list[str]) -> int:
    pid = os.fork()
    if pid == 0:
        with open(log, "wb", buffering=0) as out, open(os.devnull, "rb") as nothing:
            for ours, theirs in ((0, nothing), (1, out), (2, out)):
                os.dup2(theirs.fileno(), ours)
        fuzz(arguments)
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()
