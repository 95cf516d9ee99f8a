"""Sessions of the official SDK for Go (nkn-tunnel) over our node fill a link of 20 Mbit/s and lose nothing.

    user ────(20 Mbit/s)──── internet ──── provider
    nkn-tunnel, dials        node          nkn-tunnel, listens; a server

Their protocol, NCP, has no congestion control: up to 4 MiB wait in the node, and what the node drops is sent
again after 5 s. See docs/decisions/0019-no-codel-in-the-node.md.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from lab import official
from lab.process import Process, until
from lab.traffic import connect, shape
from lab.world import SEED_RPC, WAN_INTERFACE, World, world
from nconnect.crypto.keys import Identity
from nconnect.model import NknAddress

MBIT = 20
SERVER_PORT = 9000
BYTES = 10_000_000
# It does not close, because the official tunnel drops what has not arrived a second after the close.
SERVER = f"""
import socket, threading
def serve(connection):
    with connection:
        asked = connection.recv(1)
        if asked == b"?":
            connection.sendall(bytes({BYTES}))
        elif asked == b"!":
            got = 0
            while got < {BYTES} and (data := connection.recv(1 << 18)):
                got += len(data)
                connection.sendall(b"." * (10 * got // {BYTES} - 10 * (got - len(data)) // {BYTES}))
        connection.recv(1)
listener = socket.create_server(("127.0.0.1", {SERVER_PORT}))
print("serving", flush=True)
while True:
    threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"""
ATTEMPTS = 3
MANY_FRAMES_MTU = 10_000
# When it dials, the SDK sends before its login. A login in place of a websocket that it gave up waits behind
# its own data on the full link. Neither loses a message of a session.
NO_LOSS = {"not_logged_in", "login_timeout"}
# Moves the bytes over a connection, and prints after each step how many have arrived.
Move = Callable[[socket.socket, Callable[[int], None]], None]
CABLE = "user"  # the end of the user's cable at the internet

pytestmark = pytest.mark.skipif(
    bool(official.missing("nkn-tunnel")), reason="needs nkn-tunnel (scripts/setup --dev)"
)


@dataclass
class Shaped:
    world: World
    node: Process

    def passed_on(self) -> dict[str, Any]:
        """The last line that the node printed."""
        found: dict[str, Any] = json.loads(self.node.text().rpartition("\n")[0].rpartition("\n")[2])
        return found

    def carried(self, *, up: bool) -> int:
        """Bytes that have left the shaped end of the link."""
        side, device = (self.world.user, WAN_INTERFACE) if up else (self.world.internet, CABLE)
        return side.counters(device)["tx_bytes"]


@contextmanager
def shaped_world(name: str) -> Iterator[Shaped]:
    with world(name) as made:
        node = made.run_in(made.internet, [sys.executable, "-m", "netns_tests.counting"], "counting")
        until(lambda: "\n" in node.text(), "the node", process=node)
        shape(made.internet, CABLE, MBIT)
        shape(made.user, WAN_INTERFACE, MBIT)
        server = made.run_in(made.provider, [sys.executable, "-c", SERVER], "server")
        until(lambda: "serving" in server.text(), "the server", process=server)
        yield Shaped(made, node)


@dataclass
class Session:
    """nkn-tunnel at both ends with this MTU. `least`: the share of data in the link's bytes."""

    shaped: Shaped
    mtu: int
    least: float
    port: int

    def fills_the_link(self, move: Move, *, up: bool) -> None:
        """The best of three tries counts, because on a busy machine the link may wait for a program.

        A drop by the node counts in each of them.
        """
        for _ in range(ATTEMPTS):
            busy, resent, goodput = self.measure(move, up=up)
            way = "up" if up else "down"
            print(f"MTU {self.mtu} {way}: busy {busy:.3f}, resent {resent:.4f}, goodput {goodput:.3f} of it")
            if busy >= 0.9 and resent < 0.02 and goodput >= self.least:
                return
        pytest.fail(f"not in {ATTEMPTS} attempts; the last: {busy=:.3f} {resent=:.4f} {goodput=:.3f}")

    def arrives(self, move: Move, *, up: bool) -> None:
        """All of it arrives in one of three tries. A drop by the node counts in each of them."""
        for _ in range(ATTEMPTS):
            with suppress(TimeoutError):
                self.measure(move, up=up)
                return
            self.check_drops()
        pytest.fail(f"did not arrive in {ATTEMPTS} attempts")

    def measure(self, move: Move, *, up: bool) -> tuple[float, float, float]:
        """Shares: of time with the link busy, of data sent again, of data in the link's bytes."""
        shaped = self.shaped
        before, carried = shaped.passed_on(), shaped.carried(up=up)
        at: list[tuple[float, int]] = []  # (time, bytes that the link had carried) for each tenth of the data

        def note(got: int) -> None:
            while len(at) < 10 and got >= BYTES * (len(at) + 1) // 10:  # several may come at once
                at.append((time.monotonic(), shaped.carried(up=up)))

        with connect(shaped.world.user, "127.0.0.1", self.port) as connection:
            connection.settimeout(20)
            move(connection, note)
            carried = shaped.carried(up=up) - carried
            known = shaped.passed_on()["bytes"]
            until(lambda: shaped.passed_on()["bytes"] == known, "the node's count")
        after = shaped.passed_on()
        self.check_drops()
        (began, first), (ended, last) = at[0], at[6]  # later some of its four clients may have ended
        busy = (last - first) * 8 / max(ended - began, 0.001) / (MBIT * 1e6)
        messages = after["messages"] - before["messages"]
        resent = (after["bytes"] - before["bytes"] - messages * (after["largest"] - self.mtu)) / BYTES - 1
        return busy, resent, BYTES / carried

    def check_drops(self) -> None:
        assert set(self.shaped.passed_on()["drops"]) <= NO_LOSS


def tunnel(made: World, mtu: int) -> int:
    """Start both ends; return the user's TCP port that leads to the provider's server."""
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


@pytest.fixture(scope="module", params=[(1024, 0.7), (60_000, 0.85)], ids=["1024", "60000"])
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    mtu, least = request.param
    with shaped_world(f"ncofficial{mtu}") as shaped:
        yield Session(shaped, mtu, least, tunnel(shaped.world, mtu))


def test_a_download_fills_the_link_and_nothing_is_dropped_or_sent_again(session: Session) -> None:
    def move(connection: socket.socket, note: Callable[[int], None]) -> None:
        connection.sendall(b"?")
        got = 0
        while got < BYTES:
            data = connection.recv(1 << 18)
            assert data, f"closed after {got} of {BYTES} bytes"
            got += len(data)
            note(got)

    session.fills_the_link(move, up=False)


def test_an_upload_arrives_and_nothing_is_dropped(session: Session) -> None:
    def move(connection: socket.socket, note: Callable[[int], None]) -> None:
        def send() -> None:
            with suppress(OSError):  # closed: the attempt is over
                connection.sendall(b"!" + bytes(BYTES))

        sender = threading.Thread(target=send)
        sender.start()
        tenths = 0
        while tenths < 10:
            data = connection.recv(16)
            assert data, f"closed after {tenths} of 10 tenths"
            tenths += len(data)
            note(BYTES * tenths // 10)
        sender.join()

    if session.mtu < MANY_FRAMES_MTU:
        # All of it arrives, and our node drops nothing. The SDK gives up a websocket whose write takes longer
        # than three round trips, and sends its content again (over nknd as well); with all four given up at
        # once it may stand still.
        session.arrives(move, up=True)
    else:
        session.fills_the_link(move, up=True)
