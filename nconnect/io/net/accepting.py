"""Accepts connections on a listening socket: only those that are admitted, and a few in each turn."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

ACCEPTS_A_TURN = 16  # guessed: a login takes a third of a millisecond, and clients that talk wait for a turn
ACCEPT_PAUSE_S = 1.0  # after the kernel had no descriptor left: those that are open need time to close
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Acceptor:
    """One listening socket. `admit(ip)` is called before a connection costs work; if it returns False, the
    connection is closed. `on_socket(socket, ip)` gets the others, as non-blocking sockets.
    """

    def __init__(
        self,
        listener: socket.socket,
        on_socket: Callable[[socket.socket, str], None],
        admit: Callable[[str], bool] | None,
    ) -> None:
        self._listener = listener
        self._on_socket = on_socket
        self._admit = admit
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Stop listening. May be called twice."""
        if self._resume is not None:
            self._resume.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    def _listen(self) -> None:
        self._loop.add_reader(self._listener.fileno(), self._on_acceptable)

    def _on_acceptable(self) -> None:
        for _ in range(ACCEPTS_A_TURN):  # then let the sockets that are open already have their turn
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:  # the selector would call again and again
                    self._loop.remove_reader(self._listener.fileno())
                    self._resume = self._loop.call_later(ACCEPT_PAUSE_S, self._listen)
                return  # else it was gone before we took it: the selector calls again
            if self._admit is not None and not self._admit(address[0]):
                sock.close()
                continue
            sock.setblocking(False)
            self._on_socket(sock, address[0])
