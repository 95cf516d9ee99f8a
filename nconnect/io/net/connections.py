"""What is asked of the kernel for TCP connections that are joined to something else."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 seconds


def reset_on_close(sock: socket.socket) -> None:
    """Have its end be a reset: the other side sees an error, never a short success."""
    with suppress(OSError):  # it has gone already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel ask from time to time whether a peer is there.

    A peer that goes away says nothing, and neither does the firewall once its rights have ended.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 20), (socket.TCP_KEEPCNT, 3)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
