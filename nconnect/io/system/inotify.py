"""Tells when something is removed from a folder, or a file changes: inotify(7), for which Python has no
binding.

An event is a `struct inotify_event`: watch, mask, cookie and name length, 32 bits each, and the name; which
one it was does not matter here.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_IN_NONBLOCK, _IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC  # <linux/inotify.h>
_IN_MOVED_FROM, _IN_DELETE, _IN_DELETE_SELF, _IN_MOVE_SELF = 0x40, 0x200, 0x400, 0x800
_IN_MODIFY, _IN_ATTRIB = 0x2, 0x4
_IN_ONLYDIR = 0x1000000
_REMOVALS = _IN_MOVED_FROM | _IN_DELETE | _IN_DELETE_SELF | _IN_MOVE_SELF | _IN_ONLYDIR
_CHANGES = _IN_MODIFY | _IN_ATTRIB | _IN_DELETE_SELF | _IN_MOVE_SELF  # ATTRIB: also when it loses its name
_READ_BYTES = 1 << 16


class Watch:
    """Removals from folders, and changes of files. `fd` becomes readable when there were some.

    Use it in a `with` block.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def add(self, folder: Path) -> bool:
        """Watch a folder, once however often it is added; False when it is not there or closed to us."""
        return self._add(folder, _REMOVALS)

    def add_file(self, path: Path) -> bool:
        """Watch the file that has this name now, also for another one that takes its name; as `add`."""
        return self._add(path, _CHANGES)

    def _add(self, path: Path, events: int) -> bool:
        return bool(self._libc.inotify_add_watch(self.fd, os.fsencode(path), events) >= 0)

    def read(self) -> bool:
        """Take what is there; whether there was something."""
        try:
            return bool(os.read(self.fd, _READ_BYTES))
        except BlockingIOError:
            return False
