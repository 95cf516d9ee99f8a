"""The port of direct TCP streams: silent to whoever does not prove a peer's key.

`nconnect.tunnel.paths.stream` decides who gets a stream, and `Door` who may try; this moves the bytes.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from math import inf

from nconnect.errors import DropReason
from nconnect.io.clock import boottime
from nconnect.io.net import listening
from nconnect.io.net.accepting import Acceptor
from nconnect.io.net.stream_link import StreamLink
from nconnect.tunnel.paths.stream.door import Door
from nconnect.tunnel.paths.stream.opening import Answering, KeysOf
from nconnect.wire.stream import NONCE_BYTES


def bind(version: int, port: int) -> socket.socket:
    """A listening socket for IP version 4 or 6 alone, not blocking. Raises `HostError` in one line."""

    def set_options(made: socket.socket) -> None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    return listening.bind_direct(version, port, socket.SOCK_STREAM, set_options)


class StreamListener:
    """The port. Silent to whoever does not prove a peer's key; `refused` counts why not."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        keys_of: KeysOf,
        on_stream: Callable[[StreamLink], None],
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`listeners`: from `bind`, and closed with this. `on_stream` gets each stream, and starts it."""
        self.refused: Counter[DropReason] = Counter()
        self._keys_of = keys_of
        self._on_stream = on_stream
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._door = Door()
        self._arriving: dict[int, _Arrival] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._acceptors = [Acceptor(each, self._on_socket, self._admits) for each in listeners]

    @property
    def arriving(self) -> int:
        """How many connections are no streams yet."""
        return len(self._arriving)

    def close(self) -> None:
        """Stop listening, and close what is no stream yet. May be called twice."""
        for acceptor in self._acceptors:
            acceptor.close()
        for number in list(self._arriving):
            self._end(number)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _admits(self, host: str) -> bool:
        if self._door.admits(host, self._clock()):
            return True
        self.refused[DropReason.HANDSHAKE_FLOOD] += 1
        return False

    def _on_socket(self, sock: socket.socket, host: str) -> None:
        number = self._count = self._count + 1
        leaves = self._door.enter(number, host, self._clock())
        if leaves is not None:
            self.refused[DropReason.HANDSHAKE_FLOOD] += 1
            self._end(leaves)
        self._arriving[number] = _Arrival(
            self, number, sock, Answering(self._keys_of, os.urandom(NONCE_BYTES))
        )
        self._arm()

    def _arm(self) -> None:
        """One timer, for who has been here longest."""
        at = self._door.next_at()
        if self._timer is None and at < inf:
            self._timer = self._loop.call_later(max(0.0, at - self._clock()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        for number in self._door.overdue(self._clock()):
            self.refused[DropReason.MALFORMED] += 1
            self._end(number)
        self._arm()

    def _end(self, number: int) -> None:
        self._door.leave(number)
        self._arriving.pop(number).close()

    # What an arrival tells

    def refuse(self, number: int, why: DropReason) -> None:
        """Close this connection without a word."""
        self.refused[why] += 1
        self._end(number)

    def opened(self, number: int, sock: socket.socket, peer: str, early: bytes) -> None:
        """This connection is a stream; its socket is ours now."""
        self._door.leave(number)
        del self._arriving[number]
        try:
            link = StreamLink(peer, sock, is_ours=False, early=early)
        except OSError:  # closed at the same moment
            sock.close()
            return
        self._on_stream(link)


class _Arrival:
    """A connection to our port that is no stream yet."""

    def __init__(self, owner: StreamListener, number: int, sock: socket.socket, machine: Answering) -> None:
        self._owner = owner
        self._number = number
        self._sock = sock
        self._machine = machine
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._on_readable)

    def close(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _on_readable(self) -> None:
        machine = self._machine
        try:
            data = self._sock.recv(machine.wants)
            if not data:
                self._owner.refuse(self._number, DropReason.MALFORMED)
                return
            said = machine.receive(data)
            if isinstance(said, DropReason):
                self._owner.refuse(self._number, said)
                return
            if said and self._sock.send(said) < len(said):  # a new socket has room
                self._owner.refuse(self._number, DropReason.MALFORMED)
                return
        except BlockingIOError:
            return
        except OSError:
            self._owner.refuse(self._number, DropReason.MALFORMED)
            return
        if machine.is_open:
            self._loop.remove_reader(self._sock.fileno())
            self._owner.opened(self._number, self._sock, machine.peer, machine.early)
