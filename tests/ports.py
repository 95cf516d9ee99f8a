"""Ports of loopback at which nothing listens."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_GIVEN_OUT = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """One that the kernel gives to nobody who asks for any port: other tests do that all the time."""
    first = int(_GIVEN_OUT.read_text().split()[0])
    while True:
        port = random.randrange(_LOWEST, first)
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
