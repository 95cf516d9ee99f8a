"""Where a running daemon reads its configuration from: the file itself, or a descriptor from its helper."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from nconnect.errors import ConfigError
from nconnect.io import config_file
from nconnect.io.helper import Helper
from nconnect.model import Config


class ConfigSource:
    """The file at `path`. With a helper it is opened by that; any thread may ask, and it blocks."""

    def __init__(self, path: Path, helper: Helper | None = None, seed_file: str | None = None) -> None:
        self._path = path
        self._helper = helper
        self._seed_file = seed_file  # as it was when the helper began

    def stamp(self) -> tuple[int, ...]:
        """What changes whenever somebody writes the file. Raises as `load` does, and `OSError`."""
        if self._helper is None:
            told = os.stat(self._path)
        else:
            fd = self._helper.open_config()
            try:
                told = os.fstat(fd)
            finally:
                os.close(fd)
        return told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns

    def load(self) -> Config:
        """Read and check it. Raises `ConfigError`, or `HostError` when the helper is gone."""
        if self._helper is None:
            return config_file.load(self._path)
        text = _read(self._path, self._helper.open_config)
        open_seed = self._helper.open_seed

        def read_seed(name: str) -> str:
            if name != self._seed_file:
                raise ConfigError("another file cannot be used now: run `nconnect down`, then `nconnect up`")
            return _read(Path(name), open_seed)

        return config_file.check(self._path, text, read_seed=read_seed)


def _read(path: Path, opened: Callable[[], int]) -> str:
    with open(opened(), "rb") as file:
        return config_file.decode(path, file.read(config_file.MAX_BYTES + 1))
