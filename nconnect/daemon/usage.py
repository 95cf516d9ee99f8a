"""What each peer uses: bytes each way, connections, connected time, by hour and by day (UTC); its quota.

The core counts bytes of inner packets for itself. Every `LOOK_S` this part takes what was added, and a thread
stores it, so that a daemon that is killed loses less than a second. After `IDLE_AFTER_S` without a packet it
sleeps until the core says that there is one again. Sums for quotas are kept in memory as well; they begin
with what is stored, so that a restart gives nobody more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from nconnect.config.bounds import format_quota
from nconnect.control.schema import PeerUsage, UsageReport, UsageStatus, UsedBytes, UsedPeriod
from nconnect.errors import HostError
from nconnect.io.files.usage_store import DAY_S, HOUR_S, KEPT_HOURS, KnownPeer, UsageStore, Used, UsedIn
from nconnect.model import PeerConfig, Quota
from nconnect.tunnel.peer import Peer, PeerState

log = logging.getLogger(__name__)

LOOK_S = 0.4
IDLE_AFTER_S = 5.0  # guessed
IDLE_LOOK_S = 60.0  # while nothing but connected time is new
FLOWS_S = 10.0  # counting connections starts a program
SAVE_AGAIN_S = 10.0  # on a disk that was full
MAX_LOOK_S = IDLE_LOOK_S + 5.0  # of one look: the machine may have slept since the last one
PRUNE_S = 3600.0
_SUMS_DAYS = 62  # kept in memory, for quotas and `status`: a month, and clocks that are set back


class Usage:
    """One interface's. Lives in the loop's thread; `wall` and `clock` give seconds."""

    def __init__(
        self,
        store: UsageStore,
        peers: Callable[[], Iterable[Peer]],
        *,
        wall: Callable[[], float],
        clock: Callable[[], float],
        flows: Callable[[], Awaitable[Mapping[str, int]]],
        on_spent: Callable[[], object],
        await_traffic: Callable[[], object],
    ) -> None:
        """Reads the store, and so blocks. `flows`: how many connections each peer (by name) has had since the
        start. `on_spent` is called when a peer's quota is used up, or it may go on. After `await_traffic`,
        `traffic_began` is to be called when the next packet goes or comes."""
        self._store = store
        self._peers = peers
        self._wall, self._clock = wall, clock
        self._flows, self._on_spent, self._await_traffic = flows, on_spent, await_traffic
        self._last: dict[Peer, tuple[int, int]] = {}
        self._up: frozenset[Peer] = frozenset()  # who was connected then
        self._looked_at = clock()
        self._fresh: dict[tuple[str, int], Used] = {}  # by peer and hour: not stored yet
        self._sums: dict[str, dict[int, Used]] = {}  # by peer and day
        self._seen: dict[str, float] = {}  # when a peer was last here
        self._flows_then: Mapping[str, int] = {}
        self._flows_at = self._saved_at = self._pruned_at = -PRUNE_S
        self._spent: frozenset[str] = frozenset()
        self._saving = asyncio.Lock()
        self._traffic = asyncio.Event()
        self._closing = False
        try:
            for row in store.days(wall() - _SUMS_DAYS * DAY_S):
                self._sums.setdefault(row.peer, {})[row.at // DAY_S] = row.used
            self._seen = {p.peer: p.seen_at for p in store.peers() if p.seen_at is not None}
        except HostError as error:
            log.warning("%s", error)

    @property
    def problem(self) -> str:
        return self._store.problem

    # What was used

    def last_seen(self, peer: Peer) -> float | None:
        """When it was last here (wall clock), in earlier runs too."""
        if peer.last_received_at is None:
            return self._seen.get(peer.dest)
        return self._wall() - self._clock() + peer.last_received_at

    def status(self, peer: Peer) -> UsageStatus:
        """The sums of the present day and month."""
        day, month = (self._used(peer.dest, is_day=is_day) for is_day in (True, False))
        return UsageStatus(UsedBytes(day.rx_bytes, day.tx_bytes), UsedBytes(month.rx_bytes, month.tx_bytes))

    def _used(self, dest: str, *, is_day: bool) -> Used:
        days = list(self._sums.get(dest, {}).items())
        today = int(self._wall()) // DAY_S
        first = today if is_day else today - datetime.fromtimestamp(self._wall(), UTC).day + 1
        total = Used()
        for day, used in days:
            if first <= day <= today:
                total.add(used)
        return total

    def look(self, _: object = None) -> None:
        """Take what was added since the last time. To be called when a session begins or ends, too."""
        now, wall = self._clock(), self._wall()
        passed_s, self._looked_at = min(MAX_LOOK_S, max(0.0, now - self._looked_at)), now
        last, self._last = self._last, {}
        for peer in self._peers():
            traffic = peer.traffic
            self._last[peer] = (traffic.rx_bytes, traffic.tx_bytes)
            rx, tx = last.get(peer, (0, 0))
            used = Used(traffic.rx_bytes - rx, traffic.tx_bytes - tx)
            if peer in self._up:
                used.connected_s = passed_s
            if used.rx_bytes or used.tx_bytes or used.connected_s:
                self._note(peer.dest, wall, used)
        self._up = frozenset(peer for peer in self._peers() if peer.state is PeerState.UP)
        spent = self.spent()
        if spent != self._spent:
            self._spent = spent
            self._on_spent()

    def _note(self, dest: str, wall: float, used: Used) -> None:
        self._fresh.setdefault((dest, int(wall) // HOUR_S * HOUR_S), Used()).add(used)
        days = self._sums.setdefault(dest, {})
        day = int(wall) // DAY_S
        if day not in days:
            for old in [each for each in days if each < day - _SUMS_DAYS]:
                del days[old]
        days.setdefault(day, Used()).add(used)

    # Quotas

    def spent(self) -> frozenset[str]:
        """The NKN addresses of the peers whose quota is used up."""
        return frozenset(peer.dest for peer in self._peers() if self.why_spent(peer.config))

    def why_spent(self, peer: PeerConfig) -> str:
        """That a peer's quota is used up, and until when; "" while it is not. May be called in any thread."""
        quota = peer.quota
        if quota is None:
            return ""
        used = self._used(str(peer.address), is_day=quota.period == "day")
        if used.rx_bytes + used.tx_bytes < quota.bytes:
            return ""
        return f"the quota of {format_quota(quota)} is used up until {self._ends(quota):%Y-%m-%d} 00:00 UTC"

    def _ends(self, quota: Quota) -> datetime:
        today = datetime.fromtimestamp(self._wall(), UTC)
        if quota.period == "day":
            return today + timedelta(days=1)
        return (today.replace(day=1) + timedelta(days=32)).replace(day=1)

    # Storing it

    async def run(self) -> None:
        """Look, and store, until `close`."""
        moved_at = self._clock()
        while not self._closing:
            if self._clock() - moved_at >= IDLE_AFTER_S:
                await self._sleep()
            await asyncio.sleep(LOOK_S)
            self.look()
            moved = any(used.rx_bytes or used.tx_bytes for used in self._fresh.values())
            moved_at = self._clock() if moved else moved_at
            wait_s = SAVE_AGAIN_S if self._store.problem else 0.0 if moved else IDLE_LOOK_S
            if self._fresh and self._clock() - self._saved_at >= wait_s:
                await self.save()

    def traffic_began(self, _: object = None) -> None:
        """A packet went or came after `await_traffic`."""
        self._traffic.set()

    async def _sleep(self) -> None:
        """Until there is traffic again, or connected time is to be stored."""
        self._traffic.clear()
        self._await_traffic()
        self.look()  # what came since the last one
        if any(used.rx_bytes or used.tx_bytes for used in self._fresh.values()):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(IDLE_LOOK_S):
                await self._traffic.wait()

    async def save(self) -> bool:
        """Store what was taken; False if that failed: it is kept for the next time."""
        async with self._saving:
            if self._clock() - self._flows_at >= FLOWS_S:
                await self._count_flows()
            fresh, self._fresh = self._fresh, {}
            self._saved_at = now = self._clock()
            seen = [KnownPeer(peer.dest, peer.name, self.last_seen(peer)) for peer in self._peers()]
            rows = [UsedIn(dest, hour, used) for (dest, hour), used in fresh.items()]
            prune = now - self._pruned_at >= PRUNE_S
            try:
                await asyncio.to_thread(self._store_them, rows, seen, prune=prune)
            except HostError as error:
                for key, used in fresh.items():
                    self._fresh.setdefault(key, Used()).add(used)
                log.warning("%s", error)
                return False
            self._pruned_at = now if prune else self._pruned_at
            return True

    async def close(self) -> None:
        """Store all of it, and close the file."""
        self._closing = True
        self.look()
        self._flows_at = -PRUNE_S
        await self.save()
        await asyncio.to_thread(self._store.close)

    def _store_them(self, rows: list[UsedIn], seen: list[KnownPeer], *, prune: bool) -> None:
        self._store.add(rows, seen)
        if prune:
            self._store.prune(self._wall())

    async def _count_flows(self) -> None:
        self._flows_at = self._clock()
        before, self._flows_then = self._flows_then, await self._flows()
        for peer in self._peers():
            count = self._flows_then.get(peer.name, 0)
            since = count - before.get(peer.name, 0)
            if (opened := since if since >= 0 else count) > 0:  # less: the rules were made anew
                self._note(peer.dest, self._wall(), Used(flows=opened))

    async def report(self, interface: str, since: float) -> UsageReport:
        """What was used since then, up to this moment. Raises `HostError`."""
        self.look()
        self._flows_at = -PRUNE_S
        await self.save()
        return await asyncio.to_thread(report_of, self._store, interface, since, self._wall())


def report_of(store: UsageStore, interface: str, since: float, now: float) -> UsageReport:
    """What is stored: by hours as far back as they are kept, else by days. Blocks; raises `HostError`."""
    hours, days = store.hours(since), store.days(since)
    by_hour = since >= now - KEPT_HOURS * HOUR_S
    peers = []
    for known in store.peers():
        own_hours, own_days = ([row for row in rows if row.peer == known.peer] for rows in (hours, days))
        total = Used()
        for row in own_hours if by_hour else own_days:
            total.add(row.used)
        peers.append(
            PeerUsage(
                known.name,
                known.peer,
                total.rx_bytes,
                total.tx_bytes,
                total.flows,
                total.connected_s,
                known.seen_at,
                tuple(map(_period, own_hours)),
                tuple(map(_period, own_days)),
            )
        )
    return UsageReport(interface, since, tuple(peers))


def _period(row: UsedIn) -> UsedPeriod:
    used = row.used
    return UsedPeriod(row.at, used.rx_bytes, used.tx_bytes, used.flows, used.connected_s)
