"""Sessions of the official SDK for Go (nkn-tunnel) over our node, to a client behind 20 Mbit/s.

    user ────(20 Mbit/s)──── internet ──── provider
    nkn-tunnel, dials        node          nkn-tunnel, listens; a server

Their protocol, NCP, has no congestion control: up to 4 MiB wait in the node, and what is dropped is sent
again after 5 s. docs/decisions/0019-no-codel-in-the-node.md.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from lab import official
from lab.process import Process, until
from lab.world import SEED_RPC, WAN_INTERFACE, World, world
from nconnect.crypto.keys import Identity
from nconnect.model import NknAddress
from netns_tests.topology import connect, shape

MBIT = 20
SERVER_PORT = 9000
BYTES = 10_000_000
# It does not close: the official tunnel would cut off what has not arrived a second later.
SOURCE = f"""
import socket, threading
def send(connection):
    with connection:
        if connection.recv(1):
            connection.sendall(bytes({BYTES}))
            connection.recv(1)
listener = socket.create_server(("127.0.0.1", {SERVER_PORT}))
print("serving", flush=True)
while True:
    threading.Thread(target=send, args=listener.accept()[:1], daemon=True).start()
"""
CABLE = "user"  # the internet's end of the user's cable: what leaves here is what the link carries

pytestmark = pytest.mark.skipif(
    bool(official.missing("nkn-tunnel")), reason="needs nkn-tunnel (scripts/setup --dev)"
)


@dataclass
class Shaped:
    world: World
    node: Process

    def passed_on(self) -> dict[str, Any]:
        """What the node said last."""
        found: dict[str, Any] = json.loads(self.node.text().rpartition("\n")[0].rpartition("\n")[2])
        return found

    def carried(self) -> int:
        return self.world.internet.counters(CABLE)["tx_bytes"]


@pytest.fixture(scope="module")
def shaped() -> Iterator[Shaped]:
    with world("ncofficial") as made:
        node = made.run_in(made.internet, [sys.executable, "-m", "netns_tests.counting"], "counting")
        until(lambda: "\n" in node.text(), "the node", process=node)
        shape(made.internet, CABLE, MBIT)
        shape(made.user, WAN_INTERFACE, MBIT)
        source = made.run_in(made.provider, [sys.executable, "-c", SOURCE], "source")
        until(lambda: "serving" in source.text(), "the source", process=source)
        yield Shaped(made, node)


def tunnel(made: World, mtu: int) -> int:
    """Start both ends; the user's TCP port that leads to the provider's server."""
    seed, port = os.urandom(32), 20_000 + mtu % 10_000
    program = [official.program("nkn-tunnel"), "-rpc", SEED_RPC, "-mtu", str(mtu), "-v"]
    listen = ["-from", "nkn", "-to", f"127.0.0.1:{SERVER_PORT}", "-s", seed.hex()]
    listener = made.run_in(made.provider, [*program, *listen], f"listener-{mtu}")
    until(lambda: "istening at" in listener.text(), "nkn-tunnel to listen", process=listener)
    dial = ["-from", f"127.0.0.1:{port}", "-to", str(NknAddress("", Identity(seed).public_key))]
    dialler = made.run_in(made.user, [*program, *dial], f"dialler-{mtu}")
    until(lambda: _answers(made, port), "nkn-tunnel to dial", process=dialler)
    return port


def _answers(made: World, port: int) -> bool:
    try:
        connect(made.user, "127.0.0.1", port).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("mtu", "least"), [(1024, 0.7), (60_000, 0.85)])
def test_a_download_fills_the_link_and_nothing_is_dropped_or_sent_again(
    shaped: Shaped, mtu: int, least: float
) -> None:
    port = tunnel(shaped.world, mtu)
    before, carried = shaped.passed_on(), shaped.carried()
    at: list[tuple[float, int]] = []  # when a tenth more had come, and what the link had carried by then
    with connect(shaped.world.user, "127.0.0.1", port) as connection:
        connection.settimeout(20)
        connection.sendall(b"?")
        got = 0
        while got < BYTES:
            data = connection.recv(1 << 18)
            assert data, f"closed after {got} of {BYTES} bytes"
            got += len(data)
            if got >= BYTES * (len(at) + 1) // 10:
                at.append((time.monotonic(), shaped.carried()))
        carried = shaped.carried() - carried
        known = shaped.passed_on()["bytes"]
        until(lambda: shaped.passed_on()["bytes"] == known, "the node's count")
    after = shaped.passed_on()
    assert set(after["drops"]) <= {"not_logged_in"}  # the SDK sends before its login, when it dials
    (began, first), (ended, last) = at[0], at[6]  # later some of its four clients may be done already
    busy = (last - first) * 8 / (ended - began) / (MBIT * 1e6)
    messages = after["messages"] - before["messages"]
    resent = (after["bytes"] - before["bytes"] - messages * (after["largest"] - mtu)) / BYTES - 1
    print(f"MTU {mtu}: busy {busy:.3f}, resent {resent:.4f}, goodput {BYTES / carried:.3f} of it")
    assert busy >= 0.9
    assert resent < 0.02
    assert BYTES / carried >= least
