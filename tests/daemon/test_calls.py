"""How many Python calls a small packet costs from the TUN to the socket, and back, and in how many files.

Each call costs some 0.1 us; each file is one more to read for whoever follows a packet.

Two drivers with real links, and a node of ours between them, in one process.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import contextmanager
from ipaddress import ip_network
from types import FrameType
from typing import Any

from nconnect.crypto.aead import CipherSuite
from nconnect.crypto.keys import Identity
from nconnect.daemon.driver import Driver
from nconnect.io.clock import boottime
from nconnect.io.nkn.links import LinkCameUp, Links
from nconnect.io.nkn.node_server import NodeServer
from nconnect.model import NknAddress, NodeConfig, PeerConfig
from nconnect.node.settings import NodeSettings
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import SessionUp, Settings
from tests.daemon.test_driver import FakeTun
from tests.sim.network import packet

MAX_OUT, MAX_IN, MAX_FILES = 20, 25, 10
PACKETS = 8  # of which most cost what a packet costs: now and then the link's TCP_INFO is read besides
APART_S = 0.02  # what comes sooner is not alone
PACKET = packet("10.86.0.2", "192.168.50.10", bytes(60))


class End:
    """A daemon's hot half, with its real links."""

    def __init__(self, name: str, seed: int) -> None:
        self.identity = Identity(bytes([seed]) * 32)
        self.address = NknAddress(name, self.identity.public_key)
        self.is_up = asyncio.Event()
        self.has_session = asyncio.Event()
        self.tun = FakeTun()

    def start(self, seed: str, peer: PeerConfig) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        self.tunnel = Tunnel(
            self.identity,
            self.address,
            [peer],
            Settings(CipherSuite.AES256GCM),
            now=boottime(),
            rng=os.urandom,
            wall_clock_ns=time.time_ns,
        )
        self.links = Links(self.identity, self.address, [seed], self.told, count=1, rng=os.urandom)
        self.driver = Driver(
            self.tun,
            self.tunnel,
            self.links.runners,
            self.told,
            asyncio.get_running_loop(),
        )
        self.driver.start()
        return [run for _, run in self.links.tasks()]

    def told(self, event: object) -> None:
        if isinstance(event, LinkCameUp):
            self.is_up.set()
            self.driver.check_peers()
        elif isinstance(event, SessionUp):
            self.has_session.set()


class Calls:
    """Python functions entered while `counting`, by name, and the files that they are in."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.files: set[str] = set()  # until the packet is the kernel's

    @contextmanager
    def counting(self):  # type: ignore[no-untyped-def]
        self.names, self.files = [], set()
        is_out = False

        def note(frame: FrameType, event: str, arg: object) -> None:
            nonlocal is_out
            code = frame.f_code
            # What the counting itself calls does not count.
            if event == "call" and not code.co_qualname.startswith(("_Generator", "Calls.")):
                self.names.append(code.co_qualname)
                if not is_out and code.co_filename.endswith(".py"):  # a dataclass's constructor is in none
                    self.files.add(code.co_filename)
            elif event == "c_call" and getattr(arg, "__name__", "") in ("sendmsg", "write"):
                is_out = True

        sys.setprofile(note)
        try:
            yield
        finally:
            sys.setprofile(None)


async def between_two(test: Callable[[End, End], Coroutine[Any, Any, None]]) -> None:
    config = NodeConfig(listen="127.0.0.1", ws_port=0, rpc_port=0)
    node = NodeServer(config, Identity(bytes(32)), NodeSettings(verify_signatures=False))
    await node.start()
    one, two = End("one", 1), End("two", 2)
    seed = f"http://127.0.0.1:{node.rpc_port}"
    tasks: list[asyncio.Task[None]] = []
    try:
        async with asyncio.timeout(20):
            for end, peer in (
                (one, PeerConfig("two", two.address, (ip_network("192.168.50.0/24"),))),
                (two, PeerConfig("one", one.address, (ip_network("10.86.0.2/32"),))),
            ):
                tasks += [asyncio.ensure_future(run()) for run in end.start(seed, peer)]
                await end.is_up.wait()
            one.tun.kernel.send(PACKET)
            await one.has_session.wait()
            await two.has_session.wait()
            await received(two)
            await test(one, two)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for end in (one, two):
            end.driver.stop()
            end.tun.close()
        await node.close()


async def received(end: End) -> bytes:
    """A packet that was written to the TUN."""
    return await asyncio.get_running_loop().sock_recv(end.tun.kernel, 1 << 16)


def test_a_packet_out() -> None:
    async def test(one: End, two: End) -> None:
        calls, found = Calls(), []
        for _ in range(PACKETS):
            await asyncio.sleep(APART_S)
            asyncio.get_running_loop().remove_reader(one.tun.fd)
            one.tun.kernel.send(PACKET)
            with calls.counting():
                one.driver._on_tun_readable(one.tun.fd)
            found.append((calls.names, calls.files))
            assert await received(two) == PACKET
        least, files = min(found, key=lambda each: len(each[0]))
        assert "WebSocket.send_binary" in least
        assert len(least) <= MAX_OUT, "\n".join(least)
        assert len(files) <= MAX_FILES, "\n".join(files)

    asyncio.run(between_two(test))


def test_a_packet_in() -> None:
    async def test(one: End, two: End) -> None:
        calls, found = Calls(), []
        websocket = two.links.runners[0].websocket
        assert websocket is not None
        loop = asyncio.get_running_loop()

        def on_readable() -> None:
            with calls.counting():
                websocket.receiver.on_readable()
            found.append((calls.names, calls.files))

        loop.remove_reader(websocket.socket)
        loop.add_reader(websocket.socket, on_readable)
        for _ in range(PACKETS):
            await asyncio.sleep(APART_S)
            one.tun.kernel.send(PACKET)
            assert await received(two) == PACKET
        least, files = min(
            (each for each in found if "TunWriter.write" in each[0]), key=lambda each: len(each[0])
        )
        assert len(least) <= MAX_IN, "\n".join(least)
        assert len(files) <= MAX_FILES, "\n".join(files)

    asyncio.run(between_two(test))
