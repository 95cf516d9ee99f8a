"""Waiting by CLOCK_BOOTTIME: a wait that ends during the machine's sleep ends as soon as it wakes.

The loop's own timers go by CLOCK_MONOTONIC, which stands still meanwhile, so they would come that much later.
timerfd_create(2), for which Python has a binding from 3.13 on.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time

_TFD_NONBLOCK, _TFD_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC  # <sys/timerfd.h>


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


async def sleep(seconds: float) -> None:
    """Return `seconds` (above 0) from now, by CLOCK_BOOTTIME."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.timerfd_create(time.CLOCK_BOOTTIME, _TFD_NONBLOCK | _TFD_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    loop = asyncio.get_running_loop()
    due = asyncio.Event()
    try:
        whole, part = divmod(seconds, 1)
        spec = _Itimerspec(_Timespec(0, 0), _Timespec(int(whole), max(1, int(part * 1e9))))
        if libc.timerfd_settime(fd, 0, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        loop.add_reader(fd, due.set)
        try:
            await due.wait()
        finally:
            loop.remove_reader(fd)
    finally:
        os.close(fd)
