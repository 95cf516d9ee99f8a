"""Which STUN servers the doctor asks: those of nodes and of the configuration, and none behind a proxy."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from nconnect.config.proxy import UNPROXIED, Proxies
from nconnect.doctor.facts import NatFact, SeedFact
from nconnect.io.doctor_network import nats
from nconnect.io.nkn.stun_server import StunPorts
from nconnect.model import Proxy
from nconnect.wire.direct import NatVerdict
from tests.doctor.examples import CONFIG


def found(
    *, at_node: bool = False, named: str | None = None, proxies: Proxies = UNPROXIED
) -> tuple[tuple[NatFact, ...], tuple[str, ...], int]:
    """Facts, problems, and how many answers the two ports of 127.0.0.1 gave."""

    async def run() -> tuple[tuple[NatFact, ...], tuple[str, ...], int]:
        ports = StunPorts.bind("127.0.0.1", (0, 0))
        ports.start()
        seeds = (
            SeedFact("http://127.0.0.1:30003", "127.0.0.1:30002", stun_ports=ports.ports if at_node else ()),
            SeedFact("http://127.0.0.1:30003", why="refused"),
        )
        servers = () if named is None else tuple((named, port) for port in ports.ports)
        config = replace(CONFIG, network=replace(CONFIG.network, stun=servers))
        try:
            async with asyncio.timeout(20):
                facts, problems = await nats(config, seeds, proxies)
        finally:
            ports.close()
        return facts, problems, ports.server.answers

    return asyncio.run(run())


def test_a_node_that_tells_its_ports_is_asked() -> None:
    (fact,), problems, answers = found(at_node=True)
    assert (fact.version, fact.verdict.nat, problems, answers) == (4, NatVerdict.EASY, (), 2)
    assert [place.partition(":")[0] for place in fact.asked] == ["127.0.0.1", "127.0.0.1"]


def test_servers_of_the_configuration_are_asked_too() -> None:
    (fact,), problems, answers = found(named="127.0.0.1")
    assert (fact.verdict.nat, problems, answers) == (NatVerdict.EASY, (), 2)


def test_nobody_to_ask_is_no_fact() -> None:
    assert found() == ((), (), 0)


def test_a_name_that_does_not_resolve_is_said() -> None:
    facts, problems, _ = found(named="nowhere.invalid")
    assert facts == ()
    assert len(problems) == 2
    assert problems[0].startswith("the STUN server nowhere.invalid:")
    assert "cannot be asked: " in problems[0]
    assert "\n" not in problems[0]


def test_what_a_proxy_leads_to_is_not_asked_past_it() -> None:
    """Who goes through a proxy may not want others to see this device's address."""
    proxies = Proxies(Proxy("http", "192.0.2.9", 3128), source="a test")
    assert found(named="nowhere.invalid", proxies=proxies) == ((), (), 0)
