"""IPv4 addresses are translated with the prefix that the network's name server tells."""

from __future__ import annotations

import socket

import pytest

from nconnect.io.net import nat64, resolve
from nconnect.io.net.name_servers import AddressInfo
from tests.loops import run_on_both

NODE: AddressInfo = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 30002))
NODE6: AddressInfo = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::7", 30002, 0, 0))


class Names:
    """Stands for the system's resolver, which knows one name."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked = 0

    def look_up(self, host: str) -> list[AddressInfo]:
        assert host == "ipv4only.arpa"
        self.asked += 1
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [info for address in self.addresses for info in socket.getaddrinfo(address, 0, type=1)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    made = Names("192.0.0.170", "2001:db8:64::c000:aa")
    monkeypatch.setattr(resolve, "_look_up", made.look_up)
    monkeypatch.setattr(nat64, "_has_ipv6", lambda: True)
    return made


def test_ipv4_addresses_are_translated_and_the_prefix_is_kept(names: Names) -> None:
    async def test() -> None:
        names.asked = 0
        for _ in range(3):
            found = await nat64.translated([NODE6, NODE])
            assert [(info[0], info[4]) for info in found] == [
                (socket.AF_INET6, ("2001:db8:64::c000:207", 30002, 0, 0))
            ]
        assert names.asked == 1
        resolve.forget()  # the network has changed
        await nat64.translated([NODE])
        assert names.asked == 2

    run_on_both(test)


def test_a_network_without_nat64(names: Names) -> None:
    async def test() -> None:
        for addresses in ((), ("192.0.0.170",), ("2001:db8::1",), ("64:ff9b::c000:aa",)):
            names.addresses = addresses
            resolve.forget()
            assert await nat64.translated([NODE]) == []  # 192.0.2.7 is not global: no 64:ff9b::

    run_on_both(test)


def test_nobody_is_asked_where_it_cannot_help(monkeypatch: pytest.MonkeyPatch, names: Names) -> None:
    async def test() -> None:
        names.asked = 0
        assert await nat64.translated([NODE6]) == []
        monkeypatch.setattr(nat64, "_has_ipv6", lambda: False)
        assert await nat64.translated([NODE]) == []
        assert not names.asked
        monkeypatch.setattr(nat64, "_has_ipv6", lambda: True)

    run_on_both(test)
