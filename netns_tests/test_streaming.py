"""A chat's stream keeps its pace and survives silence, and the server sees at once that a reader leaves.

user ── node ── provider ── server

The provider reads the same stream without the tunnel, for comparison.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from lab.netns import Namespace
from lab.ping import quantile
from lab.traffic import SERVICE, connect
from lab.world import SERVER, World
from netns_tests.live import Flow
from netns_tests.recovery import Recovery, table
from netns_tests.topology import Provided

PORT = 7100
EVERY_S = 0.025  # 40 tokens a second
TOKENS = 120
ABORTED_WITHIN_S = 1.0


@contextlib.contextmanager
def accepted(world: World, reader: Namespace) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection from `reader` to the server; returns the reader's end and the server's end."""
    with world.server.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((SERVER, PORT))
        listener.listen()
        here = connect(reader, SERVER, PORT)
        there, _ = listener.accept()
    with here, there:
        there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        there.settimeout(10)
        yield here, there


def token(there: socket.socket, number: int) -> None:
    there.sendall(b"data: %d\n" % number)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("silence_s", [90, 200])  # shorter than the life of a key, and longer
def test_silence_does_not_end_a_stream(tunnel: Provided, silence_s: float) -> None:
    with accepted(tunnel.world, tunnel.world.user) as (here, there):
        here.sendall(b"POST\n")
        assert there.recv(100) == b"POST\n"
        token(there, 1)
        assert here.recv(100) == b"data: 1\n"
        time.sleep(silence_s)
        sent_at = time.monotonic()
        token(there, 2)
        assert here.recv(100) == b"data: 2\n"
        taken_s = time.monotonic() - sent_at
        table.append(Recovery(f"a stream that was silent for {silence_s:.0f} s", "TCP", taken_s, 1.0))
        assert taken_s < 1.0
        here.sendall(b"thanks\n")
        assert there.recv(100) == b"thanks\n"


class Reader(threading.Thread):
    """Notes when each token came."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(daemon=True)
        self._connection = connection
        self._connection.settimeout(20)
        self.times: list[float] = []

    def run(self) -> None:
        with self._connection.makefile("rb", buffering=4096) as lines:
            for line in lines:
                self.times.append(time.monotonic())
                if line == b"data: %d\n" % (TOKENS - 1):
                    return


def late_ms(sent: list[float], came: list[float]) -> list[float]:
    return sorted((after - before) * 1e3 for before, after in zip(sent, came, strict=True))


def bunched(sent: list[float], came: list[float]) -> int:
    """How many tokens came together with the one before, although they were sent apart."""
    return sum(
        came_gap < 0.2 * sent_gap
        for sent_gap, came_gap in zip(
            (b - a for a, b in pairwise(sent)), (b - a for a, b in pairwise(came)), strict=True
        )
    )


@pytest.mark.parametrize("beside", ["alone", "a-download"])
def test_tokens_are_not_held_back_or_bunched(tunnel: Provided, beside: str) -> None:
    """They come a little later than without the tunnel. The best of three tries counts."""
    world = tunnel.world
    with contextlib.ExitStack() as stack:
        if beside == "a-download":
            stack.enter_context(Flow(world.user, SERVICE))
        tries: list[str] = []
        for _ in range(3):
            sent, through, direct = _stream(world)
            late = [quantile(late_ms(sent, came), 0.95) for came in (through, direct)]
            together = [bunched(sent, came) for came in (through, direct)]
            if late[0] <= late[1] + 10 and together[0] <= together[1] + TOKENS // 20:
                return
            tries.append(f"late {late[0]:.1f} ms, direct {late[1]:.1f}; bunched {together[0]}, {together[1]}")
    pytest.fail("; ".join(tries))


def _stream(world: World) -> tuple[list[float], list[float], list[float]]:
    """Send the same tokens to both readers; return when each was sent, came by the tunnel, came directly."""
    with accepted(world, world.user) as (here, there):
        through = Reader(here)
        with accepted(world, world.provider) as (near, there_too):
            direct = Reader(near)
            through.start()
            direct.start()
            sent = []
            next_at = time.monotonic()
            for number in range(TOKENS):
                sent.append(time.monotonic())
                token(there, number)
                token(there_too, number)
                next_at += EVERY_S
                time.sleep(max(0.0, next_at - time.monotonic()))
            through.join(20)
            direct.join(20)
    assert len(through.times) == len(direct.times) == TOKENS
    return sent, through.times, direct.times


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_a_reader_that_leaves_is_seen_at_once(tunnel: Provided, how: str) -> None:
    """So that the server stops computing. The reader leaves in a pause, or in the middle of a token."""
    with accepted(tunnel.world, tunnel.world.user) as (here, there):
        token(there, 0)
        assert here.recv(100) == b"data: 0\n"
        if how == "killed":  # with unread data, so that the kernel sends a reset
            token(there, 1)
            assert here.recv(1) == b"d"
        left_at = time.monotonic()
        here.close()
        try:
            assert there.recv(100) == b""
            assert how == "closed"
        except ConnectionResetError:
            assert how == "killed"
        taken_s = time.monotonic() - left_at
        table.append(Recovery(f"a reader leaves ({how}), as the server sees it", "TCP", taken_s, 1.0))
        assert taken_s < ABORTED_WITHIN_S
