"""The sockets of direct paths: UDP and listening TCP of each IP version, on one port, opened while there are
rights.

The port is the file's `direct_port`, or one that was drawn at the first start and is kept in the state
folder, so that a router's mapping and a firewall's rule stay right. With `direct = "off"` there are none.
"""

from __future__ import annotations

import errno
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from socket import socket

from nconnect.errors import HostError
from nconnect.io.files.state import StateStore
from nconnect.io.net import streams
from nconnect.io.net.datagrams import DatagramSocket
from nconnect.model import Config

log = logging.getLogger(__name__)

STORED = "direct-port"
# Below the ports that Linux gives to outgoing connections (32768 and up), and those of nodes (30002 and up).
_FIRST_PORT, _LAST_PORT = 16_384, 29_999
_MAX_DRAWS = 16  # guessed: so many in a row are taken only where all are
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


@dataclass(frozen=True, slots=True)
class DirectSockets:
    """What is open; port 0: nothing."""

    port: int = 0
    datagrams: Mapping[int, DatagramSocket] = field(default_factory=dict)  # by IP version
    listeners: Sequence[socket] = ()  # of TCP, on the same port

    @classmethod
    def bind(cls, port: int) -> DirectSockets:
        """On this port; a machine without IPv6 has IPv4's alone. Raises `HostError` in one line."""
        found: dict[int, DatagramSocket] = {}
        listeners: list[socket] = []
        try:
            for version in (4, 6):
                try:
                    found[version] = DatagramSocket.bind(version, port)
                    listeners.append(streams.bind(version, port))
                except HostError as error:
                    if version == 4 or _number(error) not in _NO_IPV6:
                        raise
        except HostError:
            cls(port, found, listeners).close()
            raise
        return cls(port, found, listeners)

    def close(self) -> None:
        """May come twice."""
        for datagrams in self.datagrams.values():
            datagrams.close()
        for listener in self.listeners:
            listener.close()


def is_wanted(config: Config) -> bool:
    """Whether a direct path to anybody is allowed."""
    modes = {config.network.direct or "on", *(peer.direct for peer in config.peers)} - {None}
    return modes != {"off"}


def open_sockets(
    config: Config, store: StateStore, draw: Callable[[int], int] = secrets.randbelow
) -> DirectSockets:
    """The sockets that a configuration asks for. Reads and writes the state folder; blocks.

    Raises `HostError` when the configured port cannot be had. A drawn one that is taken is drawn anew.
    """
    if not is_wanted(config):
        return DirectSockets()
    if (port := config.network.direct_port) is not None:
        return DirectSockets.bind(port)
    kept = store.load(STORED)
    port = kept if isinstance(kept, int) and _FIRST_PORT <= kept <= _LAST_PORT else None
    for _ in range(_MAX_DRAWS):
        drawn = port or _FIRST_PORT + draw(_LAST_PORT - _FIRST_PORT + 1)
        try:
            found = DirectSockets.bind(drawn)
        except HostError as error:
            if _number(error) != errno.EADDRINUSE:
                raise
            if port is not None:
                log.warning("port %d, which direct paths used before, is taken: using another", port)
            port = None
            continue
        if drawn != kept:
            with suppress(HostError):  # the store says it in `status`
                store.save(STORED, drawn)
        return found
    raise HostError(f"{_MAX_DRAWS} ports for direct paths are taken: choose a direct_port that is free")


def _number(error: HostError) -> int | None:
    return error.__cause__.errno if isinstance(error.__cause__, OSError) else None
