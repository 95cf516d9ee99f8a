"""A user without a TUN and without root reaches a server behind a provider, inside its rights.

user (uid 65534, no interface) ── internet (node) ── provider (TUN) ── server 192.168.50.10
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import CHECKOUT
from lab.process import Process, until
from lab.sides import Side
from lab.traffic import SERVICE, connect, download, expected_download, tcp_echo
from lab.world import PROVIDER_LAN, SERVER, World
from netns_tests.topology import CLOSED

NOBODY = 65534
PORT = 9000


@pytest.fixture(scope="module")
def user(shared: World) -> Iterator[Side]:
    """The user's configuration, in a folder of `nobody`'s; the provider and the node run."""
    shared.user_side.down()
    folder = Path(tempfile.mkdtemp(prefix="ncstreams-"))
    side = Side("listener", shared.user, folder)
    side.config.touch(0o600)
    side.config.write_text(shared.user_side.config.read_text())
    for path in (folder, side.config):
        os.chown(path, NOBODY, NOBODY)
    yield side
    shutil.rmtree(folder)


@contextmanager
def forwarding(side: Side, host: str, target: int) -> Iterator[Process]:
    """`nobody` forwards a port of the user's machine."""
    command = [
        "setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups",
        sys.executable, "-m", "netns_tests.stream_listener", str(side.config), str(PORT), host, str(target),
    ]  # fmt: skip
    log = side.folder.parent / f"{side.folder.name}.log"
    env = {**side.env, "PYTHONPATH": str(CHECKOUT)}
    process = Process(side.namespace, command, log, env=env)
    try:
        until(lambda: "listening" in process.text(), "the listener", process=process)
        yield process
    finally:
        process.stop()
        log.unlink()


def refusal(side: Side) -> str:
    with connect(side.namespace, "127.0.0.1", PORT) as connection:
        return connection.makefile().read()


def test_a_user_without_root_reaches_a_server_behind_the_provider(shared: World, user: Side) -> None:
    with forwarding(user, SERVER, SERVICE):
        sent = os.urandom(1 << 20)
        assert tcp_echo(user.namespace, "127.0.0.1", PORT, sent) == sent
        with connect(user.namespace, "127.0.0.1", PORT) as connection:
            assert download(connection, 20_000_000) == expected_download(20_000_000)
        peer = shared.provider_side.peer()
        assert peer["usage"]["day"]["tx_bytes"] > 20_000_000
        assert "nc0" not in user.namespace.ip("link")


BY_SOCKET = """
import asyncio, pathlib, sys
from nconnect.streams.socket_dialler import SocketDialler
async def main():
    stream = await SocketDialler(pathlib.Path(sys.argv[1])).open(sys.argv[2], int(sys.argv[3]))
    stream.write(b"echo\\nby the socket")
    stream.write_eof()
    while data := await stream.read():
        sys.stdout.buffer.write(data)
    await stream.close()
asyncio.run(main())
"""


def test_another_process_of_the_user_uses_the_session_by_its_socket(shared: World, user: Side) -> None:
    with forwarding(user, SERVER, SERVICE):
        arguments = (str(user.control.path), SERVER, str(SERVICE))
        done = user.namespace.run(
            ["setpriv", "--reuid", str(NOBODY), "--clear-groups", sys.executable, "-c", BY_SOCKET, *arguments]
        )
        assert done.stdout == "by the socket", done.stderr


def test_what_is_not_allowed_is_refused_at_once_and_counted(shared: World, user: Side) -> None:
    before = shared.provider_side.peer()["drops"].get("refused", 0)
    with forwarding(user, PROVIDER_LAN, CLOSED):
        began = time.monotonic()
        assert "is not among what this peer may reach" in refusal(user)
        assert time.monotonic() - began < 5
    assert shared.provider_side.peer()["drops"]["refused"] > before


def test_a_pause_ends_streams_and_says_why(shared: World, user: Side) -> None:
    with forwarding(user, SERVER, SERVICE), connect(user.namespace, "127.0.0.1", PORT) as connection:
        connection.sendall(b"echo\nx")
        assert connection.recv(10) == b"x"
        shared.provider_side.nconnect("peer", "pause", "laptop", "--why", "at dinner")
        began = time.monotonic()
        try:
            connection.settimeout(5)
            with pytest.raises(ConnectionResetError):
                connection.recv(10)
            assert time.monotonic() - began < 1
            assert "at dinner" in refusal(user)
        finally:
            shared.provider_side.nconnect("peer", "resume", "laptop")
        until(lambda: tcp_echo(user.namespace, "127.0.0.1", PORT, b"back") == b"back", "the peer's return")
