"""Files in folders that may be other people's, for a process that may be root.

Whoever can change a folder can replace what lies in it, also between a check and its use. So a folder is
opened by a walk that decides with whose rights it is used (`walk`), and files are names in that open folder.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from nconnect.io.files.user import UntrustedPath, User, acting_as, is_trusted
from nconnect.io.files.walk import Walk, closing


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
        return cls(*Walk(user).to(path))

    @classmethod
    def make(cls, path: Path, *, mode: int = 0o755) -> Folder:
        """The same, where folders that are missing are made: the last one with `mode`, others 0755."""
        return cls(*Walk(None, make=mode).to(path))

    @classmethod
    @contextmanager
    def around(
        cls, path: Path, *, user: User | None = None, follow: bool = True
    ) -> Iterator[tuple[Folder, str]]:
        """The folder of a file, open within the context, and the file's name in it.

        With `follow` a link that nobody else can have made leads on to its target, which need not be there.
        """
        place, name = Walk(user).around(path, follow=follow)
        with cls(*place) as folder:
            yield folder, name

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
        with closing(self.open_again()) as fd:
            return sorted(os.listdir(fd))

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
            with open(fd, "wb") as file:
                os.fchmod(fd, mode)
                self._give(fd, owner)
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(fd)
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
        with closing(fd):
            os.fsync(fd)

    def _is_own(self, name: str) -> bool:
        status = self.status(name)
        return status is not None and is_trusted(status.st_uid) and status.st_nlink == 1

    def _open_own(self, name: str) -> int:
        """A file of ours, found with the folder's rights and opened with our own, by its inode."""
        with closing(self.open_file(name, os.O_PATH)) as found:
            status = os.fstat(found)
            if not stat.S_ISREG(status.st_mode):
                raise UntrustedPath("is not a file")
            if not is_trusted(status.st_uid) or status.st_nlink != 1:
                raise UntrustedPath("was replaced meanwhile")
            return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)


def write_atomically(
    path: Path, data: bytes, *, owner: tuple[int, int] | None = None, durable: bool = True
) -> None:
    """`Folder.replace` by a path: mode 0600 whatever the umask, and a link is replaced, not followed."""
    with Folder.around(path, follow=False) as (folder, name):
        folder.replace(name, data, owner=owner, durable=durable)


def open_path(path: Path) -> int:
    """A descriptor of a regular file, to read. Raises `OSError`."""
    with Folder.around(path) as (folder, name):
        return folder.open_regular(name)


def read_file(path: Path, limit: int) -> bytes:
    """A regular file's content, up to `limit` bytes and one more. Raises `OSError`."""
    with open(open_path(path), "rb") as file:
        return file.read(limit + 1)


def status_of(path: Path) -> os.stat_result | None:
    """The status of a file, or of a link that must not be followed; None when there is none."""
    try:
        with Folder.around(path) as (folder, name):
            return folder.status(name)
    except FileNotFoundError:
        return None


def set_mode(path: Path, mode: int) -> None:
    """chmod(2) of a file, with the rights of whoever could have put it there."""
    with Folder.around(path) as (folder, name), closing(folder.open_file(name, os.O_PATH)) as fd:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise UntrustedPath("is not a file")
        with acting_as(None if is_trusted(status.st_uid) and status.st_nlink == 1 else folder.user):
            os.chmod(f"/proc/self/fd/{fd}", mode)


def create_file(path: Path) -> int:
    """A descriptor of a new file, 0600, to write; `FileExistsError` when there is something of that name.

    In another user's folder the file is that user's.
    """
    with Folder.around(path, follow=False) as (folder, name):
        return folder.open_file(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
