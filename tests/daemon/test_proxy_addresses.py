"""The proxy's addresses are known before the first plan, and a change of them is planned for."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address

import pytest

from nconnect.config.proxy import Proxies
from nconnect.daemon import way_out
from nconnect.daemon.settings import InForce
from nconnect.daemon.way_out import Endpoints, ProxyAddresses
from nconnect.invite.table import PeerTable
from nconnect.io.net.name_servers import AddressInfo
from nconnect.io.nkn.links import LinkCameUp, LinkWentDown
from nconnect.model import Config, Proxy
from nconnect.nkn.outputs import DownReason
from nconnect.wire.jsonrpc import NodeInfo

UP = LinkCameUp(NodeInfo("203.0.113.7:30002", "", "ab" * 32, "cd" * 32))
NAMED = Proxies(Proxy("http", "proxy.example", 3128))


class Names:
    """What stands for the resolver: the addresses of every name, or a failure, or silence."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
        self.addresses = addresses
        self.silent = False
        self.asked: list[str] = []
        self.plans = 0
        self.endpoints = Endpoints(InForce(PeerTable(Config("nc7", bytes(32), "gpu", ()), {})), NAMED)
        monkeypatch.setattr(way_out, "stream_addresses", self.stream_addresses)

    async def stream_addresses(self, host: str, port: int) -> list[AddressInfo]:
        self.asked.append(host)
        if self.silent:
            await asyncio.Event().wait()
        if not self.addresses:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return [(2, 1, 6, "", (address, port)) for address in self.addresses]

    async def plan(self) -> None:
        self.plans += 1


async def settled() -> None:
    this = asyncio.current_task()
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task is not this))


def test_a_name_is_looked_up_and_a_change_is_planned_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        names = Names(monkeypatch, "10.0.0.2", "fd00::1", "10.0.0.1", "10.0.0.2")
        proxy = ProxyAddresses(NAMED, names.endpoints, names.plan)
        await proxy.look_up()
        assert names.endpoints.proxy_addresses == tuple(map(ip_address, ("10.0.0.1", "10.0.0.2", "fd00::1")))
        proxy.link_changed(UP)
        proxy.link_changed(UP)
        await settled()
        assert (names.plans, len(names.asked)) == (0, 2)
        names.addresses = ("10.0.0.9",)
        proxy.link_changed(UP)
        await settled()
        assert (names.plans, names.endpoints.proxy_addresses) == (1, (ip_address("10.0.0.9"),))

    asyncio.run(test())


def test_without_an_answer_the_one_before_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        names = Names(monkeypatch, "10.0.0.1")
        proxy = ProxyAddresses(NAMED, names.endpoints, names.plan)
        await proxy.look_up()
        names.addresses = ()
        await proxy.look_up()
        names.silent = True
        monkeypatch.setattr(way_out, "LOOK_UP_S", 0.01)
        await proxy.look_up()
        assert names.endpoints.proxy_addresses == (ip_address("10.0.0.1"),)

    asyncio.run(test())


@pytest.mark.parametrize(
    "proxies", [Proxies(), Proxies(Proxy("http", "10.0.0.1", 1)), Proxies(Proxy("http", "fd00::1", 1))]
)
def test_nothing_is_asked_where_there_is_no_name(monkeypatch: pytest.MonkeyPatch, proxies: Proxies) -> None:
    async def test() -> None:
        names = Names(monkeypatch, "10.0.0.1")
        proxy = ProxyAddresses(proxies, names.endpoints, names.plan)
        await proxy.look_up()
        proxy.link_changed(UP)
        await settled()
        assert (names.asked, names.endpoints.proxy_addresses) == ([], ())

    asyncio.run(test())


def test_the_end_of_a_link_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        names = Names(monkeypatch, "10.0.0.1")
        proxy = ProxyAddresses(NAMED, names.endpoints, names.plan)
        proxy.link_changed(LinkWentDown("stopped", DownReason.STOPPED, 0))
        await settled()
        assert names.asked == []
        proxy.link_changed(LinkWentDown("no answer", DownReason.UNREACHABLE, 0))
        await settled()
        assert names.asked == ["proxy.example"]

    asyncio.run(test())
