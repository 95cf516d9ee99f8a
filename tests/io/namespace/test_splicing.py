"""Joined sockets: all bytes arrive, each direction ends by itself, and what breaks is reset at both ends."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from nconnect.io.namespace.splicing import PIPE_BYTES, Join, Pipes


def pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    return one, other


class Joined:
    """user - (here, join, there) - server, carried by a thread until the join has ended."""

    def __init__(self) -> None:
        self.pipes = Pipes()
        self.user, here = pair()
        there, self.server = pair()
        for sock in (here, there):
            sock.setblocking(False)
        for sock in (self.user, self.server):
            sock.settimeout(10)
        self.join = Join(here, there, self.pipes)
        self._fds = (here.fileno(), there.fileno())
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def _carry(self) -> None:
        poll = select.epoll()
        for fd in self._fds:
            poll.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET)
        is_busy = True
        while not self.join.has_ended:
            if not is_busy:
                poll.poll(0.1)
            is_busy = self.join.advance()
        poll.close()

    def ended(self) -> bool:
        self._thread.join(5)
        return not self._thread.is_alive()

    def close(self) -> None:
        for sock in (self.user, self.server):
            sock.close()
        assert self.ended()


@pytest.fixture
def joined() -> Iterator[Joined]:
    made = Joined()
    yield made
    made.close()


def read_all(sock: socket.socket) -> bytes:
    found = bytearray()
    while data := sock.recv(1 << 16):
        found += data
    return bytes(found)


def test_each_direction_ends_by_itself_and_nothing_is_lost(joined: Joined) -> None:
    sent = os.urandom(8 * PIPE_BYTES + 17)

    def send() -> None:
        joined.user.sendall(sent)
        joined.user.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    assert read_all(joined.server) == sent
    sender.join()
    assert not joined.join.has_ended
    joined.server.sendall(b"an answer after their end")
    joined.server.close()
    assert read_all(joined.user) == b"an answer after their end"
    assert joined.ended()


def test_a_direction_whose_reader_is_slow_stops_the_sender_and_not_the_other_one(joined: Joined) -> None:
    joined.user.settimeout(0.5)
    with pytest.raises(TimeoutError):
        joined.user.sendall(bytes(64 << 20))
    joined.server.sendall(b"still here")
    assert joined.user.recv(100) == b"still here"


@pytest.mark.parametrize("breaks", ["user", "server"])
def test_what_breaks_is_an_error_at_the_other_end(joined: Joined, breaks: str) -> None:
    one, other = (joined.user, joined.server) if breaks == "user" else (joined.server, joined.user)
    one.sendall(b"half of it")
    assert other.recv(100) == b"half of it"
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    one.close()
    with pytest.raises(ConnectionResetError):
        other.recv(100)
    assert joined.ended()


def test_an_idle_join_holds_no_pipe(joined: Joined) -> None:
    joined.user.sendall(b"x")
    assert joined.server.recv(1) == b"x"
    joined.server.close()
    joined.user.close()
    assert joined.ended()
    first = joined.pipes.take()
    os.set_blocking(first[0], False)
    with pytest.raises(BlockingIOError):
        os.read(first[0], 1)
    Pipes.discard(first)
