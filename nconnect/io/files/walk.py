"""Walking to a folder, one component at a time, and deciding at each with whose rights the rest is done.

Root opens no file by its whole name: whoever can change a folder can replace what lies in it, also between a
check and its use. What is decided:

    the folder belongs to               from there on
    root, and nobody else writes to it  root's rights; a symbolic link of root's is followed
    root, sticky (such as /tmp)         the same
    root, and others write to it        refused: nobody knows who put there what is in it
    another user                        that user's file-system uid, gid and groups (setfsuid(2)); links are
                                        refused, and so is a folder of a third user

Root can then do in a user's folder what that user could do anyway, and nothing more. A process that is not
root has no rights to lend; it opens names as every program does. In a user namespace, ids that are not mapped
belong to the machine outside, over which this root has no power: they count as root's."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from nconnect.io.files.user import UntrustedPath, User, acting_as, is_trusted

_MAX_LINKS = 40  # as the kernel's own limit, path_resolution(7)
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def closing(fd: int) -> Iterator[int]:
    """A descriptor, which is closed at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


class Place(NamedTuple):
    """An open folder, and whose rights are to be used in it; None: our own."""

    path: Path
    fd: int
    user: User | None


class Walk:
    """One walk, which keeps the descriptor of the folder that it has come to."""

    def __init__(self, user: User | None, *, make: int | None = None) -> None:
        self._user = user
        self._make = make
        self._links = 0
        self._fd = -1
        self._path = Path("/")

    def to(self, path: Path) -> Place:
        """The folder that `path` leads to."""
        path = path.absolute()
        if os.geteuid():
            if self._make is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.mkdir(mode=self._make, exist_ok=True)
            return Place(path, os.open(path, _FOLDER), self._user)
        try:
            self._start()
            ahead = deque(path.parts[1:])
            while ahead:
                name = ahead.popleft()
                if not self._enter(name, last=not ahead):
                    self._follow(name, ahead)
            place = Place(self._path, self._fd, self._user)
            self._fd = -1
            return place
        finally:
            self._leave()

    def around(self, path: Path, *, follow: bool) -> tuple[Place, str]:
        """The folder around `path`, and the last name."""
        path = path.absolute()
        while True:
            place = self.to(path.parent)
            try:
                target = self._target(place.fd, path.name) if follow else None
            except BaseException:
                os.close(place.fd)
                raise
            if target is None:
                return place, path.name
            os.close(place.fd)
            path = place.path / target

    def _start(self) -> None:
        self._leave()
        self._fd, self._path = os.open("/", _FOLDER), Path("/")
        self._judge("/")

    def _leave(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _enter(self, name: str, *, last: bool) -> bool:
        """Go into a folder; False when the name is a link."""
        mode = 0o755 if self._make is None or not last else self._make
        with acting_as(self._user):
            is_new = self._make is not None and _mkdir(name, mode, self._fd)
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
            if is_new:
                os.chmod(f"/proc/self/fd/{fd}", mode)  # whatever the umask
        status = os.fstat(fd)
        if stat.S_ISLNK(status.st_mode):
            os.close(fd)
            return False
        if not stat.S_ISDIR(status.st_mode):
            os.close(fd)
            raise NotADirectoryError(errno.ENOTDIR, f"{os.strerror(errno.ENOTDIR)}: {name}")
        os.close(self._fd)
        self._fd, self._path = fd, self._path / name
        self._judge(name)
        return True

    def _follow(self, name: str, ahead: deque[str]) -> None:
        target = self._target(self._fd, name)
        if target is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        parts = Path(target).parts
        if target.startswith("/"):
            self._start()
            parts = parts[1:]
        ahead.extendleft(reversed(parts))

    def _target(self, folder: int, name: str) -> str | None:
        """Where a link leads; None when it is none, or not to be looked at.

        Raises `UntrustedPath` for one that root does not follow.
        """
        with acting_as(self._user):
            try:
                fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            except (FileNotFoundError, PermissionError):
                return None
        with closing(fd):
            status = os.fstat(fd)
            if not stat.S_ISLNK(status.st_mode):
                return None
            if not os.geteuid() and (self._user is not None or not is_trusted(status.st_uid)):
                raise UntrustedPath(f"{name} is a link of another user's: name the file itself")
            self._links += 1
            if self._links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            return os.readlink("", dir_fd=fd)

    def _judge(self, name: str) -> None:
        """Whose rights are used from here on."""
        status = os.fstat(self._fd)
        if not is_trusted(status.st_uid):
            if self._user is None:
                self._user = User.of(status.st_uid, status.st_gid)
            elif self._user.uid != status.st_uid:
                other = User.of(status.st_uid, status.st_gid)
                raise UntrustedPath(f"the folder {name} belongs to {other.name}, not to {self._user.name}")
            return
        by_group = status.st_mode & stat.S_IWGRP and (status.st_gid or _has_acl(self._fd))
        writable = by_group or status.st_mode & stat.S_IWOTH
        if self._user is None and writable and not status.st_mode & stat.S_ISVTX:
            raise UntrustedPath(
                f"others can replace what is in the folder {name}: chmod go-w it, or use another folder"
            )


def _mkdir(name: str, mode: int, folder: int) -> bool:
    """Whether it was not there before."""
    try:
        os.mkdir(name, mode, dir_fd=folder)
    except FileExistsError:
        return False
    return True


def _has_acl(folder: int) -> bool:
    """Whether it has an access ACL, acl(5): then the mode's group bits are what any user named in it may."""
    try:
        return "system.posix_acl_access" in os.listxattr(f"/proc/self/fd/{folder}")
    except OSError:
        return False  # the file system has none
