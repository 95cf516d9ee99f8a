"""The lock and the control socket of one interface: what a running daemon is found by, in the run folder."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Protocol

from nconnect.io.errors import as_host_error
from nconnect.io.files import paths
from nconnect.io.net.listening import bind_unix


class RunFiles(Protocol):
    """Who makes them: this process, or for a daemon that is not root the helper (`io.helper`).

    Everything blocks, and raises `HostError`.
    """

    def lock(self) -> int:
        """Become the only daemon of the interface; the lock's descriptor."""

    def listen(self) -> socket.socket:
        """The control socket, in place of one that is dead. The caller holds the lock."""

    def let_in(self, *, everybody: bool) -> None:
        """Who may connect to the socket: all users of this machine, or its owner alone."""

    def remove_socket(self) -> None:
        """Remove the socket's file, if it is still the one that was made. The socket is still open."""

    def unlock(self, lock: int) -> None:
        """Give up the lock, and remove its file if it is still the one that was locked."""


class OwnRunFiles:
    """Made by this process itself."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._made: os.stat_result | None = None

    def lock(self) -> int:
        return paths.acquire_lock(self._interface)

    def listen(self) -> socket.socket:
        paths.make_run_dir()
        path = paths.socket_path(self._interface)
        with as_host_error(f"cannot remove {path}"):
            path.unlink(missing_ok=True)
        listener = bind_unix(path)
        self._made = os.stat(path)
        return listener

    def let_in(self, *, everybody: bool) -> None:
        path = paths.socket_path(self._interface)
        with suppress(OSError):  # it is gone: then it is made again, for its owner alone
            if self._made is not None and os.path.samestat(self._made, os.lstat(path)):
                os.chmod(path, 0o666 if everybody else 0o600)

    def remove_socket(self) -> None:
        path = paths.socket_path(self._interface)
        with suppress(OSError):  # it, or its folder, is not ours any more
            if self._made is not None and os.path.samestat(self._made, os.lstat(path)):
                path.unlink()

    def unlock(self, lock: int) -> None:
        paths.release_lock(self._interface, lock)
