"""What the daemon sets for its own process before it starts to work."""

from __future__ import annotations

import ctypes
import gc
import os
import sys

_M_TRIM_THRESHOLD = -1  # <malloc.h>
_M_MMAP_THRESHOLD = -3


def keep_freed_memory(limit_bytes: int = 4 << 20) -> None:
    """Let malloc keep up to this much freed memory instead of giving it back and faulting it in again.

    Messages that wait are short-lived objects of up to 256 KiB; by default each would be a pair of system
    calls and 64 page faults (measured: 7 % of the sender's time). Does nothing where libc is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_TRIM_THRESHOLD, limit_bytes)
    mallopt(_M_MMAP_THRESHOLD, limit_bytes)


def collect_rarely() -> None:
    """Leave what is there now out of garbage collection, and look at what comes later less often.

    The hot loop makes no reference cycles; a collection in the midst of it costs milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def switch_threads_soon(after_s: float = 0.0005) -> None:
    """Let the loop's thread go on that soon where another one computes: by default it waits for 5 ms.

    Looks at routes, rules and files run in threads; a packet must not wait for them.
    """
    sys.setswitchinterval(after_s)


def hide_argument(text: str) -> None:
    """Remove a secret from this process's command line, which every user of the machine can read.

    Overwrites the kernel's view of it (proc(5), cmdline); Python's copy stays. If that is not possible it
    does nothing: to be certain, read secrets from standard input.
    """
    try:
        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end: fields 48 and 49
        with open("/proc/self/cmdline", "rb") as cmdline:
            shown = cmdline.read()
    except (OSError, IndexError, ValueError):
        return
    secret = os.fsencode(text)
    at = shown.find(secret) if secret else -1
    if start and at >= 0 and start + at + len(secret) <= end:
        ctypes.memset(start + at, ord("x"), len(secret))
