"""Two TCP sockets become one connection: the kernel moves the bytes through pipes (splice(2)).

Everything here is non-blocking, and told of by edges (epoll(7), EPOLLET): `Join.advance` goes on until
neither direction can, or its turn is over. A direction that has ended at one side ends at the other, and one
that breaks resets both sockets, so that neither end takes what it got for the whole.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import suppress

from nconnect.io.net.connections import reset_on_close

PIPE_BYTES = 1 << 18  # guessed: four super-packets
_TURN = 16  # moves, before other joins have theirs
_SPARE_PIPES = 16
_NOT_NOW = (errno.EAGAIN, errno.EINTR)


class Pipes:
    """Empty pipes to use again: a direction has one only while something is in it."""

    def __init__(self) -> None:
        self._spare: list[tuple[int, int]] = []

    def take(self) -> tuple[int, int]:
        """(the end to read, the end to write)."""
        if self._spare:
            return self._spare.pop()
        pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(OSError):  # above the user's share of memory for pipes: it stays small
            fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return pipe

    def give(self, pipe: tuple[int, int]) -> None:
        if len(self._spare) < _SPARE_PIPES:
            self._spare.append(pipe)
        else:
            self.discard(pipe)

    @staticmethod
    def discard(pipe: tuple[int, int]) -> None:
        for fd in pipe:
            os.close(fd)


class _Way:
    """One direction of a join."""

    def __init__(self, source: socket.socket, sink: socket.socket, pipes: Pipes) -> None:
        self.has_ended = False  # the sink was told that there is no more
        self._source, self._sink = source.fileno(), sink
        self._pipes = pipes
        self._pipe: tuple[int, int] | None = None
        self._held = 0  # bytes in the pipe
        self._is_read = False  # to its end

    def move(self) -> bool:
        """One move in and out; whether another one may do something. Raises `OSError` when it breaks."""
        if self.has_ended:
            return False
        came = 0
        if not self._is_read and self._held < PIPE_BYTES:
            if self._pipe is None:
                self._pipe = self._pipes.take()
            came = self._splice(self._source, self._pipe[1], PIPE_BYTES - self._held)
            self._is_read = came == 0
            self._held += max(came, 0)
        went = 0
        if self._held:
            assert self._pipe is not None
            went = self._splice(self._pipe[0], self._sink.fileno(), self._held)
            self._held -= max(went, 0)
        if not self._held:
            self._give_back()
            if self._is_read:
                self.has_ended = True
                self._sink.shutdown(socket.SHUT_WR)
                return False
        return came > 0 or went > 0

    def close(self) -> None:
        if self._pipe is not None:
            pipe, self._pipe = self._pipe, None
            self._pipes.discard(pipe)  # something is left in it

    def _give_back(self) -> None:
        if self._pipe is not None:
            pipe, self._pipe = self._pipe, None
            self._pipes.give(pipe)

    @staticmethod
    def _splice(source: int, sink: int, size: int) -> int:
        """How many bytes; 0: the source has ended, -1: not now."""
        try:
            return os.splice(source, sink, size, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
        except OSError as error:
            if error.errno in _NOT_NOW:
                return -1
            raise


class Join:
    """Two connected sockets. Closes both when it has ended."""

    def __init__(self, here: socket.socket, there: socket.socket, pipes: Pipes) -> None:
        self.sockets = (here, there)
        self._ways = (_Way(here, there, pipes), _Way(there, here, pipes))
        self.has_ended = False

    def advance(self) -> bool:
        """Carry on; whether it stopped only because its turn is over."""
        try:
            for _ in range(_TURN):
                moves = [way.move() for way in self._ways]
                if not any(moves):
                    if all(way.has_ended for way in self._ways):
                        self._end()
                    return False
        except OSError:
            self.abort()
            return False
        return True

    def abort(self) -> None:
        """Reset both."""
        for sock in self.sockets:
            end_by_reset(sock)
        self._end()

    def _end(self) -> None:
        self.has_ended = True
        for way in self._ways:
            way.close()
        for sock in self.sockets:
            sock.close()


def end_by_reset(sock: socket.socket) -> None:
    """Close a TCP connection so that its other end sees an error."""
    reset_on_close(sock)
    sock.close()
