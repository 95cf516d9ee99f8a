from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from nconnect.daemon import machine_ports
from nconnect.daemon.machine_ports import MOST_PORTS, MachinePorts, ports_of
from nconnect.daemon.settings import InForce
from nconnect.errors import HostError
from nconnect.invite.table import PeerTable
from nconnect.io.process import descriptors
from nconnect.model import Config, Exposed, ProvideConfig, Service
from nconnect.streams.joining import reset
from tests.host.examples import PROVIDER


def in_force(*services: Service, expose: tuple[Exposed, ...] = ()) -> InForce:
    config = replace(PROVIDER, provide=ProvideConfig(services=services, expose=expose))
    return InForce(PeerTable(config, {}))


class Doors:
    """Listens on loopback, at any port, in place of a tunnel's network."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.sockets: dict[int, socket.socket] = {}

    def listen(self, port: int) -> socket.socket:
        self.asked.append(port)
        if port == 22:
            raise HostError("address in use")
        self.sockets[port] = listener = socket.create_server(("127.0.0.1", 0))
        return listener


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("waited in vain")


def test_the_ports_of_a_configuration() -> None:
    config: Config = in_force(
        Service((7000, 7002), "tcp"), Service((53, 53), "udp"), expose=(Exposed("127.0.0.1", 11434),)
    ).config
    assert list(ports_of(config)) == [11434, 7000, 7001, 7002]


def test_what_cannot_be_used_is_said() -> None:
    async def test() -> None:
        doors = Doors()
        ports = MachinePorts(
            in_force(Service((22, 22), "tcp"), Service((1000, 1200), "tcp"), Service((53, 53), "udp")),
            doors.listen,
        )
        task = asyncio.create_task(ports.run(), name="ports")
        try:
            await until(lambda: "port 22" in ports.problem)
            assert len(doors.asked) == MOST_PORTS
            assert "only the first 128" in ports.problem
            assert "UDP services" in ports.problem
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(test())


def test_a_port_that_is_no_longer_named_is_closed() -> None:
    async def test() -> None:
        doors, before = Doors(), in_force(Service((7000, 7000), "tcp"))
        ports = MachinePorts(before, doors.listen)
        task = asyncio.create_task(ports.run(), name="ports")
        try:
            await until(lambda: 7000 in ports._servers)
            before.put(in_force().file)
            ports.changed()
            await until(lambda: 7000 not in ports._servers)
            assert doors.sockets[7000].fileno() == -1, "closed"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(test())


def test_connections_are_bounded_and_end_with_a_peer_that_went_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        watched: list[int] = []
        release = asyncio.Event()

        async def dial(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            await release.wait()
            raise ConnectionRefusedError

        def noted(writer: asyncio.StreamWriter) -> None:
            sock = writer.get_extra_info("socket")
            watched.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            reset(writer)

        monkeypatch.setattr(machine_ports, "reset", noted)
        monkeypatch.setattr(machine_ports, "_dial", dial)
        monkeypatch.setattr(descriptors, "limit", lambda: 16)
        doors = Doors()
        ports = MachinePorts(in_force(Service((7000, 7000), "tcp")), doors.listen)
        task = asyncio.create_task(ports.run(), name="ports")
        try:
            await until(lambda: 7000 in ports._servers)
            place = doors.sockets[7000].getsockname()
            three = [await asyncio.open_connection(*place) for _ in range(3)]
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(three[2][0].read(), 5)
            assert ports._number == 2
            release.set()
            await until(lambda: ports._number == 0)
            assert watched == [0, 1, 1], "but for the refused one the kernel asks whether they live"
            for _, writer in three:
                writer.transport.abort()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(test())
