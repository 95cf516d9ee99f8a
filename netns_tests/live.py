"""Flows that go on while something is changed, and a second user beside the first.

user ─────┐
          internet (node) ── provider ── server 192.168.50.10
second ───┘
10.86.0.3
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from types import TracebackType

from lab.netns import Namespace, cable
from lab.sides import Side
from lab.traffic import connect
from lab.world import LAN, PROVIDER_PEER, PROVIDER_TUNNEL, SEED_RPC, SERVER, WAN_INTERFACE, World

SECOND_PEER = "second"
SECOND_TUNNEL = "10.86.0.3"
RATE = 16_000_000  # bytes a second that a flow asks for: above 10 MB/s, and two flows leave the cores free
CHUNK = 1 << 16


class Flow:
    """A TCP connection to the server that carries `RATE` from it, or with `up` to it, until closed."""

    def __init__(self, user: Namespace, port: int, *, host: str = SERVER, up: bool = False) -> None:
        self.port = port
        self.moved = 0
        self.ended_at: float | None = None
        self._connection = connect(user, host, port)
        self._connection.settimeout(0.2)
        self._connection.sendall(b"sink\n" if up else b"source %d\n" % (1 << 40))
        self._up = up
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"flow {port}")
        self._thread.start()

    def rate(self, seconds: float) -> float:
        """Bytes a second that pass at this side, measured from now on."""
        before, started = self.moved, time.monotonic()
        time.sleep(seconds)
        return (self.moved - before) / (time.monotonic() - started)

    def __enter__(self) -> Flow:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        data = bytes(CHUNK)
        started = time.monotonic()
        while not self._stop.is_set():
            ahead_s = started + self.moved / RATE - time.monotonic()
            if ahead_s > 0:
                self._stop.wait(min(ahead_s, 0.05))
                continue
            started = max(started, time.monotonic() - self.moved / RATE - 0.1)  # do not catch up for a pause
            try:
                done = self._connection.send(data) if self._up else len(self._connection.recv(CHUNK))
            except TimeoutError:
                continue
            except OSError:
                done = 0
            if not done:
                self.ended_at = time.monotonic()
                return
            self.moved += done


def at_server(world: World, port: int) -> int:
    """Bytes that the server's kernel has sent and received on its connections of `port`; 0 without any."""
    listed = world.server.run(["ss", "-tinH", "state", "established", "sport", "=", f":{port}"]).stdout
    words = [word for word in listed.split() if word.startswith(("bytes_sent:", "bytes_received:"))]
    return sum(int(word.partition(":")[2]) for word in words)


@contextlib.contextmanager
def second_peer(world: World) -> Iterator[Side]:
    """A second user on a machine of its own, known to the provider, with a session."""
    second = Namespace(f"{world.user.name.rpartition('-')[0]}-second")
    side = Side("second", second, world.folder / "second")
    try:
        cable(second, WAN_INTERFACE, ["198.51.101.2/24"], world.internet, "second", ["198.51.101.1/24"])
        second.ip("route add default via 198.51.101.1")
        side.nconnect(
            *("init", "--identifier", SECOND_PEER, "--address", f"{SECOND_TUNNEL}/24"),
            *("--seed-rpc", SEED_RPC),
        )
        world.provider_side.nconnect(
            *("peer", "add", SECOND_PEER, side.address(), "--allowed-ips", f"{SECOND_TUNNEL}/32")
        )
        side.nconnect(
            *("peer", "add", PROVIDER_PEER, world.provider_side.address()),
            *("--allowed-ips", f"{PROVIDER_TUNNEL}/32,{LAN}"),
        )
        side.start()
        side.wait(PROVIDER_PEER)
        yield side
    finally:
        side.stop()
        second.remove()
