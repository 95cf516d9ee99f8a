"""Flows that go on until they are ended, and note when each question was answered.

A flow asks every 50 ms and checks every answer. TCP sends numbered lines, which must come back complete and
in order. UDP sends datagrams; any answer counts that equals one of the questions.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import time

from lab.netns import LabError, Namespace
from lab.ping import echo_request
from lab.traffic import SERVICE, connect, family_of

EVERY_S = 0.05


class Flow:
    """A flow from inside a namespace; use it in a `with` block."""

    name = ""

    def __init__(self, namespace: Namespace, host: str, port: int = SERVICE) -> None:
        self.answers: list[float] = []  # when, time.monotonic()
        self.failure = ""
        self._namespace = namespace
        self._host = host
        self._port = port
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"flow-{self.name}", daemon=True)

    def __enter__(self) -> Flow:
        self._thread.start()
        self.answered_after(time.monotonic(), within_s=10)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(30)

    def answered_after(self, since: float, *, within_s: float) -> float:
        """How many seconds after `since` the first answer came; `LabError` when none does in time."""
        deadline = time.monotonic() + within_s
        while not self.answers or self.answers[-1] <= since:
            if self.failure:
                raise LabError(f"the {self.name} flow broke: {self.failure}")
            if time.monotonic() > deadline:
                raise LabError(f"the {self.name} flow was not answered within {within_s} s")
            time.sleep(0.01)
        return next(at for at in self.answers if at > since) - since

    def _run(self) -> None:
        try:
            self._talk()
        except (OSError, AssertionError, ValueError) as error:
            if not self._ending.is_set():
                self.failure = f"{type(error).__name__}: {error}"

    def _talk(self) -> None:
        raise NotImplementedError


class Tcp(Flow):
    name = "TCP"

    def _talk(self) -> None:
        with connect(self._namespace, self._host, self._port) as connection:
            connection.settimeout(240)
            connection.sendall(b"echo\n")
            received = b""
            number = 0
            while not self._ending.is_set():
                number += 1
                line = b"%012d %s\n" % (number, b"x" * (number % 50))
                connection.sendall(line)
                while len(received) < len(line):
                    got = connection.recv(1 << 16)
                    assert got, "closed"
                    received += got
                assert received == line, f"{received!r} instead of {line!r}"
                received = b""
                self.answers.append(time.monotonic())
                self._ending.wait(EVERY_S)


class Ping(Flow):
    """ICMP echo, IPv4."""

    name = "ping"

    def _talk(self) -> None:
        with self._namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as echo:
            echo.settimeout(EVERY_S)
            identifier = id(echo) & 0xFFFF
            number = 0
            while not self._ending.is_set():
                number = (number + 1) & 0xFFFF
                try:
                    echo.sendto(echo_request(identifier, number), (self._host, 0))
                    packet, source = echo.recvfrom(2048)
                    at = (packet[0] & 15) * 4
                    ours = packet[at + 4 : at + 6] == identifier.to_bytes(2)
                    if source[0] == self._host and packet[at] == 0 and ours:
                        self.answers.append(time.monotonic())
                except OSError:
                    pass  # no route, or no answer, for the moment
                self._ending.wait(EVERY_S)


class Udp(Flow):
    name = "UDP"

    def _talk(self) -> None:
        with self._namespace.socket(family_of(self._host), socket.SOCK_DGRAM) as datagrams:
            datagrams.settimeout(EVERY_S)
            number = 0
            while not self._ending.is_set():
                number += 1
                try:
                    datagrams.sendto(_datagram(number), (self._host, self._port))
                    answer = datagrams.recv(2000)
                    asked = int(answer[:12])
                    assert asked <= number, f"{asked} was never sent"
                    assert answer == _datagram(asked), f"{answer!r} instead of {_datagram(asked)!r}"
                    self.answers.append(time.monotonic())
                except OSError:
                    pass  # no route, or no answer, for the moment
                self._ending.wait(EVERY_S)


def _datagram(number: int) -> bytes:
    """The question of this number: no two are alike, and their sizes differ."""
    return b"%012d " % number + hashlib.sha256(b"%d" % number).digest() * (number % 40)
