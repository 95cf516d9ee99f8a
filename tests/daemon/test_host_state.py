"""What is set on this machine, in which order, and what a failure leaves: on a host that takes notes only."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from ipaddress import ip_interface, ip_network
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from nconnect.daemon import host_state
from nconnect.daemon.acceptance import Acceptance
from nconnect.daemon.events import Bus, ConfigChanged, PlanInForce
from nconnect.daemon.host_state import HostState
from nconnect.daemon.settings import InForce
from nconnect.errors import HostError
from nconnect.host.facts import HostFacts, LocalInterface
from nconnect.host.offered import peer_id
from nconnect.host.plan import HostPlan
from nconnect.invite.table import PeerTable
from nconnect.io.files.state import StateStore
from nconnect.io.system.host import Host
from nconnect.model import Config, Prefix
from tests.host.examples import FACTS, PROVIDER, USER, peer

BLOCKING = frozenset(
    {
        *("read_facts", "apply", "has_rules", "remove", "missing", "flush_conntrack", "end_refused"),
        *("count_flows", "give_flows", "refused_counts"),
    }
)


class Notes:
    """A `Host` that keeps what it was asked, and refuses when told to.

    What waits for the kernel or for `nft` fails where an event loop would wait for it.
    """

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in BLOCKING:
            return found

        def off_the_loop(*arguments: Any, **options: Any) -> Any:
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()
            return found(*arguments, **options)

        return off_the_loop

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.facts = FACTS
        self.plans: list[HostPlan] = []
        self.gone: list[str] = []
        self.refuses: str | None = None
        self.flushed: list[Prefix] = []
        self.counts = 0
        self.tokens: Mapping[str, int] = {}
        self.rules = False  # of a daemon that was killed
        self.problem = ""

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.refuses == what:
            raise HostError(f"cannot {what}")

    def read_facts(self) -> HostFacts:
        return self.facts

    def apply(self, plan: HostPlan) -> None:
        self._ask("apply")
        self.plans.append(plan)

    def has_rules(self) -> bool:
        return self.rules

    def remove(self, *, keep_rules: bool = False) -> None:
        self._ask("remove all but the rules" if keep_rules else "remove")

    def missing(self, plan: HostPlan) -> list[str]:
        return self.gone

    def is_interface(self, gone: list[str]) -> bool:
        return "interface nc0" in gone

    def flush_conntrack(self, prefixes: Iterable[Prefix]) -> bool:
        self.flushed += prefixes
        return True

    def end_refused(self, config: Config) -> bool:
        self._ask("end_refused")
        return True

    def obstacles(self, *_: object) -> tuple[list[str], tuple[str, ...]]:
        return ["ufw drops"], ("ufw drops TCP",)

    def count_flows(self, config: Config) -> dict[str, int]:
        self._ask("count_flows")
        return {"alice": 4000}

    def give_flows(self, tokens: Mapping[str, int]) -> None:
        self._ask("give_flows")
        self.tokens = tokens

    def refused_counts(self) -> dict[str, dict[str, int]]:
        self.counts += 1
        if self.refuses == "count":
            raise HostError("no table")
        return {"alice": {"refused": self.counts}}


class Store:
    """A `StateStore` in memory."""

    def __init__(self) -> None:
        self.value: Any = None
        self.refuses = False

    def load(self, name: str) -> Any:
        assert name == "routes"
        return self.value

    def save(self, name: str, value: Any) -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        if self.refuses:
            raise HostError("no space left")
        self.value = value


class Case:
    def __init__(self, config: Config, store: Store | None = None) -> None:
        self.host = Notes()
        self.store = store or Store()
        self.configured: list[Config] = []
        self.shut: frozenset[str] = frozenset()
        self.told: list[HostPlan] = []
        bus = Bus()
        bus.subscribe(PlanInForce, lambda event: self.told.append(event.plan))
        bus.subscribe(ConfigChanged, lambda event: self.configured.append(event.config))
        self.in_force = InForce(PeerTable(config, {}))
        self.acceptance = Acceptance(cast(StateStore, self.store))
        self.made = HostState(
            self.in_force,
            cast(Host, self.host),
            bus,
            endpoints=lambda: (),
            shut=lambda: self.shut,
            acceptance=self.acceptance,
        )


def run(config: Config, test: Callable[[Case], Awaitable[None]]) -> None:
    async def inside() -> None:
        await test(Case(config))

    asyncio.run(inside())


def test_what_a_killed_daemon_left_goes_first() -> None:
    async def test(case: Case) -> None:
        assert case.made.plan is None
        await case.made.set_up()
        assert case.host.asked == ["remove", "apply"]
        assert case.made.plan is case.host.plans[0]

    run(USER, test)


def test_a_taken_address_ends_the_start_before_anything_is_set() -> None:
    async def test(case: Case) -> None:
        taken = LocalInterface("eth9", (ip_interface("10.86.0.2/32"),))
        case.host.facts = dataclasses.replace(FACTS, interfaces=(*FACTS.interfaces, taken))
        with pytest.raises(HostError, match="already in use"):
            await case.made.set_up()
        assert case.host.asked == ["remove"]
        assert case.made.plan is None

    run(USER, test)


def test_a_refused_change_leaves_the_old_plan_and_the_old_configuration() -> None:
    async def test(case: Case) -> None:
        await case.made.set_up()
        before = case.made.plan
        case.host.refuses = "apply"
        with pytest.raises(HostError):
            await case.made.change(PeerTable(dataclasses.replace(PROVIDER, peers=()), {}))
        assert case.made.plan is before
        case.host.refuses = None
        await case.made.end_flows(PROVIDER)
        assert case.host.flushed == [], "the peers of the configuration in force are still there"

    run(PROVIDER, test)


JOINED = dataclasses.replace(
    USER,
    address=(),
    peers=(
        dataclasses.replace(
            USER.peers[0],
            allowed_ips=(ip_network("10.86.0.1/32"), ip_network("192.168.50.0/24")),
            local_address=(ip_interface("10.86.0.2/24"),),
        ),
    ),
)
HOME = LocalInterface("wlan0", (ip_interface("192.168.50.7/24"),))


def test_the_tunnel_hears_of_a_configuration_before_the_host_is_set() -> None:
    async def test(case: Case) -> None:
        await case.made.set_up()
        (told,) = case.configured
        assert told.address == (ip_interface("10.86.0.2/24"),)
        assert case.in_force.config is told
        assert case.in_force.file.config is JOINED
        case.host.refuses = "apply"
        with pytest.raises(HostError):
            await case.made.change(PeerTable(dataclasses.replace(JOINED, peers=()), {}))
        assert [len(config.peers) for config in case.configured] == [1, 0, 1]
        assert case.in_force.config is told

    run(JOINED, test)


def test_nothing_is_told_at_the_start_where_the_file_is_in_force_as_it_is() -> None:
    async def test(case: Case) -> None:
        await case.made.set_up()
        assert case.configured == []
        assert case.store.value is None

    run(PROVIDER, test)


def test_a_network_with_a_provider_s_addresses_gets_it_mapped_and_it_stays_so() -> None:
    async def test(case: Case) -> None:
        await case.made.set_up()
        here = case.host.facts
        case.host.facts = dataclasses.replace(here, interfaces=(*here.interfaces, HOME))
        await case.made.follow_network()
        (pair,) = case.in_force.config.peers[0].mapped
        assert case.configured[-1] is case.in_force.config
        assert pair.seen in case.host.plans[-1].state.routes
        assert pair.real not in case.host.plans[-1].state.routes
        case.host.facts = here
        again = Case(JOINED, case.store)  # after a restart, elsewhere
        await again.made.set_up()
        assert again.in_force.config.peers[0].mapped == (pair,)

    run(JOINED, test)


def test_what_a_peer_offers_is_routed_at_once_kept_and_withdrawn() -> None:
    async def test(case: Case) -> None:
        await case.made.set_up()
        peer_address = str(JOINED.peers[0].address)
        fresh = ip_network("172.21.0.0/16")
        await case.made.follow_offers(peer_address, (fresh,))
        assert fresh in case.host.plans[-1].state.routes
        assert ip_network("192.168.50.0/24") not in case.host.plans[-1].state.routes
        count = len(case.host.plans)
        await case.made.follow_offers(peer_address, (fresh,))
        assert len(case.host.plans) == count, "it was said before"
        again = Case(JOINED, case.store)
        await again.made.set_up()
        assert fresh in again.host.plans[-1].state.routes, "before there is a session"
        case.store.refuses = True
        await case.made.follow_offers(peer_address, ())
        assert fresh not in case.host.plans[-1].state.routes, "a full disk stops nothing"

    run(JOINED, test)


def test_an_offer_waits_until_the_thread_that_reads_offers_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(case: Case) -> None:
        await case.made.set_up()
        order: list[str] = []
        began, gate = threading.Event(), threading.Event()
        resolve, offered = case.acceptance.resolve, case.acceptance.offered

        def slowly(*arguments: Any) -> Any:
            began.set()
            gate.wait(10)
            order.append("resolved")
            return resolve(*arguments)

        def noted(*arguments: Any, **options: Any) -> bool:
            order.append("offered")
            return offered(*arguments, **options)

        monkeypatch.setattr(case.acceptance, "resolve", slowly)
        monkeypatch.setattr(case.acceptance, "offered", noted)
        reload = asyncio.create_task(case.made.change(case.in_force.file))
        await asyncio.to_thread(began.wait, 10)
        told = asyncio.create_task(
            case.made.follow_offers(str(JOINED.peers[0].address), (ip_network("172.21.0.0/16"),))
        )
        await asyncio.sleep(0)  # it has its turn
        gate.set()
        await asyncio.gather(reload, told)
        assert order == ["resolved", "offered", "resolved"]
        assert ip_network("172.21.0.0/16") in case.host.plans[-1].state.routes

    run(JOINED, test)


def test_of_a_peer_entered_by_hand_what_it_offered_is_withdrawn_and_nothing_changes_nothing() -> None:
    async def test(case: Case) -> None:
        await case.made.set_up()
        peer_address, fresh = str(USER.peers[0].address), ip_network("172.21.0.0/16")
        count = len(case.host.plans)
        await case.made.follow_offers(peer_address, ())
        assert len(case.host.plans) == count, "each device that connects says that it offers nothing"
        await case.made.follow_offers(peer_address, (fresh,))
        assert fresh in case.host.plans[-1].state.routes
        await case.made.follow_offers(peer_address, ())
        assert case.in_force.config == USER

    run(USER, test)


def test_of_a_peer_whose_offers_are_not_taken_no_change_renews_the_rules() -> None:
    async def test(case: Case) -> None:
        await case.made.set_up()
        guest, count = PROVIDER.peers[0], len(case.host.plans)
        for third in range(5):
            await case.made.follow_offers(str(guest.address), (ip_network(f"172.21.{third}.0/24"),))
        assert [w.prefix for w in case.made.waiting_of(guest.name)] == [ip_network("172.21.4.0/24")]
        assert len(case.host.plans) == count

    run(PROVIDER, test)


@pytest.mark.parametrize(
    "stored",
    [
        [],
        {"peers": []},
        {"peers": {"a": None, "b": {"seen": {"x": "y"}}, "c": {"offered": [3.5]}, "d": {"seen": 7}}},
        {"peers": {"a": {"seen": {"10.0.0.0/24": "10.0.0.0/25"}}}},
    ],
)
def test_a_damaged_record_is_left_out(stored: object) -> None:
    async def test(_: Case) -> None:
        store = Store()
        store.value = stored
        case = Case(JOINED, store)
        await case.made.set_up()
        assert case.in_force.config.peers[0].mapped == ()

    run(JOINED, test)


def test_who_was_removed_loses_his_connections() -> None:
    async def test(case: Case) -> None:
        await case.made.set_up()
        alice, *others = PROVIDER.peers
        await case.made.change(PeerTable(dataclasses.replace(PROVIDER, peers=tuple(others)), {}))
        await case.made.end_flows(PROVIDER)
        assert case.host.flushed == list(alice.allowed_ips)
        assert case.host.asked[-1] == "end_refused"

    run(PROVIDER, test)


def test_a_user_ends_nobodys_connections() -> None:
    async def test(case: Case) -> None:
        await case.made.set_up()
        await case.made.change(PeerTable(dataclasses.replace(USER, peers=()), {}))
        await case.made.end_flows(USER)
        assert "end_refused" not in case.host.asked
        assert case.host.flushed == []

    run(USER, test)


def test_expiry_is_followed_once() -> None:
    async def test(case: Case) -> None:
        await case.made.follow_shut()
        assert case.host.asked == [], "nothing is set up yet"
        await case.made.set_up()
        await case.made.follow_shut()
        assert case.host.asked.count("apply") == 1
        case.shut = frozenset({str(PROVIDER.peers[0].address)})
        await case.made.follow_shut()
        await case.made.follow_shut()
        assert case.host.asked.count("apply") == 2
        assert case.host.flushed == list(PROVIDER.peers[0].allowed_ips)

    run(PROVIDER, test)


def test_a_new_network_is_planned_around_and_no_news_changes_nothing() -> None:
    async def test(case: Case) -> None:
        await case.made.set_up()
        await case.made.follow_network()
        assert case.host.asked.count("apply") == 1
        cafe = LocalInterface("wlan0", (ip_interface("192.168.50.77/24"),))
        case.host.facts = dataclasses.replace(FACTS, interfaces=(*FACTS.interfaces, cafe))
        await case.made.follow_network()
        assert case.made.plan is not None
        assert [str(skipped.route) for skipped in case.made.plan.skipped_routes] == ["192.168.50.0/24"]
        assert case.told[-1] is case.made.plan

    run(USER, test)


def test_a_network_over_a_closed_prefix_is_a_problem() -> None:
    async def test(case: Case) -> None:
        await case.made.set_up()
        assert case.made.problems == []
        cafe = LocalInterface("wlan0", (ip_interface("192.168.50.77/24"),))
        case.host.facts = dataclasses.replace(FACTS, interfaces=(*FACTS.interfaces, cafe))
        await case.made.follow_network()
        (problem,) = case.made.problems
        assert problem.startswith("192.168.50.0/24 is shut off on every interface (fail_closed)")
        assert "equals the network of wlan0" in problem

    run(dataclasses.replace(USER, fail_closed=True), test)


def test_a_host_route_that_went_with_its_interface_is_set_again() -> None:
    """The interface was down and up again before we looked: the plan is the same, the kernel is not."""

    async def test(case: Case) -> None:
        await case.made.set_up()
        assert case.made.plan is not None
        assert case.made.plan.state.bypasses
        await case.made.follow_network()
        assert case.host.asked.count("apply") == 1
        case.host.gone = ["route 203.0.113.7 via 192.168.1.1 through eth0"]
        await case.made.follow_network()
        assert case.host.asked.count("apply") == 2

    routed = peer("provider", 9, "203.0.113.0/24")
    run(dataclasses.replace(USER, peers=(routed,)), test)


def test_what_is_gone_is_set_again_and_a_device_is_renewed_first() -> None:
    async def test(case: Case) -> None:
        renewed: list[int] = []

        async def renew() -> None:
            renewed.append(len(case.host.plans))

        assert await case.made.repair(renew) == []
        await case.made.set_up()
        assert await case.made.repair(renew) == []
        case.host.gone = ["route 192.168.50.0/24 through nc0"]
        assert await case.made.repair(renew) == case.host.gone
        assert (len(case.host.plans), renewed) == (2, [])
        case.host.gone = ["interface nc0"]
        await case.made.repair(renew)
        assert (len(case.host.plans), renewed) == (3, [2])

    run(USER, test)


def test_after_the_end_nothing_is_set_again() -> None:
    async def test(case: Case) -> None:
        await case.made.set_up()
        await case.made.remove(asked=False)
        case.host.gone = ["interface nc0"]
        assert await case.made.repair(AsyncMock(side_effect=AssertionError("a device was made"))) == []
        case.host.facts = HostFacts()
        await case.made.follow_network()
        assert case.host.asked == ["remove", "apply", "remove"]

    run(USER, test)


@pytest.mark.parametrize("asked", [True, False])
def test_only_an_end_that_was_asked_for_opens_what_is_shut(asked: bool) -> None:
    async def test(case: Case) -> None:
        await case.made.set_up()
        case.made.was_up()
        await case.made.remove(asked=asked)
        assert case.host.asked == ["remove", "apply", "remove" if asked else "remove all but the rules"]

    run(dataclasses.replace(USER, fail_closed=True), test)


@pytest.mark.parametrize("killed", [True, False])
def test_a_start_that_fails_leaves_shut_what_was_shut_and_nothing_else(killed: bool) -> None:
    async def test(case: Case) -> None:
        case.host.rules, case.host.refuses = killed, "apply"
        with pytest.raises(HostError):
            await case.made.set_up()
        await case.made.remove(asked=False)
        removal = "remove all but the rules" if killed else "remove"
        assert case.host.asked == [removal, "apply", removal]

    run(dataclasses.replace(USER, fail_closed=True), test)


def test_a_peer_gets_what_is_left_of_its_bound_when_it_may_have_used_it() -> None:
    async def test(case: Case) -> None:
        await case.made.renew_flow_limits({"alice": 9})
        assert "count_flows" not in case.host.asked, "nothing is in force"
        await case.made.set_up()
        await case.made.renew_flow_limits({"alice": 9})
        assert case.host.tokens == {peer_id(PROVIDER.peers[0]): 96}
        case.host.asked.clear()
        await case.made.renew_flow_limits({"alice": 9 + 40})
        assert case.host.asked == []
        await case.made.change(PeerTable(PROVIDER, {}))
        await case.made.renew_flow_limits({"alice": 9 + 40})
        assert case.host.asked[-2:] == ["count_flows", "give_flows"], "the rules may be new"

    run(PROVIDER, test)


def test_a_count_that_fails_is_made_again() -> None:
    async def test(case: Case) -> None:
        await case.made.set_up()
        case.host.refuses = "count_flows"
        await case.made.renew_flow_limits({"alice": 9})
        case.host.refuses = None
        await case.made.renew_flow_limits({"alice": 9})
        assert case.host.asked[-1] == "give_flows"

    run(PROVIDER, test)


def test_a_user_s_peers_open_nothing_to_count() -> None:
    async def test(case: Case) -> None:
        await case.made.set_up()
        await case.made.renew_flow_limits({"provider": 1 << 30})
        assert "count_flows" not in case.host.asked

    run(USER, test)


def test_status_does_not_hold_up_the_loop_while_nft_runs() -> None:
    async def test(case: Case) -> None:
        went_on, answered = threading.Event(), threading.Event()

        def slow() -> dict[str, dict[str, int]]:
            if went_on.wait(5):
                answered.set()
            return {}

        case.host.refused_counts = slow  # type: ignore[method-assign]
        asking = asyncio.create_task(case.made.refused_counts(100.0))
        await asyncio.sleep(0)
        went_on.set()
        await asking
        assert answered.is_set()

    run(PROVIDER, test)


def test_the_firewall_is_asked_now_and_then() -> None:
    async def test(case: Case) -> None:
        assert await case.made.refused_counts(100.0) == {"alice": {"refused": 1}}
        assert await case.made.refused_counts(100.0 + host_state.REFUSED_INTERVAL_S / 2) == {
            "alice": {"refused": 1}
        }
        assert await case.made.refused_counts(100.0 + host_state.REFUSED_INTERVAL_S) == {
            "alice": {"refused": 2}
        }
        case.host.refuses = "count"
        assert await case.made.refused_counts(200.0) == {"alice": {"refused": 2}}, "the last that is known"

    run(PROVIDER, test)
    run(USER, test)


def test_a_route_of_ours_that_is_gone_is_no_other_program_s_doing() -> None:
    async def test(case: Case) -> None:
        await case.made.set_up()
        assert await case.made.obstacles() == ["ufw drops"]
        assert case.made.stops_direct == ("ufw drops TCP",)
        case.host.gone = ["route 10.86.0.1/32"]
        assert await case.made.obstacles() == []

    run(USER, test)
