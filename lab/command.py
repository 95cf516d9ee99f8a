"""What the lab's command lines have in common: how they are interrupted, and who owns their files."""

from __future__ import annotations

import os
import signal
from types import FrameType

from lab import CHECKOUT

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupt_once() -> None:
    """Make the first Ctrl-C, SIGTERM or SIGHUP a KeyboardInterrupt; later ones cannot stop the clean-up."""
    for number in _SIGNALS:
        signal.signal(number, _interrupted)


def give_back() -> None:
    """Give files that root wrote into the checkout (byte code, results) to the checkout's owner."""
    owner = CHECKOUT.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for folder, _, files in os.walk(CHECKOUT):
        for path in (folder, *(os.path.join(folder, name) for name in files)):
            if os.lstat(path).st_uid == 0:
                os.lchown(path, owner.st_uid, owner.st_gid)


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
