"""Connections of peers to what a provider without root offers: taken up inside, dialled from the machine.

The rules inside judge each packet, and hand TCP for the provided subnets to one listening socket there, with
its destination unchanged (tproxy). A program of its own, which `DialOut` starts, accepts from that socket,
connects to the same destination in the machine's own network, as the user who runs the daemon, and joins the
two (`io.namespace.splicing`), so that no byte passes the daemon's interpreter twice. It ends with the daemon.

    python -m nconnect.io.namespace.dial_out FD     FD listens; it ends when its standard input does

The kernel completes a connection before it is accepted: a destination that refuses is seen as a connection
that is reset at once.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import select
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress

from nconnect.errors import HostError
from nconnect.host.dialling import METADATA
from nconnect.io.errors import reason
from nconnect.io.namespace.splicing import Join, Pipes, end_by_reset
from nconnect.io.net.connections import keep_alive
from nconnect.io.process import descriptors
from nconnect.io.process.privileges import set_dumpable
from nconnect.ip.packet import is_forbidden_source
from nconnect.model import Address

log = logging.getLogger(__name__)

ANSWER_WITHIN_S = 10.0
_FDS_OF_A_JOIN = 6  # two sockets, and two pipes while something is in them
_ACCEPTED = 64  # before others have their turn
_EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class DialOut:
    """The program, started when it is first needed. `listener` is a socket inside; blocking."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """That the rules hand connections to."""
        return int(self._listener.getsockname()[1])

    def ensure(self) -> None:
        """Have it running. Raises `HostError`."""
        if self._process is not None and self._process.poll() is None:
            return
        fd = self._listener.fileno()
        command = [sys.executable, "-m", "nconnect.io.namespace.dial_out", str(fd)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=(fd,)
            )
        except OSError as error:
            raise HostError(f"cannot start a process: {reason(error)}") from error

    def close(self) -> None:
        self._listener.close()
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()


class _Dialler:
    """The program's loop."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._epoll = select.epoll()
        self._pipes = Pipes()
        self._joins: dict[int, Join] = {}  # by each of the two descriptors
        self._dialled: dict[int, tuple[socket.socket, socket.socket, float]] = {}  # by the one out there
        self._busy: deque[Join] = deque()
        self._most = descriptors.limit() // _FDS_OF_A_JOIN - 8

    def run(self) -> None:
        """Until the standard input ends."""
        listener, ending = self._listener.fileno(), sys.stdin.fileno()
        self._listener.setblocking(False)
        self._epoll.register(listener, select.EPOLLIN)
        self._epoll.register(ending, select.EPOLLIN)
        while True:
            for fd, _ in self._epoll.poll(self._wait_s()):
                if fd == ending:
                    return
                if fd == listener:
                    self._accept()
                elif fd in self._dialled:
                    self._connected(fd)
                elif fd in self._joins:
                    self._advance(self._joins[fd])
            for _ in range(len(self._busy)):
                self._advance(self._busy.popleft())
            self._give_up()

    def _wait_s(self) -> float | None:
        if self._busy:
            return 0.0
        return 1.0 if self._dialled else None

    def _accept(self) -> None:
        for _ in range(_ACCEPTED):
            try:
                here, _ = self._listener.accept()
            except OSError:
                return  # none is left, or there is no descriptor for it
            if len(self._joins) // 2 + len(self._dialled) >= self._most or not self._dial(here):
                end_by_reset(here)

    def _dial(self, here: socket.socket) -> bool:
        """Begin to connect to where a peer's connection is meant for; False: that is refused."""
        host, port = here.getsockname()[:2]
        address = ipaddress.ip_address(host.removeprefix("::ffff:"))
        if is_refused(address):
            return False
        here.setblocking(False)
        keep_alive(here)
        there = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6)
        there.setblocking(False)
        for sock in (here, there):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = there.connect_ex((str(address), port))
        if code not in (0, errno.EINPROGRESS):
            there.close()
            return False
        self._dialled[there.fileno()] = (here, there, time.monotonic() + ANSWER_WITHIN_S)
        self._epoll.register(there, _EVENTS)
        return True

    def _connected(self, fd: int) -> None:
        here, there, _ = self._dialled[fd]
        try:
            failed = there.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            remote = there.getpeername()[0]
        except OSError as error:
            if error.errno == errno.ENOTCONN and not failed:
                return  # an event of before it connects
            failed = failed or errno.ENOTCONN
        # An address that is the machine's own is not reached this way, whatever the rules know of it.
        if failed or there.getsockname()[0] == remote:
            del self._dialled[fd]
            end_by_reset(here)
            there.close()
            return
        del self._dialled[fd]
        join = Join(here, there, self._pipes)
        self._joins[fd] = self._joins[here.fileno()] = join
        self._epoll.register(here, _EVENTS)
        self._advance(join)

    def _advance(self, join: Join) -> None:
        if join.has_ended:
            return
        fds = [sock.fileno() for sock in join.sockets]
        if join.advance():
            self._busy.append(join)
        if join.has_ended:
            for fd in fds:
                del self._joins[fd]

    def _give_up(self) -> None:
        now = time.monotonic()
        while self._dialled:
            fd, (here, there, until) = next(iter(self._dialled.items()))  # the oldest
            if now < until:
                return
            del self._dialled[fd]
            end_by_reset(here)
            there.close()


def is_refused(address: Address) -> bool:
    """Whether no peer's packet gets there, whatever is provided: metadata servers answer whoever asks."""
    return is_forbidden_source(address.packed) or address in METADATA


def _main() -> None:
    set_dumpable(False)
    descriptors.take_all()
    with socket.socket(fileno=int(sys.argv[1])) as listener, suppress(KeyboardInterrupt):
        os.set_inheritable(listener.fileno(), False)
        _Dialler(listener).run()


if __name__ == "__main__":
    _main()
