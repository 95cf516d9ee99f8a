"""The book of invitations on the disk: two files, one of who invites and one of the daemon (decision 0021).

    STATE/issued-invitations/INTERFACE.json   of root, or of who runs the daemon; its user may read it
    STATE/INTERFACE/used-invitations.json     of the daemon's user

The first one bounds what the second one can do, so nothing that the daemon writes makes a peer by itself.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nconnect.errors import ConfigError, HostError
from nconnect.invite.book import Book
from nconnect.io.errors import TRY_SUDO, as_host_error, reason
from nconnect.io.files import paths
from nconnect.io.files.config_file import locked
from nconnect.io.files.trusted import Folder, read_file, status_of
from nconnect.io.files.user import daemon_account

log = logging.getLogger(__name__)

USED = "used-invitations.json"
VERSION_1 = "invitations.json"  # both halves in one, in the daemon's folder
_MAX_BYTES = 16 << 20  # guessed: 10,000 peers have 8 MB
_NOTHING_USED: Any = {"used": []}


class InvitationStore:
    """One interface's book."""

    def __init__(self, issued: Path, used: Path) -> None:
        self._issued = issued
        self._used = used
        self._book = Book()
        self._read_of: list[tuple[int, int, int] | None] = []  # of which files: inode, time, size

    @classmethod
    def of(cls, interface: str) -> InvitationStore:
        """The store of an interface. Nothing is made yet."""
        return cls(paths.issued_path(interface), paths.state_dir(interface) / USED)

    def current(self) -> Book:
        """The book as it is now, for reading alone; read again only when a file is another (two `stat`).

        Never raises: a file that cannot be read is no invitation, and is reported once.
        """
        versions = [_version(self._issued), _version(self._used)]
        if versions != self._read_of:
            self._read_of = versions
            try:
                self._book = self.read()
            except (ConfigError, HostError) as error:
                log.warning("no invitation is honoured: %s", error)
                self._book = Book()
        return self._book

    def read(self) -> Book:
        """The book on the disk, for reading alone. Raises `HostError` or `ConfigError`."""
        try:
            issued = _load(self._issued)
            if issued is None:
                old = _load(self._used.with_name(VERSION_1))
                return Book() if old is None else Book.of(old)
            used = _load(self._used)
            return Book.of(issued, _NOTHING_USED if used is None else used)
        except ConfigError:
            raise ConfigError(
                f"{self._issued} or {self._used} is damaged: delete them, and invite again who has not joined"
            ) from None

    @contextmanager
    def issuing(self) -> Iterator[Book]:
        """The book, to change what is issued: stored when the block ends, unless it raises.

        Blocks; nobody else issues meanwhile. Raises `HostError` or `ConfigError`.
        """
        self.carry_over()
        with locked(self._issued):
            book = self.read()
            yield book
            self._write_issued(book)

    @contextmanager
    def using(self) -> Iterator[Book]:
        """The same for the daemon's half, which the daemon alone changes."""
        with locked(self._used):
            book = self.read()
            yield book
            _write(self._used, book.to_used())

    def carry_over(self) -> None:
        """Make what is missing; once, and with what an earlier version kept in one file of the daemon's.

        From then on such a file means nothing. Raises `HostError` or `ConfigError`.
        """
        try:
            Folder.make(self._issued.parent, mode=0o755).close()
            Folder.make(self._used.parent, mode=0o700).close()
        except OSError as error:
            hint = TRY_SUDO if os.geteuid() else ""
            raise HostError(f"cannot make the folder {self._issued.parent}: {reason(error)}{hint}") from error
        with locked(self._issued):
            if status_of(self._issued) is not None:
                return
            book = self.read()
            if len(book):
                _write(self._used, book.to_used())
            self._write_issued(book)
        with suppress(OSError), Folder.open(self._used.parent) as folder:
            folder.remove(VERSION_1)

    def _write_issued(self, book: Book) -> None:
        """For the daemon's user to read, and no one else."""
        account = daemon_account() if not os.geteuid() else None
        if account is None:
            _write(self._issued, book.to_issued())
        else:
            _write(self._issued, book.to_issued(), mode=0o640, owner=(0, account.gid))


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        status = status_of(path)
    except OSError:
        return None
    return None if status is None else (status.st_ino, status.st_mtime_ns, status.st_size)


def _load(path: Path) -> Any:
    """A JSON value; None when there is none. Raises `HostError`, or `ConfigError` when it is damaged."""
    try:
        with as_host_error(f"cannot read {path}", passes=FileNotFoundError, denied=TRY_SUDO):
            data = read_file(path, _MAX_BYTES)
    except FileNotFoundError:
        return None
    try:
        if len(data) > _MAX_BYTES:
            raise ValueError
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ConfigError(f"{path} is damaged") from None


def _write(path: Path, value: Any, *, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    data = json.dumps(value, separators=(",", ":")).encode() + b"\n"
    with as_host_error(f"cannot write {path}"), Folder.open(path.parent) as folder:
        folder.replace(path.name, data, mode=mode, owner=owner)
