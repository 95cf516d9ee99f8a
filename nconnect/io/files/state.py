"""What an interface stores between runs: small JSON values, one file each, in its state folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from nconnect.errors import HostError
from nconnect.io.errors import as_host_error, reason
from nconnect.io.files.paths import make_state_dir
from nconnect.io.files.trusted import Folder

log = logging.getLogger(__name__)

_MAX_BYTES = 64 << 20  # guessed: far above what 10,000 peers need


class StateStore:
    """Values by name in one folder, each replaced atomically.

    `problems` has a sentence for each value that was lost, or that cannot be saved at the moment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lost: list[str] = []
        self._unsaved: dict[str, str] = {}

    @property
    def problems(self) -> list[str]:
        return [*self._lost, *self._unsaved.values()]

    @classmethod
    def of(cls, interface: str) -> StateStore:
        """The store of an interface; its folder is made, 0700."""
        return cls(make_state_dir(interface))

    def load(self, name: str) -> Any:
        """The value last saved under `name`; None when there is none.

        A file that cannot be understood is kept aside as `NAME.json.corrupt`, reported, and counts as none.
        Raises `HostError` when the file is there but cannot be read.
        """
        path = self._path(name)
        try:
            cannot_read = as_host_error(f"cannot read {path}", passes=FileNotFoundError)
            with cannot_read, Folder.open(self.folder) as folder:
                data = folder.read(path.name, _MAX_BYTES)
        except FileNotFoundError:
            return None
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            aside = path.with_name(path.name + ".corrupt")
            problem = f"{path} was damaged and is not used any more: it is kept as {aside.name}"
            try:
                with Folder.open(self.folder) as folder:
                    folder.rename(path.name, aside.name)
            except OSError as error:
                problem = f"{path} is damaged, and cannot be moved away: {reason(error)}"
            log.warning("%s", problem)
            self._lost.append(problem)
            return None

    def save(self, name: str, value: Any) -> None:
        """Keep a JSON value under `name`. Raises `HostError` (disk full, …), and then the old one stays."""
        path = self._path(name)
        try:
            with Folder.open(self.folder) as folder:
                folder.replace(path.name, json.dumps(value, separators=(",", ":")).encode() + b"\n")
        except OSError as error:
            problem = f"cannot write {path}: {reason(error)}"
            self._unsaved[name] = f"{problem}: make room, or the folder writable"
            raise HostError(problem) from error
        self._unsaved.pop(name, None)

    def remove(self, name: str) -> None:
        """Forget `name`; nothing happens when it is not there."""
        with as_host_error(f"cannot remove {self._path(name)}"), Folder.open(self.folder) as folder:
            folder.remove(self._path(name).name)

    def _path(self, name: str) -> Path:
        assert name.replace("-", "").replace("_", "").isalnum(), name
        return self.folder / f"{name}.json"
