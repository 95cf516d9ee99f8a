"""`expose` offers a model that listens on loopback at the provider's tunnel address, and nowhere else.

user 10.86.0.2 ─────┐
                    internet (node) ── provider 10.86.0.1 (model at 127.0.0.1:11434) ── server 192.168.50.10
second 10.86.0.3 ───┘

The user may reach the model; the second peer may reach other things only.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.netns import Namespace
from lab.process import until
from lab.traffic import connect, pings, reaches, serve_model
from lab.world import LAN_INTERFACE, PROVIDER_LAN, PROVIDER_TUNNEL, SERVER, USER_PEER, World, world
from netns_tests.live import SECOND_PEER, second_peer
from netns_tests.model import chats_as, needs_model

PORT = 11434  # Ollama's
PROVIDER_WAN = "203.0.113.2"
RIGHTS = f"{PROVIDER_TUNNEL}:{PORT}/tcp"

pytestmark = needs_model


@pytest.fixture(scope="module")
def exposed() -> Iterator[tuple[World, Namespace]]:
    with world("ncexpose") as made:
        made.configure()
        config = made.provider_side.config
        text = config.read_text()
        config.write_text(text.replace("[provide]\n", f'[provide]\nexpose = ["127.0.0.1:{PORT}"]\n', 1))
        provider = made.provider_side
        provider.nconnect("peer", "set", USER_PEER, "--allow", RIGHTS)
        made.node.start()
        made.up()
        with second_peer(made) as second:
            provider.nconnect("peer", "set", SECOND_PEER, "--allow", f"{SERVER}/icmp")
            serve_model(made.provider, made, "127.0.0.1", PORT)
            yield made, second.namespace


def test_the_allowed_peer_chats_with_it(exposed: tuple[World, Namespace]) -> None:
    """On the same port, and with the same answer as on the provider itself."""
    made, _ = exposed
    chats_as(made.provider, "127.0.0.1", made.user, PROVIDER_TUNNEL, PORT)


def test_another_peer_is_refused_at_once_and_counted(exposed: tuple[World, Namespace]) -> None:
    made, second = exposed
    assert pings(second, SERVER), "it has its own rights"
    before = _refused(made)
    with pytest.raises(ConnectionRefusedError):
        connect(second, PROVIDER_TUNNEL, PORT)
    until(lambda: _refused(made) > before, "the refusal to be counted")
    assert not made.provider_side.peer(0)["drops"].get("refused"), "under the other peer's name alone"


@pytest.mark.parametrize("host", [PROVIDER_LAN, SERVER, PROVIDER_WAN])
def test_the_model_is_at_no_other_address_of_the_tunnel(exposed: tuple[World, Namespace], host: str) -> None:
    made, _ = exposed
    made.user.ip(f"route replace {host}/32 dev nc0")
    try:
        assert not reaches(made.user, host, PORT)
    finally:
        made.user.ip(f"route del {host}/32 dev nc0")


def test_the_model_is_not_reached_from_the_providers_networks(exposed: tuple[World, Namespace]) -> None:
    """Not on the provider's LAN address, and not on its tunnel address by a route through the provider."""
    made, _ = exposed
    for neighbour, gateway in ((made.server, PROVIDER_LAN), (made.internet, PROVIDER_WAN)):
        assert pings(neighbour, gateway), "the provider itself must be in reach"
        neighbour.ip(f"route add {PROVIDER_TUNNEL}/32 via {gateway}")
        for host in (gateway, PROVIDER_TUNNEL):
            assert not reaches(neighbour, host, PORT), f"{neighbour.name} reached {host}"


def test_the_lan_does_not_reach_loopback_addresses(exposed: tuple[World, Namespace]) -> None:
    """A neighbour sends packets for 127.0.0.1 to the provider: they are accepted from the tunnel only."""
    made, _ = exposed
    lan = made.server
    lan.sysctl("net.ipv4.conf.all.route_localnet", "1")
    for prefix in ("127.0.0.0/8", "127.0.0.1/32"):
        lan.ip(f"route del local {prefix} dev lo table local")
    lan.ip(f"route add 127.0.0.1/32 via {PROVIDER_LAN}")
    before = made.provider.counters(LAN_INTERFACE)["rx_packets"]
    assert not reaches(lan, "127.0.0.1", PORT)
    assert made.provider.counters(LAN_INTERFACE)["rx_packets"] > before, "the packets must have come"


def test_the_provider_itself_reaches_it_on_loopback_only(exposed: tuple[World, Namespace]) -> None:
    made, _ = exposed
    connect(made.provider, "127.0.0.1", PORT).close()
    for host in (PROVIDER_TUNNEL, PROVIDER_LAN, PROVIDER_WAN):
        with pytest.raises(ConnectionRefusedError):
            connect(made.provider, host, PORT)


def test_a_revoked_right_ends_the_running_flow(exposed: tuple[World, Namespace]) -> None:
    made, _ = exposed
    connect(made.user, PROVIDER_TUNNEL, PORT).close()
    made.provider_side.nconnect("peer", "set", USER_PEER, "--allow", f"{SERVER}/icmp")
    try:
        with pytest.raises(ConnectionRefusedError):
            connect(made.user, PROVIDER_TUNNEL, PORT)
    finally:
        made.provider_side.nconnect("peer", "set", USER_PEER, "--allow", RIGHTS)
    connect(made.user, PROVIDER_TUNNEL, PORT).close()


def _refused(made: World) -> int:
    (second,) = (peer for peer in made.provider_side.status()["peers"] if peer["name"] == SECOND_PEER)
    return int(second["drops"].get("refused", 0))
