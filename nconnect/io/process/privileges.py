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
from nconnect.io.errors import as_host_error

# <linux/prctl.h>
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
# <linux/capability.h>: version 3, two words of 32 capabilities for each set
_CAPABILITY_VERSION = 0x20080522
CAP_NET_ADMIN = 12
CAP_DAC_READ_SEARCH, CAP_SETGID, CAP_SETUID = 2, 6, 7
_CAP_CHOWN, _CAP_SETPCAP = 0, 8
_PROC = Path("/proc/self")
_LAST_CAP = Path("/proc/sys/kernel/cap_last_cap")


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def drop_privileges(
    keep: Iterable[int] = (), *, user: tuple[int, int] | None = None, core_dumps: bool = False
) -> None:
    """Keep no capability but those numbered in `keep` (only what the process has), and get none ever again.

    Sets no-new-privileges, empties the bounding set, and forbids core dumps, also to a debugger of the same
    user. With `user` (uid, gid) the process becomes that user, which root alone may ask for; it leaves all
    other groups. Who is not root afterwards hands what is kept on to the programs it starts, as root does
    anyway. `core_dumps`: allow them, for a program of the user's own. Needs no rights itself.

    Raises `HostError` when the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    kept = 0
    for capability in keep:
        kept |= 1 << capability
    effective, permitted = _capabilities(libc)
    if not core_dumps:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
    _prctl(libc, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    if effective >> _CAP_SETPCAP & 1:  # else the bounding set cannot be changed, and is of no use either
        for capability in range(int(_LAST_CAP.read_text()) + 1):
            if not kept >> capability & 1:
                _prctl(libc, _PR_CAPBSET_DROP, capability)
    if user is not None:
        _become(libc, *user)
    kept &= permitted
    inherited = kept if os.geteuid() else 0
    header = _Header(_CAPABILITY_VERSION, 0)
    words = ((kept & 0xFFFF_FFFF, inherited & 0xFFFF_FFFF), (kept >> 32, inherited >> 32))
    sets = (_Sets * 2)(*(_Sets(word, word, handed_on) for word, handed_on in words))
    if libc.capset(ctypes.byref(header), sets):
        raise _refused("capset")
    for capability in range(inherited.bit_length()):
        if inherited >> capability & 1:
            _prctl(libc, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)
    set_dumpable(False)  # last: changing the user sets it anew


def may_administer() -> bool:
    """Whether this process may configure the machine's network (CAP_NET_ADMIN)."""
    effective, _ = _capabilities(ctypes.CDLL(None, use_errno=True))
    return bool(effective >> CAP_NET_ADMIN & 1)


def can_become(uid: int, gid: int) -> str:
    """Why this process may not become a user, and give it files; "" when it may."""
    effective, _ = _capabilities(ctypes.CDLL(None, use_errno=True))
    if not all(effective >> capability & 1 for capability in (_CAP_CHOWN, CAP_SETGID, CAP_SETUID)):
        return "this container lets nobody change users (it lacks SETUID, SETGID or CHOWN)"
    if not is_mapped(uid, "uid_map") or not is_mapped(gid, "gid_map"):
        return "this user namespace does not have that user"
    try:
        if (_PROC / "setgroups").read_text().strip() == "deny":
            return "this user namespace does not let its groups be changed"
    except OSError:
        pass  # a kernel without user namespaces
    return ""


def is_mapped(number: int, name: str) -> bool:
    """Whether an id means somebody in our user namespace (user_namespaces(7), uid_map and gid_map)."""
    try:
        lines = (_PROC / name).read_text().splitlines()
    except OSError:
        return True
    spans = [tuple(map(int, line.split())) for line in lines]
    return any(first <= number < first + count for first, _, count in spans)


def _become(libc: ctypes.CDLL, uid: int, gid: int) -> None:
    """Change to a user for good. The permitted capabilities stay, for `capset` to choose from."""
    _prctl(libc, _PR_SET_KEEPCAPS, 1)
    with as_host_error(f"cannot become user {uid}"):
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)


def _capabilities(libc: ctypes.CDLL) -> tuple[int, int]:
    """(effective, permitted) of this thread."""
    header = _Header(_CAPABILITY_VERSION, 0)
    sets = (_Sets * 2)()
    if libc.capget(ctypes.byref(header), sets):
        raise _refused("capget")
    low, high = sets
    return low.effective | high.effective << 32, low.permitted | high.permitted << 32


def set_dumpable(may: bool) -> None:
    """Whether this process leaves core dumps, and processes of the same user may look into it (prctl(2))."""
    _prctl(ctypes.CDLL(None, use_errno=True), _PR_SET_DUMPABLE, int(may))


def _prctl(libc: ctypes.CDLL, option: int, value: int, third: int = 0) -> None:
    arguments = [ctypes.c_ulong(n) for n in (value, third, 0, 0)]
    if libc.prctl(option, *arguments):
        raise _refused(f"prctl({option}, {value})")


def _refused(what: str) -> HostError:
    return HostError(f"cannot give up privileges: {what}: {os.strerror(ctypes.get_errno()).lower()}")
