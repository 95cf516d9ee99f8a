"""Giving up what a process does not need: capabilities for good, core dumps, and gaining any of it back.

To be called before any thread starts: capabilities belong to threads, and a new one inherits its maker's.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterable
from pathlib import Path

from nconnect.errors import HostError

# <linux/prctl.h>
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
# <linux/capability.h>: version 3, two words of 32 capabilities for each set
_CAPABILITY_VERSION = 0x20080522
_CAP_SETPCAP = 8
_LAST_CAP = Path("/proc/sys/kernel/cap_last_cap")


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def drop_privileges(keep: Iterable[int] = ()) -> None:
    """Keep no capability but those numbered in `keep` (only what the process has), and get none ever again.

    Sets no-new-privileges, empties the ambient and the bounding set, and forbids core dumps, also to a
    debugger of the same user. Needs no rights itself. Raises `HostError` when the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    kept = 0
    for capability in keep:
        kept |= 1 << capability
    effective, permitted = _capabilities(libc)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(libc, _PR_SET_DUMPABLE, 0)
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
    _prctl(libc, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    if effective >> _CAP_SETPCAP & 1:  # else the bounding set cannot be changed, and is of no use either
        for capability in range(int(_LAST_CAP.read_text()) + 1):
            if not kept >> capability & 1:
                _prctl(libc, _PR_CAPBSET_DROP, capability)
    kept &= permitted
    header = _Header(_CAPABILITY_VERSION, 0)
    words = (kept & 0xFFFF_FFFF, kept >> 32)
    sets = (_Sets * 2)(*(_Sets(word, word, 0) for word in words))
    if libc.capset(ctypes.byref(header), sets):
        raise _refused("capset")


def _capabilities(libc: ctypes.CDLL) -> tuple[int, int]:
    """(effective, permitted) of this thread."""
    header = _Header(_CAPABILITY_VERSION, 0)
    sets = (_Sets * 2)()
    if libc.capget(ctypes.byref(header), sets):
        raise _refused("capget")
    low, high = sets
    return low.effective | high.effective << 32, low.permitted | high.permitted << 32


def _prctl(libc: ctypes.CDLL, option: int, value: int) -> None:
    arguments = [ctypes.c_ulong(n) for n in (value, 0, 0, 0)]
    if libc.prctl(option, *arguments):
        raise _refused(f"prctl({option}, {value})")


def _refused(what: str) -> HostError:
    return HostError(f"cannot give up privileges: {what}: {os.strerror(ctypes.get_errno()).lower()}")
