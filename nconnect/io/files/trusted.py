"""Files in folders that may be other people's, for a process that may be root.

Whoever can change a folder can replace what lies in it, also between a check and its use. So root opens no
file by its whole name. It walks from `/` one component at a time, each opened relative to the one before, and
decides at each folder with whose rights the rest is done:

    the folder belongs to               from there on
    root, and nobody else writes to it  root's rights; a symbolic link of root's is followed
    root, sticky (such as /tmp)         the same
    root, and others write to it        refused: nobody knows who put there what is in it
    another user                        that user's file-system uid, gid and groups (setfsuid(2)); links are
                                        refused, and so is a folder of a third user

Root can then do in a user's folder what that user could do anyway, and nothing more. A process that is not
root has no rights to lend; it opens names as every program does. In a user namespace, ids that are not mapped
belong to the machine outside, over which this root has no power: they count as root's.

Rights are changed for the calling thread, its supplementary groups for the process. Root does this before it
starts threads.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import secrets
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from nconnect.io.process.privileges import is_mapped

_MAX_LINKS = 40  # as the kernel's own limit, path_resolution(7)
_OVERFLOW_UID = 65534  # user_namespaces(7): what the kernel shows for an id that is not mapped
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


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


class Folder:
    """An open folder, and whose rights are used in it (`user`; None: our own).

    Names are single components, relative to the descriptor; links are never followed. Everything raises
    `OSError`. A context manager.
    """

    def __init__(self, path: Path, fd: int, user: User | None) -> None:
        self.path = path
        self.fd = fd
        self.user = user

    @classmethod
    def open(cls, path: Path, *, user: User | None = None) -> Folder:
        """Walk to `path`, from the start with the rights of `user` if one is given."""
        return _Walk(user).to(path)

    @classmethod
    def make(cls, path: Path, *, mode: int = 0o755) -> Folder:
        """The same, where folders that are missing are made: the last one with `mode`, others 0755."""
        return _Walk(None, make=mode).to(path)

    @classmethod
    def around(cls, path: Path, *, user: User | None = None, follow: bool = True) -> tuple[Folder, str]:
        """The folder of a file, and the file's name in it.

        With `follow` a link that nobody else can have made leads on to its target, which need not be there.
        """
        return _Walk(user).around(path, follow=follow)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.fd)

    def with_own_rights(self) -> Folder:
        """The same folder, used with our own rights, for what replaces names and follows none."""
        return Folder(self.path, os.dup(self.fd), None)

    def status(self, name: str | None = None) -> os.stat_result | None:
        """lstat(2) of a name, or of the folder itself; None when there is nothing of that name."""
        if name is None:
            return os.fstat(self.fd)
        try:
            with acting_as(self.user):
                return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """What is in it, sorted."""
        with acting_as(self.user):
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)

    def open_file(self, name: str, flags: int, mode: int = 0o600) -> int:
        """A descriptor; a link is refused, and a FIFO does not hold us up."""
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with acting_as(self.user):
            try:
                return os.open(name, flags, mode, dir_fd=self.fd)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise UntrustedPath(
                        "is a link, which is not followed here: name the file itself"
                    ) from None
                raise

    def open_regular(self, name: str, *, also_own: bool = False) -> int:
        """A descriptor of a regular file, to read.

        With `also_own` a file of our own in another user's folder is read with our own rights: it is found
        with that user's, and must have this one name. Raises `UntrustedPath` for anything but a file.
        """
        if also_own and self.user is not None and self._is_own(name):
            fd = self._open_own(name)
        else:
            fd = self.open_file(name, os.O_RDONLY)
        status = os.fstat(fd)
        problem = "" if stat.S_ISREG(status.st_mode) else "is not a file"
        if self.is_shared() and status.st_nlink != 1:
            problem = "has a second name, and others write to its folder"
        if problem:
            os.close(fd)
            raise UntrustedPath(problem)
        return fd

    def is_shared(self) -> bool:
        """Whether others may make files in it, of which they can replace only their own, as in /tmp."""
        mode = os.fstat(self.fd).st_mode
        return self.user is None and bool(mode & stat.S_ISVTX and mode & (stat.S_IWGRP | stat.S_IWOTH))

    def read(self, name: str, limit: int) -> bytes:
        """A regular file's content, up to `limit` bytes and one more."""
        fd = self.open_regular(name)
        with open(fd, "rb") as file:
            return file.read(limit + 1)

    def replace(
        self,
        name: str,
        data: bytes,
        *,
        mode: int = 0o600,
        owner: tuple[int, int] | None = None,
        durable: bool = True,
    ) -> None:
        """Put `data` at `name` as a whole: a reader, or a crash, sees the old content or the new.

        `owner`: the uid and gid to give it, as far as we may. It is on the disk when this returns, unless it
        need not survive a crash of the machine (`durable`). After an error nothing is left behind.
        """
        temporary = f".{name}.{secrets.token_hex(6)}"
        fd = self.open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            try:
                os.fchmod(fd, mode)
                self._give(fd, owner)
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                if durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            with acting_as(self.user):
                os.replace(temporary, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except BaseException:
            self.remove(temporary)
            raise
        if durable:
            self.sync()

    def _give(self, fd: int, owner: tuple[int, int] | None) -> None:
        status = os.fstat(fd)
        if owner is None or owner == (status.st_uid, status.st_gid):
            return
        if self.user is None:
            os.fchown(fd, *owner)
        else:
            with acting_as(self.user), suppress(PermissionError):  # a group that is not the user's
                os.fchown(fd, -1, owner[1])

    def remove(self, name: str) -> None:
        """Remove a file or a link; nothing happens when it is not there."""
        with acting_as(self.user), suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.fd)

    def probe(self, size: int) -> None:
        """Raise `OSError` when the folder does not take a file of that size; none stays."""
        name = f".probe.{secrets.token_hex(6)}"
        fd = self.open_file(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            os.write(fd, bytes(size))
        finally:
            os.close(fd)
            self.remove(name)

    def rename(self, name: str, new: str) -> None:
        with acting_as(self.user):
            os.replace(name, new, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def set_mode(self, mode: int) -> None:
        with acting_as(self.user):
            os.chmod(f"/proc/self/fd/{self.fd}", mode)

    def take_back(self, mode: int | None = None) -> None:
        """Make it root's. Only for a folder that an earlier version of ours gave away."""
        os.chown(f"/proc/self/fd/{self.fd}", 0, 0)
        if mode is not None:
            os.chmod(f"/proc/self/fd/{self.fd}", mode)

    def take_files_back(self) -> None:
        """The same for the files in it, once the folder is ours again; not for one with a second name."""
        for name in self.names():
            status = self.status(name)
            if status is not None and stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                os.chown(name, 0, 0, dir_fd=self.fd, follow_symlinks=False)

    def give(self, uid: int, gid: int) -> None:
        """Give away a folder of ours, and the files in it that are ours and have one name."""
        for name in self.names():
            status = self.status(name)
            if status is not None and stat.S_ISREG(status.st_mode) and self._is_own(name):
                os.chown(name, uid, gid, dir_fd=self.fd, follow_symlinks=False)
        os.chown(f"/proc/self/fd/{self.fd}", uid, gid)

    def open_again(self) -> int:
        """A descriptor of the folder that can be locked, synced and listed."""
        with acting_as(self.user):
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)

    def sync(self) -> None:
        """Have the names on the disk."""
        try:
            fd = self.open_again()
        except PermissionError:
            return  # a folder that may be entered and not read
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _is_own(self, name: str) -> bool:
        status = self.status(name)
        return status is not None and is_trusted(status.st_uid) and status.st_nlink == 1

    def _open_own(self, name: str) -> int:
        """A file of ours, found with the folder's rights and opened with our own, by its inode."""
        found = self.open_file(name, os.O_PATH)
        try:
            status = os.fstat(found)
            if not stat.S_ISREG(status.st_mode):
                raise UntrustedPath("is not a file")
            if not is_trusted(status.st_uid) or status.st_nlink != 1:
                raise UntrustedPath("was replaced meanwhile")
            return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(found)


def write_atomically(
    path: Path, data: bytes, *, owner: tuple[int, int] | None = None, durable: bool = True
) -> None:
    """`Folder.replace` by a path: mode 0600 whatever the umask, and a link is replaced, not followed."""
    folder, name = Folder.around(path, follow=False)
    with folder:
        folder.replace(name, data, owner=owner, durable=durable)


def open_path(path: Path) -> int:
    """A descriptor of a regular file, to read. Raises `OSError`."""
    folder, name = Folder.around(path)
    with folder:
        return folder.open_regular(name)


def read_file(path: Path, limit: int) -> bytes:
    """A regular file's content, up to `limit` bytes and one more. Raises `OSError`."""
    with open(open_path(path), "rb") as file:
        return file.read(limit + 1)


def status_of(path: Path) -> os.stat_result | None:
    """The status of a file, or of a link that must not be followed; None when there is none."""
    try:
        folder, name = Folder.around(path)
    except FileNotFoundError:
        return None
    with folder:
        return folder.status(name)


def set_mode(path: Path, mode: int) -> None:
    """chmod(2) of a file, with the rights of whoever could have put it there."""
    folder, name = Folder.around(path)
    with folder:
        fd = folder.open_file(name, os.O_PATH)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise UntrustedPath("is not a file")
            with acting_as(None if is_trusted(status.st_uid) and status.st_nlink == 1 else folder.user):
                os.chmod(f"/proc/self/fd/{fd}", mode)
        finally:
            os.close(fd)


def create_file(path: Path) -> int:
    """A descriptor of a new file, 0600, to write; `FileExistsError` when there is something of that name.

    In another user's folder the file is that user's.
    """
    folder, name = Folder.around(path, follow=False)
    with folder:
        return folder.open_file(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)


class _Walk:
    """One walk, which keeps the descriptor of the folder that it has come to."""

    def __init__(self, user: User | None, *, make: int | None = None) -> None:
        self._user = user
        self._make = make
        self._links = 0
        self._fd = -1
        self._path = Path("/")

    def to(self, path: Path) -> Folder:
        """The folder that `path` leads to."""
        path = path.absolute()
        if os.geteuid():
            if self._make is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.mkdir(mode=self._make, exist_ok=True)
            return Folder(path, os.open(path, _FOLDER), self._user)
        try:
            self._start()
            ahead = deque(path.parts[1:])
            while ahead:
                name = ahead.popleft()
                if not self._enter(name, last=not ahead):
                    self._follow(name, ahead)
            folder = Folder(self._path, self._fd, self._user)
            self._fd = -1
            return folder
        finally:
            self._leave()

    def around(self, path: Path, *, follow: bool) -> tuple[Folder, str]:
        """The folder around `path`, and the last name."""
        path = path.absolute()
        while True:
            folder = self.to(path.parent)
            try:
                target = self._target(folder.fd, path.name) if follow else None
            except BaseException:
                os.close(folder.fd)
                raise
            if target is None:
                return folder, path.name
            os.close(folder.fd)
            path = folder.path / target

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
        try:
            status = os.fstat(fd)
            if not stat.S_ISLNK(status.st_mode):
                return None
            if not os.geteuid() and (self._user is not None or not is_trusted(status.st_uid)):
                raise UntrustedPath(f"{name} is a link of another user's: name the file itself")
            self._links += 1
            if self._links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            return os.readlink("", dir_fd=fd)
        finally:
            os.close(fd)

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


def is_trusted(uid: int) -> bool:
    """Whether a uid is ours, root's, or of the machine outside our user namespace."""
    return uid in (0, os.geteuid()) or (uid == _OVERFLOW_UID and not is_mapped(uid, "uid_map"))
