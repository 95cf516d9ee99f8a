"""Sockets, addresses and a mapped port: what a change of the network or of the file does to direct paths."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, cast

import pytest

from nconnect.daemon import direct_paths
from nconnect.daemon.direct_paths import DirectResources
from nconnect.daemon.direct_sockets import DirectSockets
from nconnect.daemon.events import ConfigChanged
from nconnect.daemon.reflexive import Reflexive
from nconnect.daemon.settings import InForce
from nconnect.errors import HostError
from nconnect.invite.table import PeerTable
from nconnect.io.net.datagrams import DatagramSocket
from nconnect.model import Config, Endpoint, NetworkConfig, NknAddress, PeerConfig
from nconnect.nat.port_mapping import Mapping as PortMapping
from nconnect.tunnel.paths.direct.candidates import LocalAddress, Network, Route
from nconnect.tunnel.paths.direct.surroundings import Surroundings
from nconnect.wire.direct import NatVerdict

PEER = PeerConfig("laptop", NknAddress("laptop", bytes(32)), ())
CONFIG = Config("nc7", bytes(32), "gpu", (), network=NetworkConfig(direct="on"), peers=(PEER,))
DEFAULT = ip_network("0.0.0.0/0")
HOME = Network((LocalAddress(ip_interface("192.168.1.5/24")),), (Route(DEFAULT, via="eth0 192.168.1.1"),))
CAFE = Network((LocalAddress(ip_interface("172.20.0.9/24")),), (Route(DEFAULT, via="eth0 172.20.0.1"),))
WITH_BRIDGE = Network(
    (*HOME.addresses, LocalAddress(ip_interface("172.17.0.1/16"), is_bridge=True)),
    (*HOME.routes, Route(ip_network("172.17.0.0/16"), via="docker0")),
)
WITH_TUNNEL = dataclasses.replace(
    HOME, routes=(*HOME.routes, Route(ip_network("10.0.0.0/8"), is_tunnel=True, via="nc7"))
)
SEEN = Endpoint(ip_address("198.51.100.7"), 41000)


def configured(**fields: Any) -> Config:
    return dataclasses.replace(CONFIG, network=dataclasses.replace(CONFIG.network, **fields))


class Socket:
    def __init__(self, name: str, notes: list[object]) -> None:
        self.name, self.notes = name, notes

    def route_changed(self) -> None: ...

    def close(self) -> None:
        self.notes.append(f"close {self.name}")


class Mapped:
    """Stands for `PortMappings`: maps the port at once, and gives it up when it is cancelled."""

    def __init__(self, parts: Parts, port: int, changed: Callable[..., None], tunnel: str) -> None:
        assert tunnel == "nc7"
        self.parts, self.port, self.changed = parts, port, changed

    async def run(self) -> None:
        self.parts.notes.append(f"map {self.port}")
        mapping = PortMapping(self.parts.outside, 7777, "PCP", 0.0, 0.0)
        maps = () if self.parts.router_problem else ("udp", "tcp")
        self.changed(dict.fromkeys(maps, mapping), self.parts.router_problem)
        self.parts.mapped.set()
        try:
            await self.parts.breaks.wait()
            self.parts.breaks.clear()
            raise ZeroDivisionError
        finally:
            self.parts.notes.append(f"unmap {self.port}")


class Parts:
    """A `DirectPaths`, and notes of what it does to the sockets, the core and the router."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sockets_port: int = 5000) -> None:
        self.notes: list[object] = []
        self.network, self.outside = HOME, ip_address("203.0.113.9")
        self.mapped, self.breaks = asyncio.Event(), asyncio.Event()
        self.router_problem = ""
        self.refuses = False
        self.in_force = InForce(PeerTable(CONFIG, {}))
        self.surroundings = Surroundings(sockets_port)
        self.reflexive = Reflexive(self.surroundings, list, may_ask=lambda _: True, found=lambda: None)
        monkeypatch.setattr(
            direct_paths, "PortMappings", lambda port, changed, tunnel: Mapped(self, port, changed, tunnel)
        )
        self.listening: list[Sequence[socket.socket]] = []
        self.paths = DirectResources(
            self.in_force,
            self.sockets(sockets_port),
            self.surroundings,
            self.reflexive,
            self,
            self,
            open_sockets=self.open,
            read_network=lambda: (self.network, 1472),
        )

    def sockets(self, port: int) -> DirectSockets:
        if not port:
            return DirectSockets()
        return DirectSockets(port, {4: cast(DatagramSocket, Socket(str(port), self.notes))})

    def open(self, config: Config) -> DirectSockets:
        if self.refuses:
            raise HostError("the port is in use")
        off = config.network.direct == "off"
        return self.sockets(0 if off else config.network.direct_port or 20_000)

    def set_datagrams(self, datagrams: Mapping[int, DatagramSocket]) -> None:
        self.notes.append(("use", [cast(Socket, each).name for each in datagrams.values()]))

    def listen(self, listeners: Sequence[socket.socket]) -> None:
        self.listening.append(listeners)

    def network_changed(self) -> None:
        self.notes.append("network changed")

    def candidates_changed(self) -> None:
        self.notes.append("candidates changed")

    async def reload(self, config: Config) -> None:
        """As `Reload` does, in the order of events."""
        await self.paths.prepare(config)
        self.paths.config_changed(ConfigChanged(config))
        self.in_force.put(PeerTable(config, {}))
        self.paths.reloaded()

    def taken(self) -> list[object]:
        notes, self.notes[:] = list(self.notes), []
        return notes


def play(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[Parts], Awaitable[None]], port: int = 5000
) -> Parts:
    """With the task running, and ended."""

    async def main() -> Parts:
        parts = Parts(monkeypatch, port)
        task = asyncio.create_task(parts.paths.run())
        try:
            await asyncio.wait_for(work(parts), 20)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            parts.paths.close()
        return parts

    return asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - a thread reads the network in between
        await asyncio.sleep(0.001)


def test_why_the_router_maps_nothing_is_one_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def start(parts: Parts) -> None:
        parts.router_problem = "the router's answer makes no sense (an answer that is too short)"
        await parts.mapped.wait()
        assert parts.surroundings.mapped == ()

    with caplog.at_level("INFO"):
        play(monkeypatch, start)
    (line,) = [line for line in caplog.messages if "port mapping" in line]
    assert line == ("port mapping: the router's answer makes no sense (an answer that is too short)")


def test_the_network_is_read_and_the_port_mapped_and_given_up_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def start(parts: Parts) -> None:
        await parts.mapped.wait()
        assert parts.surroundings.network == HOME
        assert parts.surroundings.mapped == (Endpoint(ip_address("203.0.113.9"), 7777),)
        assert parts.taken() == ["network changed", "map 5000", "candidates changed"]

    parts = play(monkeypatch, start)
    assert parts.notes == ["unmap 5000", "close 5000"]
    assert parts.surroundings.mapped == ()


def test_a_mapping_behind_another_nat_is_told_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(parts: Parts) -> None:
        parts.outside = ip_address("100.64.0.9")
        await parts.mapped.wait()
        assert parts.surroundings.mapped == ()
        assert "behind another NAT" in parts.paths.mapping_problem

    play(monkeypatch, start)


def test_in_another_network_what_was_proven_is_void_and_its_router_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def move(parts: Parts) -> None:
        await parts.mapped.wait()
        parts.surroundings.set_reflexive([SEEN], NatVerdict.EASY)
        parts.surroundings.answered_at = 1.0
        parts.mapped.clear()
        parts.taken()
        parts.network = CAFE
        parts.paths.changed()
        await parts.mapped.wait()
        assert parts.taken() == ["network changed", "unmap 5000", "map 5000", "candidates changed"]
        assert parts.surroundings.reflexive == ()
        assert parts.surroundings.answered_at < 0.0

    play(monkeypatch, move)


@pytest.mark.parametrize("network", [WITH_BRIDGE, WITH_TUNNEL])
def test_containers_and_tunnels_that_come_interrupt_no_path(
    monkeypatch: pytest.MonkeyPatch, network: Network
) -> None:
    async def more(parts: Parts) -> None:
        await parts.mapped.wait()
        parts.surroundings.set_reflexive([SEEN], NatVerdict.EASY)
        parts.taken()
        parts.network = network
        parts.paths.changed()
        await until(lambda: parts.surroundings.network == network)
        await until(lambda: bool(parts.notes))
        assert parts.taken() == ["candidates changed"]
        assert parts.surroundings.reflexive == (SEEN,)

    play(monkeypatch, more)


def test_after_a_sleep_the_servers_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(parts: Parts) -> None:
        await parts.mapped.wait()
        parts.surroundings.has_stun = True
        assert parts.surroundings.wants_reflexive(1.0)
        assert not parts.surroundings.wants_reflexive(2.0)
        parts.taken()
        parts.paths.resumed()
        assert parts.taken() == ["network changed"]
        assert parts.surroundings.wants_reflexive(2.0)

    play(monkeypatch, sleep)


def test_a_router_is_not_asked_where_that_is_off_or_there_is_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def without(parts: Parts) -> None:
        await parts.mapped.wait()
        parts.taken()
        await parts.reload(configured(port_mapping=False))
        await until(lambda: "unmap 5000" in parts.notes)
        assert parts.surroundings.mapped == ()
        parts.mapped.clear()
        await parts.reload(CONFIG)
        await parts.mapped.wait()
        await parts.reload(dataclasses.replace(CONFIG, peers=()))
        await until(lambda: parts.notes.count("unmap 5000") == 2)

    play(monkeypatch, without)


def test_switched_off_nothing_listens_and_on_again_something_does(monkeypatch: pytest.MonkeyPatch) -> None:
    async def switch(parts: Parts) -> None:
        await parts.mapped.wait()
        parts.taken()
        await parts.reload(configured(direct="off"))
        assert parts.taken() == [("use", []), "close 5000", "network changed"]
        assert parts.surroundings.port == 0
        assert parts.reflexive.datagrams == {}
        await until(lambda: "unmap 5000" in parts.notes)
        parts.taken()
        await parts.reload(CONFIG)
        assert parts.taken() == [("use", ["20000"]), "network changed"]
        assert parts.surroundings.port == 20_000

    play(monkeypatch, switch)


def test_another_port_replaces_the_first_and_the_same_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async def move(parts: Parts) -> None:
        await parts.mapped.wait()
        parts.taken()
        await parts.reload(configured(direct_port=6000))
        assert parts.taken()[:2] == [("use", ["6000"]), "close 5000"]
        await parts.reload(configured(direct_port=6000, port_mapping=False))
        await parts.reload(configured(direct_port=6000, direct="no-host"))
        assert not [note for note in parts.notes if "use" in str(note)]
        await parts.reload(CONFIG)
        assert ("use", ["20000"]) in parts.taken()

    play(monkeypatch, move)


def test_a_port_that_cannot_be_had_and_a_reload_that_is_undone_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(parts: Parts) -> None:
        await parts.mapped.wait()
        parts.taken()
        parts.refuses = True
        with pytest.raises(HostError, match="in use"):
            await parts.paths.prepare(configured(direct_port=6000))
        parts.refuses = False
        await parts.paths.prepare(configured(direct_port=6000))
        parts.paths.config_changed(ConfigChanged(configured(direct_port=6000)))
        parts.paths.config_changed(ConfigChanged(CONFIG))  # the firewall refused the rest
        assert parts.taken() == ["close 6000"]
        parts.paths.reloaded()
        assert parts.taken() == []
        assert parts.surroundings.port == 5000

    play(monkeypatch, fail)


def test_a_mapping_that_failed_is_logged_and_tried_in_the_next_network(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(parts: Parts) -> None:
        await parts.mapped.wait()
        task = parts.paths._mapping
        assert task is not None
        parts.breaks.set()
        await asyncio.wait((task,))
        parts.mapped.clear()
        parts.paths.changed()
        await parts.mapped.wait()
        assert "port mapping failed" in caplog.text

    play(monkeypatch, fail)


def test_a_kernel_that_cannot_be_read_leaves_all_as_it_was(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(parts: Parts) -> None:
        await parts.mapped.wait()
        parts.taken()

        def broken() -> tuple[Network, int]:
            raise HostError("cannot read this machine's addresses: no buffer space")

        monkeypatch.setattr(parts.paths, "_read_network", broken)
        parts.paths.changed()
        await until(lambda: "no buffer space" in caplog.text)
        assert parts.taken() == []
        assert parts.surroundings.network == HOME

    play(monkeypatch, fail)


def test_where_it_is_off_from_the_start_the_network_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    async def off(parts: Parts) -> None:
        for _ in range(3):
            parts.paths.changed()
            await asyncio.sleep(0)

    parts = play(monkeypatch, off, port=0)
    assert (parts.notes, parts.surroundings.network) == ([], Network())
