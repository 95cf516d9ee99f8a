"""Asking a router on a loopback address of the test's own: what it speaks, and that silence ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address

import pytest

from nconnect.io.http.http import Request, Response
from nconnect.io.http.http_server import HttpServer
from nconnect.io.net import router
from nconnect.io.net.listening import bind_tcp, bind_udp
from nconnect.nat.port_mapping import Router
from nconnect.wire import pcp, upnp
from tests.wire.test_upnp import IP1, description, soap

# One that no other run on this machine has.
ROUTER = IPv4Address(0x7F400000 + os.getpid() % 0x3FFFFF)
OUTSIDE = IPv4Address("203.0.113.9")
ADDRESS = (
    f'<u:GetExternalIPAddressResponse xmlns:u="{IP1}"><NewExternalIPAddress>{OUTSIDE}'
    "</NewExternalIPAddress></u:GetExternalIPAddressResponse>"
)


def speaks_pcp(data: bytes) -> bytes | None:
    return struct.pack("!BBHII12x", 2, 128, 0, 0, 600) if data[:2] == b"\x02\0" else None


def speaks_pmp(data: bytes) -> bytes | None:
    if data[0]:
        return struct.pack("!BBHI", 0, 128, 1, 600)
    return struct.pack("!BBHI", 0, 128, 0, 600) + OUTSIDE.packed


def speaks_both(data: bytes) -> bytes | None:
    return speaks_pcp(data) or speaks_pmp(data)


def speaks_nonsense(data: bytes) -> bytes | None:
    return b"\x02\x80nonsense"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence by UPnP is waited for shorter than a real router's."""
    monkeypatch.setattr("nconnect.nat.upnp_mapping.TRY_FOR_S", (0.2, 0.4))


@contextlib.asynccontextmanager
async def datagrams(port: int, answer: Callable[[bytes], bytes | None]) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    with bind_udp(str(ROUTER), port) as sock:

        def readable() -> None:
            data, source = sock.recvfrom(2048)
            if (said := answer(data)) is not None:
                sock.sendto(said, source)

        loop.add_reader(sock, readable)
        try:
            yield
        finally:
            loop.remove_reader(sock)


@contextlib.asynccontextmanager
async def upnp_router(body: str) -> AsyncIterator[list[Request]]:
    """SSDP, a description, and this answer to every call; the requests that came."""
    came: list[Request] = []

    async def answer(ask: Request) -> Response:
        came.append(ask)
        if ask.path == "/ctl":
            return Response(200, soap(body))
        return Response(200, description((IP1, "/ctl")))

    listener = bind_tcp(str(ROUTER), 0)
    port = listener.getsockname()[1]
    server = await HttpServer.listen_on(listener, answer)
    found = f"HTTP/1.1 200 OK\r\nLOCATION: http://{ROUTER}:{port}/desc.xml\r\n\r\n".encode()
    try:
        async with datagrams(upnp.SSDP_PORT, lambda _: found):
            yield came
    finally:
        await server.close()


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (speaks_pcp, Router(ROUTER, ("PCP",))),
        (speaks_pmp, Router(ROUTER, ("NAT-PMP",), OUTSIDE)),
        (speaks_both, Router(ROUTER, ("PCP", "NAT-PMP"), OUTSIDE)),
        (speaks_nonsense, Router(ROUTER)),
        (lambda _: None, Router(ROUTER)),
    ],
)
def test_what_answers_on_port_5351(answer: Callable[[bytes], bytes | None], found: Router) -> None:
    async def run() -> Router:
        async with asyncio.timeout(20), datagrams(pcp.SERVER_PORT, answer):
            return await router.look(ROUTER)

    assert asyncio.run(run()) == found


def test_a_router_without_any_of_them() -> None:
    async def run() -> Router:
        async with asyncio.timeout(20):
            return await router.look(ROUTER)

    assert asyncio.run(run()) == Router(ROUTER)


@pytest.mark.parametrize(
    ("body", "outside"),
    [(ADDRESS, OUTSIDE), ("<s:Fault/>", None), (ADDRESS.replace(str(OUTSIDE), "none"), None)],
)
def test_upnp_is_asked_for_the_address_and_nothing_else(body: str, outside: IPv4Address | None) -> None:
    async def run() -> tuple[Router, list[Request]]:
        async with asyncio.timeout(20), upnp_router(body) as came:
            return await router.look(ROUTER), came

    found, came = asyncio.run(run())
    assert found == Router(ROUTER, ("UPnP",), outside)
    assert [(ask.method, ask.path) for ask in came] == [("GET", "/desc.xml"), ("POST", "/ctl")]
    assert b"GetExternalIPAddress" in came[1].body


@pytest.mark.parametrize("body", ["<root/>", "nonsense", "<u:Other/>"])
def test_nonsense_by_upnp_is_no_service(body: str) -> None:
    async def run() -> Router:
        async with asyncio.timeout(20), upnp_router(body):
            return await router.look(ROUTER)

    assert asyncio.run(run()) == Router(ROUTER)
