"""On which ports something listens on this machine, from /proc/net."""

from __future__ import annotations

import sys
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from nconnect.model import Address

NET = Path("/proc/net")
_STATES = {"tcp": "0A", "udp": "07"}  # st: TCP_LISTEN; for UDP, a socket without a peer (TCP_CLOSE)


def listeners() -> dict[tuple[str, int], tuple[Address, ...]]:
    """The addresses by (tcp or udp, port). Those of this network namespace; empty where there is no /proc."""
    found: dict[tuple[str, int], tuple[Address, ...]] = {}
    for protocol, state in _STATES.items():
        for name in (protocol, f"{protocol}6"):
            try:
                lines = (NET / name).read_text().splitlines()[1:]
            except OSError:
                continue
            for line in lines:
                fields = line.split()
                if len(fields) < 4 or fields[3] != state:
                    continue
                address, _, port = fields[1].partition(":")
                key = protocol, int(port, 16)
                found[key] = (*found.get(key, ()), _address(address))
    return found


def _address(text: str) -> Address:
    """An address as the kernel writes it there: words of 32 bits, each in this machine's byte order."""
    words = [int(text[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(text), 8)]
    raw = b"".join(words)
    return IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw)
