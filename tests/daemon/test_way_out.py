"""Which addresses the daemon connects to, where peers' prefixes hold them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from nconnect.config.proxy import UNPROXIED, Proxies
from nconnect.daemon.events import PlanInForce
from nconnect.daemon.settings import InForce
from nconnect.daemon.way_out import MAX_ENDPOINTS, SAID_FOR_S, Endpoints, WayOut
from nconnect.host.facts import HostFacts, LocalInterface
from nconnect.host.plan import plan
from nconnect.invite.table import PeerTable
from nconnect.model import Address, Config, NetworkConfig, NodeConfig, Proxy
from tests.host.examples import FACTS, USER

INSIDE = ip_address("192.168.50.10")
OUTSIDE = ip_address("198.51.100.9")
EVERYTHING = ip_network("0.0.0.0/0")
CLOSED = replace(USER, fail_closed=True)


class Case:
    def __init__(self, config: Config, proxies: Proxies = UNPROXIED, found: tuple[Address, ...] = ()) -> None:
        self.config = config
        in_force = InForce(PeerTable(config, {}))
        self.endpoints = Endpoints(in_force, proxies)
        self.endpoints.proxy_addresses = found
        self.plans = 0
        self.now = 1000.0
        self.made = WayOut(
            in_force,
            proxies,
            self.endpoints,
            plan_again=self._plan,
            clock=lambda: self.now,
        )

    async def _plan(self) -> None:
        self.plans += 1

    def planned(self, facts: HostFacts = FACTS) -> Case:
        self.made.plan_in_force(PlanInForce(plan(self.config, facts)))
        return self

    def admit(self, address: Address, port: int = 30002) -> str:
        return asyncio.run(self.made.admit(address, port))


@pytest.mark.parametrize("address", ["192.168.50.10", "fd50::9", "10.86.0.77"])
def test_an_address_in_a_routed_prefix_is_refused_and_named(address: str) -> None:
    case = Case(USER).planned()
    assert f"{address} lies in" in case.admit(ip_address(address))
    (problem,) = case.made.problems()
    assert "30002 was refused" in problem
    case.now += SAID_FOR_S + 1
    assert case.made.problems() == []
    assert case.admit(OUTSIDE) == ""
    assert case.plans == 0


def test_before_the_first_plan_an_address_in_a_prefix_waits() -> None:
    async def test() -> None:
        case = Case(USER)
        assert await case.made.admit(OUTSIDE, 30002) == ""
        waiting = asyncio.create_task(case.made.admit(INSIDE, 30002))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        case.planned()
        assert await waiting

    asyncio.run(test())


def test_at_home_in_that_network_a_node_there_is_used_unless_it_is_closed() -> None:
    home = LocalInterface("lan0", (ip_interface("192.168.50.77/24"),))
    facts = replace(FACTS, interfaces=(*FACTS.interfaces, home))
    assert Case(USER).planned(facts).admit(INSIDE) == ""
    assert Case(CLOSED).planned(facts).admit(INSIDE)


def test_a_node_in_a_network_of_ours_inside_a_routed_prefix() -> None:
    """192.168.1.0/24 is eth0's, and goes nowhere else; closed, it is shut off as a whole."""
    wide = replace(USER, peers=(replace(USER.peers[0], allowed_ips=(ip_network("192.168.0.0/16"),)),))
    assert Case(wide).planned().admit(ip_address("192.168.1.9")) == ""
    assert Case(wide).planned().admit(ip_address("192.168.2.9"))
    assert Case(replace(wide, fail_closed=True)).planned().admit(ip_address("192.168.1.9"))


def seeds(config: Config, *urls: str) -> Config:
    return replace(config, network=NetworkConfig(seed_rpc=urls))


def test_what_the_configuration_names_is_admitted_once_the_rules_let_it() -> None:
    case = Case(seeds(CLOSED, "http://192.168.50.10:30003", "http://198.51.100.9:30003")).planned()
    assert case.admit(INSIDE, 30002) == ""
    assert case.plans == 1
    assert case.endpoints.all() == ((INSIDE, 30002),)
    case.admit(INSIDE, 30002)
    assert case.plans == 1, "it is in force"
    assert case.admit(OUTSIDE, 30002) == ""
    assert case.plans == 1, "it is open anyway"
    assert (OUTSIDE, 30002) in case.endpoints.all(), "and stays so when a peer is given its network"
    assert case.admit(ip_address("192.168.50.11")), "its neighbour is not named"
    for port in range(100):
        case.admit(INSIDE, port)
    assert len(case.endpoints.all()) == MAX_ENDPOINTS


def test_without_fail_closed_nothing_needs_to_be_opened() -> None:
    case = Case(seeds(USER, "http://192.168.50.10:30003")).planned()
    assert case.admit(INSIDE) == ""
    assert case.plans == 0


def test_our_own_node_is_named_too() -> None:
    node = NodeConfig("0.0.0.0", advertise="192.168.50.10")
    assert Case(replace(CLOSED, node=node)).planned().admit(INSIDE) == ""


def test_loopback_is_always_admitted() -> None:
    everything = replace(CLOSED, peers=(replace(CLOSED.peers[0], allowed_ips=(EVERYTHING,)),))
    case = Case(everything).planned()
    assert case.admit(OUTSIDE)
    assert case.admit(ip_address("127.0.0.1")) == ""


def test_a_proxy_by_name_is_believed_unless_what_leaves_is_closed() -> None:
    """Its address is a name server's word."""
    proxies = Proxies(Proxy("http", "proxy.example", 3128))
    open_one = Case(USER, proxies, (INSIDE,)).planned()
    assert open_one.endpoints.all() == ((INSIDE, 3128),)
    assert open_one.admit(INSIDE, 3128) == ""
    closed = Case(CLOSED, proxies, (INSIDE,)).planned()
    assert closed.endpoints.all() == ()
    assert closed.admit(INSIDE, 3128)
    literal = Case(CLOSED, Proxies(Proxy("http", "192.168.50.10", 3128))).planned()
    assert literal.admit(INSIDE, 3128) == ""
