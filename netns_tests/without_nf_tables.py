"""Runs a command as on a kernel without nf_tables: `python -m netns_tests.without_nf_tables COMMAND…`.

A seccomp filter (linux/seccomp.h, linux/filter.h) refuses socket(AF_NETLINK, …, NETLINK_NETFILTER) with
EPROTONOSUPPORT, for the command and all its children.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF: ld [k], jeq k, ret k
_SOCKET = {"x86_64": 41, "aarch64": 198}
_ARGUMENTS = 16  # seccomp_data: nr, arch, instruction pointer, then six arguments of 8 bytes
_AF_NETLINK, _NETLINK_NETFILTER = 16, 12


def program() -> bytes:
    """sock_filter each: code, jump if true, jump if false, k."""
    allow = 5
    return b"".join(
        struct.pack("=HBBI", *line)
        for line in (
            (_LOAD, 0, 0, 0),
            (_EQUAL, 0, allow, _SOCKET[platform.machine()]),
            (_LOAD, 0, 0, _ARGUMENTS),
            (_EQUAL, 0, allow - 2, _AF_NETLINK),
            (_LOAD, 0, 0, _ARGUMENTS + 16),
            (_EQUAL, 0, allow - 4, _NETLINK_NETFILTER),
            (_RETURN, 0, 0, _ERRNO | errno.EPROTONOSUPPORT),
            (_RETURN, 0, 0, _ALLOW),
        )
    )


def main() -> None:
    lines = program()
    kept = ctypes.create_string_buffer(lines)
    filters = struct.pack("HxxxxxxP", len(lines) // 8, ctypes.addressof(kept))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(filters), 0, 0):
        sys.exit(os.strerror(ctypes.get_errno()))
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
