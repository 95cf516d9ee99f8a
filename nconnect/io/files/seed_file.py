"""A key of its own for a program without a configuration: 64 hex digits in a file of mode 0600."""

from __future__ import annotations

import os
from pathlib import Path

from nconnect.errors import HostError
from nconnect.io.errors import as_host_error
from nconnect.io.files.trusted import create_file, read_file

_SEED_BYTES = 32
_SEED_FILE_BYTES = 1024


def kept_seed(path: Path | None) -> bytes:
    """The seed in a file, 32 bytes; it is drawn and written if there is none. Random without a path.

    Raises `HostError`.
    """
    if path is None:
        return os.urandom(_SEED_BYTES)
    try:
        with as_host_error(f"cannot write {path}", passes=FileExistsError):
            fd = create_file(path)
    except FileExistsError:
        return _read(path)
    seed = os.urandom(_SEED_BYTES)
    with os.fdopen(fd, "w") as file:
        file.write(seed.hex() + "\n")
    return seed


def _read(path: Path) -> bytes:
    try:
        with as_host_error(f"cannot read {path}"):
            seed = bytes.fromhex(read_file(path, _SEED_FILE_BYTES).decode().strip())
    except ValueError:
        seed = b""
    if len(seed) != _SEED_BYTES:
        raise HostError(f"{path} does not hold a key of 64 hex digits; remove it to get a new one")
    return seed
