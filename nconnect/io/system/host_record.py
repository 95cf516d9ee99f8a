"""What to restore on this machine when an interface goes, kept so that it outlives the process.

It stands in `STATE_DIR/host.json`. The file is worth nothing after a reboot or in another network namespace,
and says in which it was made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Set
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address, ip_interface
from pathlib import Path

from nconnect.host.diff import SetSysctl
from nconnect.io.errors import reason
from nconnect.io.files.trusted import Folder, read_file, status_of
from nconnect.io.system import sysctl

_NAME = "host.json"
_MAX_BYTES = 4 << 20  # guessed: a thousand settings have 100 KB


@dataclass(slots=True)
class HostRecord:
    """What we changed.

    `sysctls`: each setting's value before ours, in the order in which they were set. `addresses`: those we
    added. `interfaces`: those that were there when forwarding was switched on. `bypasses`: the addresses of
    our host routes.
    """

    sysctls: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> before, set
    addresses: list[str] = field(default_factory=list)
    interfaces: list[str] = field(default_factory=list)
    bypasses: list[str] = field(default_factory=list)

    def remember(self, operation: SetSysctl) -> None:
        """Keep the oldest value: the one from before any of our runs."""
        before = self.sysctls.get(operation.name, (operation.before or "", ""))[0]
        if operation.before is not None:
            self.sysctls[operation.name] = (before, operation.value)

    def forget(self, name: str) -> None:
        self.sysctls.pop(name, None)

    def restore(self, *, keep: Set[str] = frozenset()) -> None:
        """Last set, first restored; what somebody else has changed since is theirs. Raises `HostError`.

        What is restored is forgotten; the settings in `keep` stay as they are, and in the record.
        """
        for name, (before, ours) in reversed(tuple(self.sysctls.items())):
            if name in keep:
                continue
            if sysctl.read(name) == ours:
                sysctl.write(name, before)
            self.forget(name)


class RecordFile:
    """Where one interface's record is kept.

    Where it cannot be written (a full disk) we go on, since the tunnel may be the only way to mend that:
    `problem` says so, and the process itself knows what to restore.
    """

    def __init__(self, state_dir: Path) -> None:
        self.problem = ""  # a sentence
        self._path = state_dir / _NAME
        self._unkept: HostRecord | None = None  # what should be in the file, and is not

    def exists(self) -> bool:
        return status_of(self._path) is not None

    def read(self) -> HostRecord:
        """The record of this boot and this namespace; empty when there is none, or it cannot be read."""
        if self._unkept is not None:
            return self._unkept
        try:
            told = json.loads(read_file(self._path, _MAX_BYTES))
            if told["place"] != _place():
                return HostRecord()
            settings = {str(name): (str(before), str(now)) for name, (before, now) in told["sysctls"].items()}
            if not all(map(sysctl.is_network, settings)):
                return HostRecord()  # root may read this, and the daemon's user wrote it
            return HostRecord(
                settings,
                [str(ip_interface(text)) for text in told["addresses"]],
                # Absent before they were kept
                [str(name) for name in told.get("interfaces", ())],
                [str(ip_address(text)) for text in told.get("bypasses", ())],
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return HostRecord()

    def write(self, record: HostRecord) -> None:
        """Atomically: a half-written record would lose what to restore."""
        try:
            self._write(record)
        except OSError as error:
            self._unkept = record
            why = f"cannot write {self._path}: {reason(error)}"
            self.problem = f"{why}: if this daemon is killed, nobody knows what it has changed here"
        else:
            self._unkept, self.problem = None, ""

    def remove(self) -> None:
        """All is restored."""
        with suppress(FileNotFoundError), Folder.open(self._path.parent) as folder:
            folder.remove(_NAME)
        self._unkept, self.problem = None, ""

    def of_others(self) -> list[tuple[str, RecordFile]]:
        """The files beside this one, with the names of their interfaces."""
        folders = sorted(path.parent for path in self._path.parent.parent.glob(f"*/{_NAME}"))
        return [(each.name, RecordFile(each)) for each in folders if each != self._path.parent]

    def left_by_others(self, present: Set[str]) -> list[RecordFile]:
        """The files of interfaces that are not `present` any more and left the restoring to us."""
        return [file for name, file in self.of_others() if name not in present and file.read().sysctls]

    def _write(self, record: HostRecord) -> None:
        value = {"place": _place(), **asdict(record)}
        with Folder.make(self._path.parent, mode=0o700) as folder:
            folder.replace(_NAME, json.dumps(value).encode(), durable=False)  # worth nothing after a crash


def _place() -> list[str]:
    """This boot and this network namespace: elsewhere a record means nothing."""
    boot = sysctl.read("kernel/random/boot_id") or ""
    return [boot, os.readlink("/proc/thread-self/ns/net")]
