"""The book of invitations on the disk, which the command line and the daemon both change."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nconnect.errors import ConfigError, HostError
from nconnect.invite.book import Book
from nconnect.io.config_file import locked
from nconnect.io.errors import reason
from nconnect.io.paths import make_state_dir
from nconnect.io.trusted import Folder, read_file, status_of

log = logging.getLogger(__name__)

NAME = "invitations.json"
MAX_BYTES = 4 << 20  # guessed: 512 invitations have under 1 MB


class InvitationStore:
    """One interface's book, in its state folder, 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._book = Book()
        self._read_of: tuple[int, int, int] | None = None  # which file `_book` is of: inode, time, size

    @classmethod
    def of(cls, interface: str) -> InvitationStore:
        """The store of an interface; its folder is made, 0700."""
        return cls(make_state_dir(interface) / NAME)

    def current(self) -> Book:
        """The book as it is now, for reading alone; read again only when the file is another (one `stat`).

        Never raises: a file that cannot be read is no invitation, and is reported once.
        """
        try:
            status = status_of(self._path)
        except OSError:
            status = None
        if status is None:
            self._read_of, self._book = None, Book()
            return self._book
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        if version != self._read_of:
            self._read_of = version
            try:
                self._book = self.read()
            except (ConfigError, HostError) as error:
                log.warning("no invitation is honoured: %s", error)
                self._book = Book()
        return self._book

    def read(self) -> Book:
        """The book on the disk, for reading alone. Raises `HostError` or `ConfigError`."""
        try:
            data = read_file(self._path, MAX_BYTES)
        except FileNotFoundError:
            return Book()
        except OSError as error:
            raise HostError(f"cannot read {self._path}: {reason(error)}") from error
        try:
            if len(data) > MAX_BYTES:
                raise ValueError
            return Book.from_json(json.loads(data))
        except (ValueError, RecursionError, ConfigError):
            raise ConfigError(
                f"{self._path} is damaged: delete it, and invite again who has not joined yet"
            ) from None

    @contextmanager
    def changing(self) -> Iterator[Book]:
        """The book, to change: stored when the block ends, unless it raises. Nobody else changes it then.

        Blocks. Raises `HostError` or `ConfigError` when it cannot be read or stored.
        """
        with locked(self._path):
            book = self.read()
            yield book
            self._write(book)

    def _write(self, book: Book) -> None:
        try:
            data = json.dumps(book.to_json(), separators=(",", ":")).encode() + b"\n"
            with Folder.open(self._path.parent) as folder:  # the daemon's, which may not be root
                folder.replace(self._path.name, data)
        except OSError as error:
            raise HostError(f"cannot write {self._path}: {reason(error)}") from error
