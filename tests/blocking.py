"""Finds calls that may block, made by the package in a thread that runs an event loop.

An audit hook (PEP 578) sees what the interpreter opens, renames, starts or looks up; `os.stat` and
`os.lstat`, which raise no audit event, are wrapped. What is allowed on the loop stands in `ALLOWED`, with the
reason.
"""

from __future__ import annotations

import asyncio
import inspect
import linecache
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

BLOCKING = {
    "open", "subprocess.Popen", "os.posix_spawn", "os.fork", "os.system", "os.listdir", "os.scandir",
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown",
    "os.truncate", "os.utime", "fcntl.flock", "fcntl.lockf", "fcntl.ioctl", "socket.getaddrinfo",
    "socket.gethostbyname", "socket.gethostbyaddr", "sqlite3.connect", "shutil.rmtree", "shutil.copyfile",
}  # fmt: skip
# By module and function: of the package's, the innermost one on the stack.
ALLOWED = {
    "io.net.listening._bind": "an address, which asks nobody",
    "io.net.resolve._look_up": "an address, which asks nobody: names are looked up in threads",
    "io.net.resolve._configuration": "whether /etc/resolv.conf is another; one stat for each look-up",
}
_PACKAGE = str(Path(__file__).parent.parent / "nconnect") + os.sep
_STDLIB = str(Path(asyncio.__file__).parent.parent) + os.sep
_ASYNCIO = str(Path(asyncio.__file__).parent) + os.sep
_LOOP = ("_run", "run_until_complete", "run")  # uvloop has no frames of its own: the last one is its caller
# asyncio of Python 3.13 looks after a unix socket's file, and uvloop, which the daemon uses, does not.
_SOCKET_FILE = ("create_unix_server", "_stop_serving")
_IMPORTS = "<frozen importlib._bootstrap>"  # a module that is needed for the first time


class Watch:
    """`found` has a line for each place, while it is on. One for a process: audit hooks stay."""

    def __init__(self) -> None:
        self.is_on = False
        self.found: dict[str, str] = {}
        self.tell: Callable[[str], object] = lambda line: None
        self._is_hooked = False

    def begin(self) -> None:
        self.found = {}
        self.is_on = True
        if not self._is_hooked:
            self._is_hooked = True
            sys.addaudithook(self._audit)
            os.stat, os.lstat = self._wrapped("os.stat", os.stat), self._wrapped("os.lstat", os.lstat)

    def end(self) -> list[str]:
        """What was found: `module.function: event (its first argument)`."""
        self.is_on = False
        return [f"{place}: {what}" for place, what in sorted(self.found.items())]

    def _wrapped(self, event: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def look(*args: Any, **more: Any) -> Any:
            self._check(event, args)
            return call(*args, **more)

        return look

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if self.is_on and event in BLOCKING:
            self._check(event, args)

    def _check(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.is_on or asyncio._get_running_loop() is None:
            return
        place = _place(sys._getframe(2))
        if place and place not in ALLOWED and place not in self.found:
            self.found[place] = f"{event} ({str(args[0])[:80] if args else ''})"
            self.tell(f"{place}: {self.found[place]}")


def _place(frame: FrameType | None) -> str:
    """The package's innermost function on the stack; "" when what blocks is not its own doing.

    That is: a module is being imported, or a test, on the loop, calls a function of the package that may
    block. (A test that awaits a coroutine of the package has done nothing wrong.)
    """
    place, of_package = "", None
    while frame is not None:
        code = frame.f_code
        if code.co_filename == _IMPORTS:
            return ""
        if code.co_filename.startswith(_PACKAGE):
            of_package = code
            if not place:
                module = code.co_filename.removeprefix(_PACKAGE).removesuffix(".py").replace(os.sep, ".")
                place = f"{module}.{code.co_qualname}"
        elif code.co_filename.startswith(_STDLIB):
            if code.co_filename.startswith(_ASYNCIO) and code.co_name in _LOOP:
                break  # the loop itself
            if code.co_filename.startswith(_ASYNCIO) and code.co_name in _SOCKET_FILE:
                return ""
            if code.co_filename in (linecache.__file__, traceback.__file__):
                return ""  # a mistake of ours is logged with its traceback
        elif of_package is not None and not of_package.co_flags & inspect.CO_COROUTINE:
            return ""
        frame = frame.f_back
    return place


WATCH = Watch()
