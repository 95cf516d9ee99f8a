"""Acting with another user's rights to files.

Rights are changed for the calling thread, its supplementary groups for the process. Root does this before it
starts threads."""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from nconnect.io.process.privileges import is_mapped

DAEMON = "nconnect"
_OVERFLOW_UID = 65534  # user_namespaces(7): what the kernel shows for an id that is not mapped


class UntrustedPath(OSError):
    """A name that root must not follow. `strerror` is a clause: what is wrong, what to do."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EACCES, why)


@dataclass(frozen=True, slots=True)
class User:
    """Whose rights to files to use."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str

    @classmethod
    def of(cls, uid: int, gid: int) -> User:
        """The user `uid`; `gid` is used only for one that is not in the list of users."""
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return cls(uid, gid, (), f"user {uid}")
        groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
        return cls(uid, entry.pw_gid, tuple(groups), entry.pw_name)


def daemon_account() -> User | None:
    """The daemon's own user, where there is one; it is in no other group."""
    try:
        entry = pwd.getpwnam(DAEMON)
    except KeyError:
        return None
    return User(entry.pw_uid, entry.pw_gid, (), entry.pw_name) if entry.pw_uid else None


@contextmanager
def acting_as(user: User | None) -> Iterator[None]:
    """Use files with the user's rights alone; None: with our own. Raises `UntrustedPath` when it cannot."""
    if user is None:
        yield
        return
    libc = ctypes.CDLL(None)
    groups = os.getgroups()
    gid, uid = libc.setfsgid(-1), libc.setfsuid(-1)  # an id that is none changes nothing
    try:
        try:
            os.setgroups(user.groups)
            libc.setfsgid(user.gid)
            libc.setfsuid(user.uid)
            if (libc.setfsgid(-1), libc.setfsuid(-1)) != (user.gid, user.uid):
                raise PermissionError
        except PermissionError:
            raise UntrustedPath(
                f"belongs to {user.name}, and this container lets nobody act as another user"
                " (it lacks SETUID or SETGID)"
            ) from None
        yield
    finally:
        libc.setfsuid(uid)
        libc.setfsgid(gid)
        with suppress(PermissionError):  # then they were not changed either
            os.setgroups(groups)


def is_trusted(uid: int) -> bool:
    """Whether a uid is ours, root's, or of the machine outside our user namespace."""
    return uid in (0, os.geteuid()) or (uid == _OVERFLOW_UID and not is_mapped(uid, "uid_map"))
