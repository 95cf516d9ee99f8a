"""Where a running daemon reads its configuration from: the file itself, or a descriptor from its helper."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from nconnect.errors import ConfigError
from nconnect.io.files import config_file, paths
from nconnect.io.files.walk import closing
from nconnect.io.process.helper import Helper
from nconnect.io.process.rights import take_back
from nconnect.model import Config


class ConfigSource:
    """The file at `path`. With a helper it is opened by that; any thread may ask, and it blocks."""

    def __init__(self, path: Path, helper: Helper | None = None, seed_file: str | None = None) -> None:
        self.helper = helper
        self._path = path
        self._seed_file = seed_file  # as it was when the helper began

    def stamp(self) -> tuple[int, ...]:
        """What changes whenever somebody writes the file. Raises as `load` does, and `OSError`."""
        if self.helper is None:
            told = os.stat(self._path)
        else:
            with closing(self.helper.open_config()) as fd:
                told = os.fstat(fd)
        return told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns

    @classmethod
    def start(cls, path: Path, interface: str) -> ConfigSource:
        """With a helper where root starts the daemon; nothing is open yet, and no thread runs.

        What an earlier version gave to the daemon's user is taken back first. Raises `NconnectError`.
        """
        if os.geteuid():
            return cls(path)
        take_back(path, interface)
        paths.make_run_dir()  # one of an earlier version is taken back, for which the helper has no right
        seed_file = config_file.seed_file(config_file.read(path))
        return cls(path, Helper.start(interface, path, seed_file), seed_file)

    def __enter__(self) -> ConfigSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        """End the helper."""
        if self.helper is not None:
            self.helper.close()

    def load(self) -> Config:
        """Read and check it. Raises `ConfigError`, or `HostError` when the helper is gone."""
        if self.helper is None:
            return config_file.load(self._path)
        text = config_file.text_of(self._path, self.helper.open_config())
        open_seed = self.helper.open_seed

        def read_seed(name: str) -> str:
            if name != self._seed_file:
                raise ConfigError("another file cannot be used now: run `nconnect down`, then `nconnect up`")
            return config_file.text_of(Path(name), open_seed())

        return config_file.check(self._path, text, read_seed=read_seed)
