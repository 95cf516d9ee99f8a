"""A file of all payloads that a node passes on, up to a bound: for tests that look for secrets in them."""

from __future__ import annotations

import os
from pathlib import Path

from nconnect.io.errors import as_host_error
from nconnect.io.files.trusted import Folder
from nconnect.model import Buffer

MAX_CAPTURE_BYTES = 256 << 20


class Capture:
    """Appends what it is given to a file, up to a bound."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._left = MAX_CAPTURE_BYTES

    def open(self) -> None:
        with as_host_error(f"cannot write to {self._path}"), Folder.around(self._path) as (folder, name):
            self._fd = folder.open_file(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, payload: Buffer) -> None:
        if self._left >= len(payload):
            os.writev(self._fd, (payload, b"\n"))
            self._left -= len(payload) + 1

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
