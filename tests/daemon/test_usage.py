"""What peers used, with real cores and a real store, in virtual time."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nconnect.control.schema import PausedStatus, UsageStatus, UsedBytes
from nconnect.daemon import usage as module
from nconnect.daemon.limits import PeerLimits
from nconnect.daemon.usage import IDLE_AFTER_S, MAX_LOOK_S, Usage
from nconnect.errors import HostError
from nconnect.io.files.usage_store import DAY_S, HOUR_S, KnownPeer, UsageStore, Used, UsedIn
from nconnect.model import Quota
from nconnect.offers.statement import Rate, Statement
from nconnect.tunnel.peer import Peer
from tests.sim.network import Host, Simulation
from tests.tunnel.hostile import connected

DAY = 1_790_000_000 // DAY_S * DAY_S  # 2026-09-21


class Case:
    """A provider's peer, and a wall clock that can be set."""

    def __init__(self, folder: Path) -> None:
        self.sim, self.user, self.provider = connected()
        self.peer: Peer = self.provider.peer(self.user)
        self.wall = DAY + 10.0
        self.flows: dict[str, int] = {}
        self.awaited = asyncio.Event()
        self.spent = 0
        self.store = UsageStore(folder)
        self.usage = self.made()
        self.told = Statement()
        self.limits = PeerLimits(
            self.provider.tunnel.peers.values, self.usage, lambda dest: self.told if dest else Statement()
        )

    def made(self) -> Usage:
        async def flows() -> dict[str, int]:
            return self.flows

        return Usage(
            self.store,
            self.provider.tunnel.peers.values,
            wall=lambda: self.wall,
            clock=lambda: self.sim.now,
            flows=flows,
            on_spent=self.note,
            await_traffic=lambda: self.awaited.set(),
        )

    def note(self) -> None:
        self.spent += 1

    def uses(self, rx: int, tx: int, seconds: float = 0.5) -> None:
        self.peer.traffic.rx_bytes += rx
        self.peer.traffic.tx_bytes += tx
        self.sim.now += seconds
        self.wall += seconds
        self.usage.look()

    def quota(self, quota: Quota | None) -> None:
        config = dataclasses.replace(self.peer.config, quota=quota)
        self.provider.tunnel.set_peers([config], self.sim.now)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path)
    made.usage.look()  # what the session's first packets were
    made.usage._fresh.clear()
    made.usage._sums.clear()
    yield made
    made.store.close()


def test_what_is_used_is_stored_in_its_hour(case: Case) -> None:
    case.uses(100, 200)
    case.wall = DAY + HOUR_S + 1.0
    case.uses(10, 20, 1.0)
    case.flows = {"laptop": 3}
    asyncio.run(case.usage.save())
    dest = case.peer.dest
    first, second = case.store.hours(DAY)
    assert first == UsedIn(dest, DAY, Used(100, 200, 0, 0.5))
    assert second == UsedIn(dest, DAY + HOUR_S, Used(10, 20, 3, 1.0))
    assert case.store.days(DAY) == [UsedIn(dest, DAY, Used(110, 220, 3, 1.5))]
    ((known),) = case.store.peers()
    assert (known.peer, known.name) == (dest, "laptop")
    assert known.seen_at is not None
    asyncio.run(case.usage.save())
    assert case.store.days(DAY) == [UsedIn(dest, DAY, Used(110, 220, 3, 1.5))]  # nothing twice


def test_flows_go_on_when_the_rules_were_made_anew(case: Case) -> None:
    for count in (3, 5, 2):  # 2: the counters began again
        case.flows = {"laptop": count}
        case.sim.now += 20.0
        asyncio.run(case.usage.save())
    (day,) = case.store.days(DAY)
    assert day.used.flows == 3 + 2 + 2


def test_time_asleep_is_no_connected_time(case: Case) -> None:
    case.uses(0, 0, 3600.0)
    asyncio.run(case.usage.save())
    (day,) = case.store.days(DAY)
    assert day.used.connected_s == MAX_LOOK_S


def test_time_is_connected_time_from_when_a_session_begins_until_it_ends(case: Case) -> None:
    case.uses(0, 0, 2.0)
    case.user.tunnel.close(case.sim.now)
    case.user.drain()
    case.sim.run(1.0)
    case.usage.look()  # as `SessionLost` has it done
    case.uses(0, 0, 30.0)
    asyncio.run(case.usage.save())
    (day,) = case.store.days(DAY)
    assert day.used.connected_s == pytest.approx(3.0)


@asynccontextmanager
async def running(case: Case, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Event]:
    """Its task runs; the event is set when received bytes have been stored."""
    stored, loop, add = asyncio.Event(), asyncio.get_running_loop(), case.store.add

    def noted(rows: list[UsedIn], seen: list[KnownPeer]) -> None:
        add(rows, seen)
        if any(row.used.rx_bytes for row in rows):
            loop.call_soon_threadsafe(stored.set)

    monkeypatch.setattr(module, "LOOK_S", 0.001)
    monkeypatch.setattr(case.store, "add", noted)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        task = group.create_task(case.usage.run())
        await asyncio.sleep(0)
        yield stored
        task.cancel()


def test_an_idle_daemon_looks_again_at_the_first_packet(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, look = 0, case.usage.look

    def counted() -> None:
        nonlocal looks
        looks += 1
        look()

    monkeypatch.setattr(case.usage, "look", counted)

    async def run() -> None:
        async with running(case, monkeypatch) as stored:
            await asyncio.sleep(0.05)
            assert looks > 1, "the control: at first it looks again and again"
            assert not case.awaited.is_set()
            case.sim.now += IDLE_AFTER_S
            await case.awaited.wait()
            await asyncio.sleep(0)
            before = looks
            await asyncio.sleep(0.05)
            assert looks == before
            case.peer.traffic.rx_bytes += 1000
            case.usage.traffic_began()
            await stored.wait()

    asyncio.run(run())
    (day,) = case.store.days(DAY)
    assert day.used.rx_bytes == 1000


def test_what_came_before_traffic_is_awaited_is_not_overlooked(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = case.peer.traffic.rx_bytes

    def comes() -> None:  # between the last look and `await_traffic`
        case.peer.traffic.rx_bytes = before + 1000

    monkeypatch.setattr(case.usage, "_await_traffic", comes)

    async def run() -> None:
        async with running(case, monkeypatch) as stored:
            case.sim.now += IDLE_AFTER_S
            await stored.wait()

    asyncio.run(run())
    (day,) = case.store.days(DAY)
    assert day.used.rx_bytes == 1000


def test_what_could_not_be_stored_is_stored_later(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.uses(100, 200)

    def refuses(*_: object) -> None:
        raise HostError("no room")

    with monkeypatch.context() as context:
        context.setattr(case.store, "add", refuses)
        assert not asyncio.run(case.usage.save())
    case.uses(1, 2)
    assert asyncio.run(case.usage.save())
    (day,) = case.store.days(DAY)
    assert (day.used.rx_bytes, day.used.tx_bytes) == (101, 202)


def test_days_and_months_are_those_of_the_calendar(case: Case) -> None:
    case.uses(1, 1)
    case.wall = DAY + DAY_S
    case.uses(10, 10)
    assert case.usage.status(case.peer) == UsageStatus(UsedBytes(10, 10), UsedBytes(11, 11))
    case.wall = DAY + 12 * DAY_S  # October
    case.uses(100, 100)
    assert case.usage.status(case.peer) == UsageStatus(UsedBytes(100, 100), UsedBytes(100, 100))
    asyncio.run(case.usage.save())
    assert case.made().status(case.peer) == UsageStatus(UsedBytes(100, 100), UsedBytes(100, 100))


def test_a_quota_shuts_a_peer_until_its_period_ends(case: Case) -> None:
    limits = case.limits
    case.quota(Quota(1_000_000, "day"))
    case.uses(400_000, 599_999)
    assert (limits.shut(), case.spent) == (frozenset(), 0)
    case.uses(0, 1)
    assert (limits.shut(), case.spent) == ({case.peer.dest}, 1)
    why = "the quota of 1M/day is used up until 2026-09-22 00:00 UTC"
    assert limits.paused(case.peer) == PausedStatus(why, "quota")
    assert limits.terms(case.peer.config) == {"paused": why, "rate": None}
    case.uses(5, 5)
    assert case.spent == 1
    # A restart gives nobody more, and neither does the month's being another's.
    asyncio.run(case.usage.save())
    assert case.made().spent() == {case.peer.dest}
    case.wall = DAY + DAY_S
    case.uses(0, 0)
    assert (limits.shut(), case.spent) == (frozenset(), 2)
    assert limits.paused(case.peer) is None


def test_a_quota_of_a_month_ends_with_it_and_a_clock_set_back_gives_nothing(case: Case) -> None:
    case.quota(Quota(1_000_000, "month"))
    case.uses(900_000, 0)
    case.wall = DAY - 3 * DAY_S
    case.uses(100_000, 0)
    assert "until 2026-10-01 00:00 UTC" in case.usage.why_spent(case.peer.config) or case.wall < DAY
    case.wall = DAY + 1.0
    assert "is used up until 2026-10-01 00:00 UTC" in case.usage.why_spent(case.peer.config)
    case.wall = DAY + 11 * DAY_S
    assert case.usage.why_spent(case.peer.config) == ""


def test_a_raised_quota_lets_in_at_once(case: Case) -> None:
    case.quota(Quota(1_000_000, "day"))
    case.uses(1_000_000, 0)
    assert case.usage.spent()
    case.quota(Quota(2_000_000, "day"))
    assert not case.usage.spent()
    case.quota(None)
    assert not case.usage.spent()


def test_who_is_paused_and_why(case: Case) -> None:
    limits = case.limits
    assert limits.paused(case.peer) is None
    assert limits.terms(case.peer.config) == {"paused": None, "rate": None}
    case.told = Statement(paused="at night")
    assert limits.paused(case.peer) == PausedStatus("at night", "peer")
    config = dataclasses.replace(case.peer.config, paused="back soon", rate=5_000_000)
    case.provider.tunnel.set_peers([config], case.sim.now)
    assert limits.paused(case.peer) == PausedStatus("back soon", "self")
    assert limits.terms(case.peer.config) == {
        "paused": "back soon",
        "rate": Rate(5_000_000, 5_000_000),
    }


def test_when_a_peer_was_last_here_is_known_after_a_restart(case: Case) -> None:
    assert case.peer.last_received_at is not None
    seen = case.usage.last_seen(case.peer)
    assert seen == pytest.approx(case.wall - case.sim.now + case.peer.last_received_at)
    asyncio.run(case.usage.close())
    again = case.made()
    fresh = fresh_peer(case.sim, case.provider)
    assert again.last_seen(fresh) == pytest.approx(seen)


def fresh_peer(sim: Simulation, host: Host) -> Peer:
    (old,) = host.tunnel.peers.values()
    return Peer(old.config, host.identity, sim.now)


def test_a_report_has_what_was_used_until_now(case: Case) -> None:
    case.uses(1000, 2000)
    case.flows = {"laptop": 2}
    report = asyncio.run(case.usage.report("nc0", DAY))
    (peer,) = report.peers
    assert (peer.name, peer.rx_bytes, peer.tx_bytes, peer.flows) == ("laptop", 1000, 2000, 2)
    assert [period.at for period in peer.hours] == [period.at for period in peer.days] == [DAY]
    removed = KnownPeer("gone", "carl", DAY - 1.0)
    case.store.add([UsedIn("gone", DAY, Used(5))], [removed])
    report = asyncio.run(case.usage.report("nc0", DAY))
    assert [(peer.name, peer.rx_bytes) for peer in report.peers] == [("carl", 5), ("laptop", 1000)]


def test_a_store_that_cannot_be_read_stops_no_start(tmp_path: Path) -> None:
    (tmp_path / "usage.db").mkdir()
    case = Case(tmp_path)
    assert "cannot be" in case.usage.problem
    case.uses(1, 1)
    assert not asyncio.run(case.usage.save())
