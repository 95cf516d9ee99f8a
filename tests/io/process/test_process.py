"""What the daemon sets for its own process, tried in processes of their own."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from nconnect.io.process import process

KEPT = """
import resource, sys
from nconnect.io.process.process import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(50):
    b"x" * 600_000
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(500):
    b"x" * 600_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    root = Path(process.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", KEPT, how], cwd=root, capture_output=True, text=True, check=True, timeout=30
    )
    return int(done.stdout)


def test_freed_memory_is_kept() -> None:
    assert faults("keep") < 1000


def test_another_libc_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    process.keep_freed_memory()

    def fail(name: str | None) -> object:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", fail)
    process.keep_freed_memory()


HIDES = """
import os, sys
from nconnect.io.process.process import hide_argument
hide_argument(sys.argv[1])
sys.stdout.write(open("/proc/self/cmdline").read() + "|" + sys.argv[1])
"""


def test_a_secret_argument_is_blotted_out_for_all_to_see() -> None:
    root = Path(process.__file__).parents[3]
    secret = "nc1-secret"
    done = subprocess.run(
        [sys.executable, "-c", HIDES, secret, "after"], cwd=root, capture_output=True, text=True, check=True
    )
    shown, _, kept = done.stdout.rpartition("|")
    assert secret not in shown
    assert "x" * len(secret) + "\0after" in shown
    assert kept == secret, "the program itself still has it"


def test_hiding_what_is_not_there_does_nothing() -> None:
    before = Path("/proc/self/cmdline").read_bytes()
    for absent in ("", "no such argument of this process"):
        process.hide_argument(absent)
    assert Path("/proc/self/cmdline").read_bytes() == before


def test_a_thread_that_computes_leaves_the_loop_waiting_for_half_a_millisecond() -> None:
    before = sys.getswitchinterval()
    try:
        process.switch_threads_soon()
        assert sys.getswitchinterval() <= 0.001
    finally:
        sys.setswitchinterval(before)
