"""A node under 1,000 hostile connections: its clients notice nothing, its memory is bounded, all are closed.

The attackers are plain sockets of this process, on loopback; the node is a process of its own, with short
times, so that what takes a minute in earnest takes seconds here.
"""

from __future__ import annotations

import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.attack.client import UPGRADE, Client, frame_head
from nconnect.control.node import NodeStatus
from nconnect.control.node_client import running_nodes
from nconnect.crypto.keys import Identity
from nconnect.wire.nkn import InboundMessage, OutboundMessage, decode_client_message

EACH = 200  # of five kinds
QUEUES_BYTES = 32 << 20
# What the node may grow by: its queues, a half-sent message for each slow reader, and 40 KiB a connection.
GROWTH_BYTES = QUEUES_BYTES + EACH * (64 << 10) + 5 * EACH * (40 << 10)
SLOWEST_REPLY_S = 2.0
KEY = Identity(b"k" * 32)
PROGRAM = f"""
import logging, sys
from nconnect.daemon.node import run
from nconnect.io.net import websocket_server
from nconnect.model import NodeConfig
from nconnect.node.settings import NodeSettings
logging.basicConfig(level=logging.INFO, format="%(message)s")
websocket_server.UPGRADE_TIMEOUT_S = 4.0
settings = NodeSettings(rate_per_s=None, login_timeout_s=4.0, ping_interval_s=1.0, idle_timeout_s=8.0,
                        stall_timeout_s=4.0, client_queue_bytes=1 << 20, node_queue_bytes={QUEUES_BYTES})
sys.exit(run(NodeConfig("127.0.0.1", 0, 0), settings=settings))
"""


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    monkeypatch.setenv("NCONNECT_RUN_DIR", str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def enough_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * 5 * EACH:
        pytest.skip(f"needs {2 * 5 * EACH} descriptors, {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory_bytes(pid: int, which: str) -> int:
    found = re.search(rf"^{which}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found.group(1)) << 10


def status() -> NodeStatus:
    (found,) = running_nodes()
    return found


def test_a_thousand_hostile_connections(node: subprocess.Popen[str]) -> None:
    assert node.stderr is not None
    found = re.search(r"websocket port (\d+)", node.stderr.readline())
    assert found
    port = int(found.group(1))

    with ExitStack() as stack:

        def connect(receive_buffer: int | None = None) -> socket.socket:
            sock = stack.enter_context(socket.socket())
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(20)
            sock.connect(("127.0.0.1", port))
            return sock

        def log_in(name: str, receive_buffer: int | None = None) -> Client:
            client = Client(connect(receive_buffer), KEY, name)
            stack.callback(client.close)
            return client.log_in()

        alice, bob, flooder = log_in("alice"), log_in("bob"), log_in("flooder")

        def chat() -> None:
            """One message there and back, in bearable time."""
            began = time.monotonic()
            for one, other in ((alice, bob), (bob, alice)):
                text = os.urandom(100)
                one.send(OutboundMessage((other.address,), (text,)).encode())
                message = decode_client_message(other.receive())
                assert isinstance(message, InboundMessage)
                assert bytes(message.payload) == text
            assert time.monotonic() - began < SLOWEST_REPLY_S

        chat()
        before = memory_bytes(node.pid, "VmRSS")
        for _ in range(EACH):  # say nothing at all
            connect()
        chat()
        for _ in range(EACH):  # begin a request, and never end it
            connect().sendall(UPGRADE[:-4] + b"\r\nX-Filler: " + b"x" * 2000)
        chat()
        for number in range(EACH):  # garbage, before the upgrade and after it
            connect().sendall((UPGRADE if number % 2 else b"") + os.urandom(5000))
        chat()
        for _ in range(EACH):  # never log in, but announce a large frame and send a part of it
            connect().sendall(UPGRADE + frame_head(1, 4 << 20) + bytes(20_000))
        chat()
        slow = []
        for number in range(EACH):
            slow.append(log_in(f"slow{number}", receive_buffer=4096))
            if number % 20 == 0:
                chat()  # answers the node's pings: this loop takes long on a busy machine
        chat()
        for number in range(16):  # 200 MB in all for those who do not read, and more for some of them
            for readers, size in ((slow, 64 << 10), (slow[:20], 400_000)):
                message = OutboundMessage(tuple(client.address for client in readers), (bytes(size),))
                flooder.send(message.encode())
            if number % 4 == 0:
                chat()
        deadline = time.monotonic() + 10
        while not (full := status()).queue_drops:  # the flooder waits for its turn, with what it sent
            assert time.monotonic() < deadline, full
            time.sleep(0.05)
        assert full.queue_bytes <= QUEUES_BYTES
        deadline = time.monotonic() + 30
        while (now := status()).connections > 3:
            assert time.monotonic() < deadline, now
            chat()
            flooder.send(OutboundMessage((flooder.address,), (b"still here",)).encode())
            flooder.receive()
        chat()
        assert memory_bytes(node.pid, "VmHWM") - before < GROWTH_BYTES
        assert now.queue_bytes == 0
        assert now.drops.get("stalled", 0) + now.drops.get("idle", 0) == EACH
        assert now.drops["login_timeout"] >= EACH
        assert now.clients == 3
        for client in (alice, bob, flooder):
            client.close()
