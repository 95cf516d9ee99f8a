"""What two daemons tell each other: offers, and sources that are refused; and how often."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_interface, ip_network
from typing import Any, cast

import pytest

from nconnect.config.file import parse_config
from nconnect.daemon.announcing import Announcing
from nconnect.daemon.events import Bus, PeerStated
from nconnect.daemon.settings import InForce
from nconnect.invite.table import PeerTable
from nconnect.model import Config, PeerConfig, Prefix
from nconnect.offers.statement import OfferedServer, Statement
from nconnect.offers.told import LiveServer
from nconnect.tunnel.outputs import SessionLost, Stated
from tests.sim.network import Host, ip, packet
from tests.tunnel.hostile import connected


class Side:
    """A tunnel of the simulation with its announcements; messages move when `settle` is called."""

    def __init__(self, host: Host, config: Config) -> None:
        self.host = host
        peers = tuple(peer.config for peer in host.tunnel.peers.values())
        self.in_force = InForce(PeerTable(replace(config, peers=peers), {}))
        self.live: dict[str, LiveServer] = {}
        self.told: list[Statement] = []
        self.followed: list[tuple[Prefix, ...]] = []
        self.limits: dict[str, Any] = {}
        bus = Bus()
        bus.subscribe(PeerStated, lambda event: self.told.append(event.statement))
        self.parts = Announcing(
            self.in_force,
            host.tunnel,
            cast(Any, host),
            bus,
            live=lambda: self.live,
            follow_offers=self.follow,
            limits=lambda peer: self.limits,
            clock=lambda: host.sim.now,
        )

    async def follow(self, peer: str, subnets: Iterable[Prefix]) -> None:
        self.followed.append(tuple(subnets))

    def settle(self) -> None:
        """Let the network work for a moment, and hand on what arrived."""
        self.host.sim.run(0.2)
        for event in self.host.events:
            if isinstance(event, Stated):
                self.parts.stated(event)
        self.host.events.clear()


def config(text: str) -> Config:
    return parse_config(f'[interface]\nseed = "{"11" * 32}"\n{text}', interface="nc0")


def sides() -> tuple[Side, Side]:
    """A user, and a provider of a subnet and of one server."""
    _, user, provider = connected()
    return Side(user, config('address = ["10.86.0.2/24"]')), Side(
        provider,
        config(
            'address = ["10.86.0.1/24"]\n[provide]\nsubnets = ["192.168.50.0/24"]\n'
            '[[provide.server]]\nname = "ollama"\nurl = "http://127.0.0.1:11434"\n'
        ),
    )


async def work(*sides: Side) -> None:
    """All that there is to do on both sides, and the network in between."""
    for _ in range(3):
        for side in sides:
            await side.parts.step()
        for side in sides:
            side.settle()


def test_a_server_is_told_when_it_answers_and_withdrawn_when_it_is_gone() -> None:
    user, provider = sides()

    async def test() -> None:
        await work(user, provider)
        assert user.told[-1].servers == ()
        assert user.followed[-1] == (ip_network("192.168.50.0/24"),)
        provider.live = {"ollama": LiveServer("Ollama", ("llama3.2:3b",))}
        provider.parts.changed()
        await work(user, provider)
        ollama = OfferedServer("ollama", "http://10.86.0.1:11434", "Ollama", ("llama3.2:3b",))
        assert user.told[-1].servers == (ollama,)
        provider.live = {}
        provider.parts.changed()
        await work(user, provider)
        assert user.told[-1].servers == ()

    asyncio.run(test())


def test_what_did_not_change_is_not_told_again() -> None:
    user, provider = sides()

    async def test() -> None:
        await work(user, provider)
        sent = len(user.host.sim.sent)
        provider.parts.changed()
        await work(user, provider)
        assert len(user.host.sim.sent) == sent

    asyncio.run(test())


def test_limits_are_told() -> None:
    user, provider = sides()
    provider.limits = {"paused": "back at 22:00"}
    asyncio.run(work(user, provider))
    assert user.told[-1].paused == "back at 22:00"
    assert user.parts.statement_of(str(provider.host.address)).paused == "back at 22:00"


def test_a_refused_source_is_told_to_its_sender_and_both_say_so() -> None:
    user, provider = sides()

    async def test() -> None:
        await work(user, provider)
        assert not [*user.parts.problems(), *provider.parts.problems()]
        for source in ("10.86.0.9", "169.254.1.1"):  # the second is the kernel's own
            user.host.send_packet(packet(source, "192.168.50.10"), ip("192.168.50.10"))
        user.host.sim.run(0.1)
        await work(user, provider)
        (here,) = user.parts.problems()
        (there,) = provider.parts.problems()
        assert here.startswith("gpu refuses packets from 10.86.0.9: they must come from 10.86.0.2/32.")
        assert there.startswith(
            "laptop sends packets from 10.86.0.9, which are refused: they must come from 10.86.0.2/32"
        )
        user.host.sim.run(100.0)
        await work(user, provider)
        assert not [*user.parts.problems(), *provider.parts.problems()]

    asyncio.run(test())


def test_a_refused_source_that_is_allowed_since_is_not_told_any_more() -> None:
    user, provider = sides()

    async def test() -> None:
        await work(user, provider)
        user.host.send_packet(packet("10.86.0.9", "192.168.50.10"), ip("192.168.50.10"))
        user.host.sim.run(0.1)
        await work(user, provider)
        assert list(provider.parts.problems())
        (peer,) = provider.host.tunnel.peers.values()
        wider = replace(peer.config, allowed_ips=(ip_network("10.86.0.8/30"), *peer.config.allowed_ips))
        provider.host.tunnel.set_peers([wider], provider.host.sim.now)
        provider.parts.changed()
        await work(user, provider)
        assert not [*user.parts.problems(), *provider.parts.problems()]

    asyncio.run(test())


def test_a_refused_source_is_forgotten_with_the_session() -> None:
    user, provider = sides()

    async def test() -> None:
        await work(user, provider)
        user.host.send_packet(packet("10.86.0.9", "192.168.50.10"), ip("192.168.50.10"))
        user.host.sim.run(0.1)
        await work(user, provider)
        assert list(provider.parts.problems())
        user.host.send_packet(packet("10.86.0.8", "192.168.50.10"), ip("192.168.50.10"))
        user.host.sim.run(0.1)  # not looked at yet
        (peer,) = provider.host.tunnel.peers.values()
        provider.parts.session_lost(SessionLost(peer, "laptop was shut down"))
        await work(user, provider)
        assert not [*user.parts.problems(), *provider.parts.problems()]

    asyncio.run(test())


def test_who_joined_is_told_where_its_address_in_that_network_is_written() -> None:
    user, provider = sides()

    async def test() -> None:
        await work(user, provider)
        (peer,) = user.host.tunnel.peers.values()
        joined = replace(peer.config, local_address=(ip_interface("10.86.0.9/24"),))
        user.host.tunnel.set_peers([joined], user.host.sim.now)
        user.host.send_packet(packet("10.86.0.9", "192.168.50.10"), ip("192.168.50.10"))
        user.host.sim.run(0.1)
        await work(user, provider)
        (here,) = user.parts.problems()
        assert "Correct local_address of [[peer]] gpu here" in here

    asyncio.run(test())


def test_what_is_malformed_is_logged_once_and_the_rest_is_used(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    user, provider = sides()

    async def test() -> None:
        await work(user, provider)
        peer = user.host.peer(provider.host)
        for number in range(3):
            said = b'{"subnets": ["x", "10.%d.0.0/24"], "servers": [{"name": "localhost"}]}' % number
            user.parts.stated(Stated(peer, said))
            await work(user, provider)
        assert user.told[-1].subnets == (ip_network("10.2.0.0/24"),)
        assert [record.getMessage() for record in caplog.records] == [
            "gpu offers 2 things that are malformed: they are not used"
        ]

    asyncio.run(test())


def test_a_peer_that_is_removed_is_forgotten() -> None:
    user, provider = sides()

    async def test() -> None:
        await work(user, provider)
        nobody: tuple[PeerConfig, ...] = ()
        user.host.tunnel.set_peers(nobody, user.host.sim.now)
        await work(user, provider)
        assert user.parts.statements == {}

    asyncio.run(test())
