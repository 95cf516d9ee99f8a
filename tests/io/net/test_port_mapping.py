"""Keeping a port open at a router on a loopback address of the test's own, on the daemon's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from collections.abc import Mapping as MappingOf
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

import pytest
import uvloop

from nconnect.io.clock import boottime
from nconnect.io.http.http import Request, Response
from nconnect.io.http.http_server import HttpServer
from nconnect.io.net import port_mapping, router
from nconnect.io.net.listening import bind_tcp, bind_udp
from nconnect.io.net.port_mapping import NO_ROUTER, PortMappings
from nconnect.io.net.router import Ipv6Way
from nconnect.model import Endpoint
from nconnect.nat.port_mapping import Mapping
from nconnect.nat.upnp_mapping import HttpCall
from nconnect.wire import pcp, upnp
from tests.nat import test_port_mapping as datagrams
from tests.nat import test_upnp_mapping as calls
from tests.wire.test_upnp import IP1, description

# One that no other run on this machine has; not that of test_router.
ROUTER = IPv4Address(0x7F800000 + os.getpid() % 0x3FFFFF)
PORT = 41641


class Watcher:
    """What `PortMappings` tells."""

    def __init__(self) -> None:
        self.mapped: dict[str, Endpoint] = {}
        self.problem = ""
        self.told = asyncio.Event()

    def __call__(self, mappings: MappingOf[str, Mapping], problem: str) -> None:
        self.mapped = {name: (mapping.address, mapping.port) for name, mapping in mappings.items()}
        self.problem = problem
        self.told.set()


class Serving(NamedTuple):
    """What a router has come to: it maps both protocols; it maps nothing more."""

    mapped: asyncio.Event
    gone: asyncio.Event


@contextlib.asynccontextmanager
async def by_datagrams(made: datagrams.Router, host: str = str(ROUTER)) -> AsyncIterator[Serving]:
    """The router of the machine's tests, behind a real socket."""
    loop = asyncio.get_running_loop()
    serving = Serving(asyncio.Event(), asyncio.Event())
    with bind_udp(host, pcp.SERVER_PORT) as sock:

        def readable() -> None:
            data, source = sock.recvfrom(2048)
            for answer in made.answer(data, boottime()):
                sock.sendto(answer, source)
            if len(made.mapped) == 2:
                serving.mapped.set()
            if not made.mapped:
                serving.gone.set()

        loop.add_reader(sock, readable)
        try:
            yield serving
        finally:
            loop.remove_reader(sock)


@contextlib.asynccontextmanager
async def by_upnp(made: calls.Bench) -> AsyncIterator[None]:
    """The router of the machine's tests, behind a real web server."""

    async def answer(ask: Request) -> Response:
        if ask.method == "GET":
            return Response(200, description((IP1, "/ctl/IPConn")))
        headers = (("SOAPAction", ask.header("soapaction")),)
        return Response(200, made.answer(HttpCall("", headers, ask.body)))

    listener = bind_tcp(str(ROUTER), 0)
    found = f"HTTP/1.1 200 OK\r\nLOCATION: http://{ROUTER}:{listener.getsockname()[1]}/d.xml\r\n\r\n".encode()
    server = await HttpServer.listen_on(listener, answer)
    loop = asyncio.get_running_loop()
    try:
        with bind_udp(str(ROUTER), upnp.SSDP_PORT) as sock:
            loop.add_reader(sock, lambda: sock.sendto(found, sock.recvfrom(2048)[1]))
            yield
            loop.remove_reader(sock)
    finally:
        await server.close()


@contextlib.asynccontextmanager
async def running(made: PortMappings) -> AsyncIterator[None]:
    async with asyncio.timeout(20):
        task = asyncio.create_task(made.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def run(work: object) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """This router is the default one, and its silence is waited for shorter than a real one's."""
    monkeypatch.setattr(port_mapping, "default_router", lambda tunnel: ROUTER)
    monkeypatch.setattr(port_mapping, "ipv6_ways", lambda tunnel: frozenset())
    for module in ("port_mapping", "upnp_mapping"):
        monkeypatch.setattr(f"nconnect.nat.{module}.TRY_FOR_S", (0.05, 0.05))


@pytest.mark.parametrize("speaks_pcp", [True, False])
def test_a_port_is_open_until_it_is_cancelled(speaks_pcp: bool) -> None:
    made = datagrams.Router()
    made.started_at = boottime() - 600
    made.speaks_pcp = speaks_pcp

    async def work() -> None:
        watcher = Watcher()
        async with by_datagrams(made) as serving:
            async with running(PortMappings(PORT, watcher, tunnel="nc0")):
                await watcher.told.wait()
                outside = (datagrams.OUTSIDE, PORT)
                assert (watcher.mapped, watcher.problem) == ({"udp": outside, "tcp": outside}, "")
                assert made.mapped == {"udp": PORT, "tcp": PORT}
                serving.gone.clear()
            async with asyncio.timeout(5):
                await serving.gone.wait()

    run(work())


def test_an_ipv6_firewall_is_open_for_each_own_address_while_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loopback = IPv6Address("::1")
    made = datagrams.Router()
    made.started_at, made.outside = boottime() - 600, loopback
    ways = [frozenset((Ipv6Way(loopback, 0, loopback),))]
    with bind_udp("::1", 0) as free:
        monkeypatch.setattr(pcp, "SERVER_PORT", free.getsockname()[1])
    monkeypatch.setattr(port_mapping, "LOOK_S", 0.01)
    monkeypatch.setattr(port_mapping, "default_router", lambda tunnel: None)
    monkeypatch.setattr(port_mapping, "ipv6_ways", lambda tunnel: ways[0])
    monkeypatch.setattr("nconnect.nat.port_mapping.check_outside", lambda address: None)  # of loopback

    async def work() -> None:
        watcher = Watcher()
        async with by_datagrams(made, "::1") as serving, asyncio.timeout(20):
            task = asyncio.create_task(PortMappings(PORT, watcher, tunnel="nc0").run())
            await serving.mapped.wait()
            serving.gone.clear()
            ways[0] = frozenset()  # the address is gone
            await task
            await serving.gone.wait()
            assert made.requests == {"pcp": 4}
        assert (watcher.mapped, watcher.problem) == ({}, NO_ROUTER)  # of IPv4

    run(work())


def test_why_an_ipv6_firewall_stays_shut_is_told_while_the_address_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loopback = IPv6Address("::1")
    ways = [frozenset((Ipv6Way(loopback, 0, loopback),))]
    with bind_udp("::1", 0) as silent:
        monkeypatch.setattr(pcp, "SERVER_PORT", silent.getsockname()[1])
        monkeypatch.setattr(port_mapping, "LOOK_S", 0.01)
        monkeypatch.setattr(port_mapping, "default_router", lambda tunnel: None)
        monkeypatch.setattr(port_mapping, "ipv6_ways", lambda tunnel: ways[0])

        async def work() -> None:
            watcher = Watcher()

            async def told(problem: str) -> None:
                while watcher.problem != problem:
                    watcher.told.clear()
                    await watcher.told.wait()

            async with asyncio.timeout(20):
                task = asyncio.create_task(PortMappings(PORT, watcher, tunnel="nc0").run())
                upnp = "the router does not answer by UPnP"
                await told(f"{NO_ROUTER}; IPv6: the router does not answer PCP; {upnp}")
                ways[0] = frozenset()
                await told(NO_ROUTER)
                await task

        run(work())


def test_upnp_is_tried_where_nothing_else_answers() -> None:
    async def work() -> None:
        made, watcher = calls.Bench(), Watcher()
        made.own = own = str(router.own_address(ROUTER))
        async with by_upnp(made):
            async with running(PortMappings(PORT, watcher, tunnel="nc0")):
                await watcher.told.wait()
                assert set(watcher.mapped) == {"udp", "tcp"}
                assert watcher.mapped["udp"][1] == PORT
                assert set(made.mapped) == {"udp", "tcp"}
                assert own.startswith("127.")
            assert made.mapped == {}
            assert made.calls[-2:] == ["DeletePortMapping"] * 2

    run(work())


def test_a_router_that_maps_nothing_is_one_line() -> None:
    async def work() -> None:
        watcher = Watcher()
        async with running(PortMappings(PORT, watcher, tunnel="nc0")):
            await watcher.told.wait()
        assert watcher.mapped == {}
        assert watcher.problem == (
            "the router answers neither PCP nor NAT-PMP; the router does not answer by UPnP"
        )

    run(work())


def test_without_a_default_route_it_says_so_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        watcher = Watcher()
        await PortMappings(PORT, watcher, tunnel="nc0").run()
        assert watcher.problem == NO_ROUTER

    monkeypatch.setattr(port_mapping, "default_router", lambda tunnel: None)
    run(work())


def test_an_address_that_is_gone_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        watcher = Watcher()
        await PortMappings(PORT, watcher, tunnel="nc0").run()
        assert watcher.problem.startswith("the router cannot be asked for a port: cannot assign")

    nobodys = IPv4Address("192.0.2.77")
    monkeypatch.setattr(port_mapping, "own_address", lambda router: nobodys)
    run(work())
