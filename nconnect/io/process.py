"""What the daemon sets for its own process before it starts to work."""

from __future__ import annotations

import ctypes
import os

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


def has_net_admin() -> bool:
    """Whether this process may configure the network (CAP_NET_ADMIN among its effective capabilities)."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> 12 & 1)
    return os.geteuid() == 0
