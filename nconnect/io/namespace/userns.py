"""Namespaces of an ordinary user: making them, entering them, and why they are forbidden.

By ctypes: `os.unshare` and `os.setns` exist from Python 3.12 on. Numbers are of <linux/sched.h> and
<linux/mount.h>.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from nconnect.errors import HostError
from nconnect.io.errors import reason

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x0002_0000, 0x1000_0000, 0x4000_0000
_MS_BIND, _MS_REC, _MS_SLAVE = 0x1000, 0x4000, 0x8_0000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 0x2, 0x4, 0x8
_SECCOMP_FILTER = "2"  # proc(5), status

INSTEAD = "`nconnect forward` and `nconnect socks` work without"


def make() -> None:
    """Move this process, which has one thread, into new user, network and mount namespaces.

    It keeps its uid and gid there, the only ones that exist, and gets all capabilities over what is new.
    Raises `HostError`: what forbids it, and what an administrator could do.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        _call("unshare", ctypes.c_int(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        # What is mounted outside later is seen in here; what is mounted in here stays in here.
        _mount("none", "/", None, _MS_REC | _MS_SLAVE)
    except OSError as error:
        raise HostError(why_forbidden(error)) from error


def problem() -> str:
    """Why an ordinary user's tunnel cannot have its namespaces; "" when it can. A child process tries it."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if not child:
        said = ""
        try:
            make()
        except HostError as error:
            said = str(error)
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answer:
        said = answer.read().decode()
    os.waitpid(child, 0)
    return said


def enter(*namespaces: int) -> None:
    """Move this process, which has one thread, into namespaces given as descriptors. Raises `OSError`."""
    for fd in namespaces:
        _call("setns", ctypes.c_int(fd), ctypes.c_int(0))


def hide(folder: Path) -> None:
    """Have an empty folder stand in place of one, in this mount namespace. Raises `OSError`."""
    _mount("tmpfs", str(folder), "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)


def bind(source: Path, target: Path) -> None:
    """Have a file stand in place of another one, in this mount namespace. Raises `OSError`."""
    _mount(str(source), str(target), None, _MS_BIND)


def why_forbidden(error: OSError, proc: Path = Path("/proc")) -> str:
    """A sentence: which of the known rules forbids user namespaces here, and how it could be lifted."""

    def is_set_to(name: str, value: str) -> bool:
        try:
            return (proc / "sys" / name).read_text().strip() == value
        except OSError:
            return False

    def is_filtered() -> bool:
        try:
            lines = (proc / "self/status").read_text().splitlines()
        except OSError:
            return False
        return f"Seccomp:\t{_SECCOMP_FILTER}" in lines

    if is_set_to("user/max_user_namespaces", "0"):
        why = (
            "user.max_user_namespaces is 0: an administrator can raise it"
            " (`sysctl user.max_user_namespaces=10000`)"
        )
    elif is_set_to("kernel/unprivileged_userns_clone", "0"):
        why = "kernel.unprivileged_userns_clone is 0: an administrator can set it to 1"
    elif is_set_to("kernel/apparmor_restrict_unprivileged_userns", "1"):
        why = (
            "AppArmor forbids them (kernel.apparmor_restrict_unprivileged_userns is 1): an administrator can"
            " set it to 0, or load a profile that allows `userns` for nconnect"
        )
    elif error.errno in (errno.ENOSPC, errno.EUSERS):
        why = "this user has too many of them, or they are nested too deeply"
    elif is_filtered():
        why = (
            "a seccomp filter forbids them, as in most containers: start this one with --cap-add NET_ADMIN"
            " --device /dev/net/tun and run as root in it, or with another seccomp profile"
        )
    elif error.errno in (errno.EINVAL, errno.ENOSYS):
        why = "this kernel has none"
    else:
        why = reason(error)
    return f"a tunnel without root needs user namespaces, and cannot have them: {why}; {INSTEAD}"


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    encoded = None if kind is None else kind.encode()
    _call("mount", os.fsencode(source), os.fsencode(target), encoded, ctypes.c_ulong(flags), None)


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
