"""What a peer offers, as this device may use it."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from nconnect.model import MappedPrefix
from nconnect.offers.name_codec import Names
from nconnect.offers.names import Provider
from nconnect.offers.shown import ShownServer, servers_of
from nconnect.offers.statement import OfferedServer, Statement

REAL, SEEN = ip_network("192.168.1.0/24"), ip_network("10.99.1.0/24")
PROVIDER = Provider("gpu_box", (MappedPrefix(REAL, SEEN),), ())
SAID = Statement(
    servers=(
        OfferedServer("ollama", "http://192.168.1.10:11434", "Ollama", ("a",), ("chat",)),
        OfferedServer("far", "http://192.168.2.10:80"),
    )
)
KNOWN: Names = {
    "ollama.gpu-box.internal": (ip_address("10.99.1.10"),),
    "chat.gpu-box.internal": (ip_address("10.99.1.10"),),
}
FAR = ShownServer("far", "http://192.168.2.10:80", (), (), allowed=False)


def shown(known: Names, *, refused: bool = False) -> list[ShownServer]:
    return list(servers_of(PROVIDER, "gpu-box", SAID, known, refused=refused))


def test_by_name_where_it_resolves_and_not_allowed_where_it_is_not_in_force() -> None:
    url = "http://ollama.gpu-box.internal:11434"
    names = ("ollama.gpu-box.internal", "chat.gpu-box.internal")
    assert shown(KNOWN) == [ShownServer("ollama", url, names, ("a",), allowed=True), FAR]


def test_by_the_address_that_this_device_sees_without_names() -> None:
    assert shown({}) == [ShownServer("ollama", "http://10.99.1.10:11434", (), ("a",), allowed=True), FAR]


def test_nothing_is_allowed_while_the_peer_refuses() -> None:
    assert [each.allowed for each in shown(KNOWN, refused=True)] == [False, False]
