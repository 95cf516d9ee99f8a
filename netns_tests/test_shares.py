"""Two users want all of one provider's line: each gets half, however many connections it has.

user ────┐
         node ── (slow) ── provider ── server
friend ──┘
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from lab.netns import Namespace, cable, namespaces
from lab.sides import Side
from lab.traffic import SERVICE, connect, shape
from lab.world import LAN, LAN6, SEED_RPC, SERVER, WAN_INTERFACE, World
from netns_tests.topology import start

pytestmark = pytest.mark.slow

MBIT = 30
FLOWS = 100  # of the one; the other has one
SETTLE_S, SECONDS = 4.0, 10.0


@contextmanager
def friend_of(world: World) -> Iterator[Namespace]:
    """Another user's machine, whose tunnel to the provider is up."""
    with ExitStack() as undo:
        (friend,) = namespaces(undo, "ncshare", "friend")
        cable(friend, WAN_INTERFACE, ["198.51.101.2/24"], world.internet, "friend", ["198.51.101.1/24"])
        friend.ip("route add default via 198.51.101.1")
        side = Side("friend", friend, world.folder / "friend")
        undo.callback(side.stop)
        side.nconnect(
            "init", "--identifier", "friend", "--address", "10.86.0.3/24,fd86::3/64", "--seed-rpc", SEED_RPC
        )
        world.provider_side.nconnect(
            "peer", "add", "friend", side.address(), "--allowed-ips", "10.86.0.3/32,fd86::3/128"
        )
        side.nconnect(
            *("peer", "add", "gpu-box", world.provider_side.address()),
            *("--allowed-ips", f"10.86.0.1/32,fd86::1/128,{LAN},{LAN6}"),
        )
        side.start()
        side.wait("gpu-box")
        yield friend


@contextmanager
def busy(connections: list[socket.socket], way: str) -> Iterator[None]:
    """Keep all of them as busy as they can be."""
    stop = threading.Event()
    event = selectors.EVENT_READ if way == "source" else selectors.EVENT_WRITE
    data = bytes(1 << 16)

    def work() -> None:
        with selectors.DefaultSelector() as ready:
            for connection in connections:
                connection.sendall(f"{way} {1 << 40}\n".encode())
                connection.setblocking(False)
                ready.register(connection, event)
            while not stop.is_set():
                for key, _ in ready.select(0.1):
                    assert isinstance(key.fileobj, socket.socket)
                    with contextlib.suppress(BlockingIOError):
                        if way == "source":
                            key.fileobj.recv(1 << 18)
                        else:
                            key.fileobj.send(data)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


@pytest.mark.parametrize("way", ["source", "sink"])
def test_each_gets_half_however_many_connections_it_has(fresh: World, way: str) -> None:
    start(fresh)
    with friend_of(fresh) as friend, ExitStack() as opened:
        connections = [
            opened.enter_context(connect(namespace, SERVER, SERVICE, timeout_s=30))
            for namespace, count in ((fresh.user, FLOWS), (friend, 1))
            for _ in range(count)
        ]
        shape(*((fresh.provider, WAN_INTERFACE) if way == "source" else (fresh.internet, "provider")), MBIT)
        field = "tx_bytes" if way == "source" else "rx_bytes"

        def counts() -> list[int]:
            return [peer[field] for peer in fresh.provider_side.status()["peers"]]

        with busy(connections, way):
            time.sleep(SETTLE_S)
            before = counts()
            time.sleep(SECONDS)
            many, one = (new - old for new, old in zip(counts(), before, strict=True))
        print(way, "many", many, "one", one, "share of one", one / (many + one))
        assert many + one > 0.5 * MBIT * 1e6 / 8 * SECONDS, "the line was not full"
        assert one / (many + one) == pytest.approx(0.5, abs=0.05)
