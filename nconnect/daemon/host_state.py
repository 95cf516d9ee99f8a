"""The host's state as the configuration asks for it: planned, set, set again when it is gone, removed.

Everything blocks (netlink, nft, conntrack) and so runs in a thread, one call at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from nconnect.config.proxy import UNPROXIED, Proxies
from nconnect.daemon.acceptance import Acceptance
from nconnect.daemon.events import Bus, ConfigChanged, PlanInForce
from nconnect.daemon.settings import InForce
from nconnect.daemon.shut import all_shut, with_shut
from nconnect.errors import HostError, NconnectError
from nconnect.host.diff import setting
from nconnect.host.facts import HostFacts
from nconnect.host.flow_limits import Budgets
from nconnect.host.nft import OPENED_COUNTER
from nconnect.host.offered import peer_id, provides
from nconnect.host.plan import HostPlan, plan, refuse_taken_addresses, shut_off
from nconnect.invite.table import PeerTable
from nconnect.io.system.host import Host
from nconnect.model import Config, Endpoint, Prefix
from nconnect.offers.accept import WaitingPrefix

log = logging.getLogger(__name__)

LOOK_S = 1.0  # a peer that has used up its bound may open as many connections as have ended since
IDLE_S = 10.0  # the same while no packets come, so that an idle machine can sleep
REST = 20  # the pause is so many times as long as the look: 65,536 connections take 0.1 to 0.2 s of CPU
REFUSED_INTERVAL_S = 2.0  # how old the firewall's counters in `status` may be


class HostState:
    """One interface's. `plan` is what is in force; None before `set_up`."""

    def __init__(
        self,
        in_force: InForce,
        host: Host,
        bus: Bus,
        *,
        endpoints: Callable[[], tuple[Endpoint, ...]],
        shut: Callable[[], frozenset[str]],
        proxies: Proxies = UNPROXIED,
        direct_port: Callable[[], int] = lambda: 0,
        acceptance: Acceptance,
    ) -> None:
        """`acceptance` decides which prefixes of which peer are in force. `endpoints`: what else the daemon
        connects to outside of the tunnel. `shut`: the peers (NKN addresses) whose access has ended, besides
        those that the configuration pauses. `proxies`: the way to nodes and seeds. `direct_port`: where
        direct TCP streams come in; 0: nowhere. The bus is told of each configuration before it is put in
        force, and of each plan in force.
        """
        self.plan: HostPlan | None = None
        self.stops_direct: tuple[str, ...] = ()  # what drops direct TCP streams, a sentence each
        self._in_force = in_force
        self._host = host
        self._bus = bus
        self._endpoints = endpoints
        self._proxies = proxies
        self._direct_port = direct_port
        self._acceptance = acceptance
        self._shut = shut
        self._shut_then: frozenset[str] = frozenset()  # those when it was made
        self._lock = asyncio.Lock()  # one plan at a time
        self._ending = False
        self._stays_closed = False  # with `fail_closed`: the rules were in force before, or we were up
        self._counts: Mapping[str, Mapping[str, int]] = {}
        self._refused_at = -REFUSED_INTERVAL_S
        self._flows_problem = ""
        self._budgets = Budgets()
        self._settings = _Settings()

    async def set_up(self) -> None:
        """Take back what a killed daemon left, then set up. Raises `HostError`; `remove` is still due."""
        async with self._lock:
            await asyncio.to_thread(self._clear)
            await self._change(self._in_force.file, is_first=True)

    async def change(self, table: PeerTable) -> None:
        """Put the file's table in force; raises `NconnectError`, and then the old one is."""
        async with self._lock:
            await self._change(table)
            self._settings.forgive()

    async def follow_offers(self, peer: str, subnets: Iterable[Prefix]) -> None:
        """A peer (NKN address) says which subnets it offers: put in force what is accepted of them."""
        async with self._lock:  # what is offered is read by a thread while the lock is held
            file, old = self._in_force.file, self._config
            is_joined = any(p.local_address for p in file.config.peers if str(p.address) == peer)
            if not self._acceptance.offered(peer, subnets, is_joined=is_joined):
                return
            if self.plan is None or self._ending:
                return
            try:
                await self._change(file, is_offer=True)
            except NconnectError as error:
                log.error("what %s offers is not in force: %s", peer, error)
                return
        if self._config is not old:
            await self.end_flows(old)

    def waiting_of(self, peer: str) -> tuple[WaitingPrefix, ...]:
        """What the peer of that name offers and is not in force."""
        found = self._acceptance.peers.get(peer)
        return () if found is None else found.waiting

    async def _change(self, file: PeerTable, *, is_first: bool = False, is_offer: bool = False) -> None:
        """`is_offer`: nothing else has changed. One of which nothing is taken must not renew the rules."""
        old, shut = self._config, self._shut()
        facts = await asyncio.to_thread(self._facts)
        fresh, accepted = await asyncio.to_thread(self._acceptance.resolve, file, facts)
        if is_offer and fresh.config == old:
            await asyncio.to_thread(self._acceptance.keep, accepted)
            return
        if is_first:
            refuse_taken_addresses(fresh.config, facts)
        if fresh.config != old or not is_first:
            self._bus.publish(ConfigChanged(fresh.config))
        try:
            await asyncio.to_thread(self._apply, fresh.config, shut, facts)
        except NconnectError:
            self._bus.publish(ConfigChanged(old))
            raise
        self._in_force.put(fresh, file)
        await asyncio.to_thread(self._acceptance.keep, accepted)
        self._tell()

    async def end_flows(self, old: Config) -> None:
        """Forget connections that `old` allowed and the configuration in force does not, so that they end.

        A failure is a problem for `status`, not an error: the rules are in force, and refuse the packets.
        """
        async with self._lock:
            await asyncio.to_thread(self._end_flows, old, self._config)

    async def follow_shut(self) -> None:
        """Update the rules for peers whose access has ended, or begun again, without a change of the file."""
        async with self._lock:
            if self.plan is not None and self._shut() != self._shut_then:
                await asyncio.to_thread(self._apply, self._config, self._shut())
                self._tell()
                await asyncio.to_thread(self._end_flows, self._config, self._config)

    async def follow_network(self) -> None:
        """Plan again: our routes must not hide a network that the machine has entered."""
        async with self._lock:
            if self.plan is not None and not self._ending:
                try:
                    facts = await asyncio.to_thread(self._facts)
                    file = self._in_force.file
                    fresh, _ = await asyncio.to_thread(self._acceptance.resolve, file, facts)
                    if fresh.config != self._config:  # what this device reaches now is mapped
                        await self._change(file)
                        return
                    await asyncio.to_thread(self._apply_if_changed, self._shut(), facts)
                except NconnectError as error:
                    log.error("the network changed: %s", error)
                else:
                    self._tell()

    async def repair(self, renew_device: Callable[[], Awaitable[None]]) -> list[str]:
        """Set again what somebody removed, and name it. `renew_device` is awaited when the TUN is gone."""
        async with self._lock:
            if self.plan is None or self._ending:
                return []
            gone = await asyncio.to_thread(self._host.missing, self.plan)
            if self._host.is_interface(gone):
                await renew_device()
            wanted = self._settings.without_overruled(self.plan, gone)
            gone = [what for what in gone if what not in self._settings.overruled]
            if gone:
                self._budgets.forget()
                await asyncio.to_thread(self._host.apply, wanted)
            return gone

    async def obstacles(self) -> list[str]:
        """Which of the tunnel's packets other programs stop or send elsewhere: a sentence for each cause.

        Empty while something of ours is missing: then packets go elsewhere because of that.
        """
        if self.plan is None or self._ending:
            return []
        try:
            found, self.stops_direct = await asyncio.to_thread(self._obstacles)
            return [] if found and await asyncio.to_thread(self._host.missing, self.plan) else found
        except HostError as error:
            log.warning("%s", error)
            return []

    @property
    def problems(self) -> list[str]:
        """Sentences for `status`."""
        found = [*filter(None, (self._host.problem, self._flows_problem)), *self._settings.problems()]
        found += [
            f"{shut.route} is shut off on every interface (fail_closed), since it cannot be routed into the"
            f" tunnel: {shut.why}"
            for shut in (shut_off(self.plan) if self.plan else ())
        ]
        if dropped := sum(self._counts.get("", {}).values()):
            found.append(
                f"{dropped} packets between other interfaces were dropped: this machine did not forward"
                " before nconnect, which forwards for its peers alone. If it shall be a router too, run"
                " `nconnect down`, `sysctl net.ipv4.ip_forward=1` (IPv6: net.ipv6.conf.all.forwarding), and"
                " `nconnect up`"
            )
        return found

    def was_up(self) -> None:
        """From now on the rules of `fail_closed` stay, unless the end was asked for."""
        self._stays_closed = True

    async def remove(self, *, asked: bool) -> None:
        """Remove all of it; but `fail_closed` stays unless the end was asked for (`down`, a signal)."""
        self._ending = True
        async with self._lock:
            keep = self._config.fail_closed and self._stays_closed and not asked
            await asyncio.to_thread(self._host.remove, keep_rules=keep)

    async def renew_flow_limits(self, received: Mapping[str, int]) -> None:
        """Give peers that may have used up their bound the connections that they may still open.

        `received`: how many packets have come from each peer. Skipped while a change is under
        way, so that the change does not wait.
        """
        if self._lock.locked():
            return
        async with self._lock:
            if self.plan is None or self._ending or not self.plan.flow_limits:
                return
            if names := self._budgets.due(received):
                await asyncio.to_thread(self._give_flows, names, received, self.plan.flow_limits)

    async def keep_flows(self, received: Callable[[], Mapping[str, int]], clock: Callable[[], float]) -> None:
        """Keep the bounds on peers' connections in step with the connections that there are; for ever.

        `received`: packets that have come from each peer.
        """
        rest, seen = LOOK_S, received()
        while True:
            await asyncio.sleep(rest)
            began, before, seen = clock(), seen, received()
            await self.renew_flow_limits(seen)
            rest = max(IDLE_S if seen == before else LOOK_S, REST * (clock() - began))

    async def refused_counts(self, now: float) -> Mapping[str, Mapping[str, int]]:
        """How many packets of each peer the firewall dropped, by reason; at most `REFUSED_INTERVAL_S` old."""
        await self._count(now)
        return {
            peer: {why: count for why, count in counts.items() if why != OPENED_COUNTER}
            for peer, counts in self._counts.items()
        }

    async def opened_counts(self, now: float) -> Mapping[str, int]:
        """How many connections each peer has had since the rules were loaded, in either direction."""
        await self._count(now)
        return {peer: counts.get(OPENED_COUNTER, 0) for peer, counts in self._counts.items() if peer}

    async def _count(self, now: float) -> None:
        if now - self._refused_at >= REFUSED_INTERVAL_S:
            self._refused_at = now
            try:
                self._counts = await asyncio.to_thread(self._host.refused_counts)
            except HostError as error:
                log.warning("%s", error)

    @property
    def _config(self) -> Config:
        return self._in_force.config

    def _tell(self) -> None:
        assert self.plan is not None
        self._bus.publish(PlanInForce(self.plan))

    # In a thread

    def _clear(self) -> None:
        # The rules of a killed daemon stay until ours replace them in one step: without any rules the kernel
        # would stop tracking connections, and reset live ones at their next packet.
        has_rules = self._host.has_rules()
        self._stays_closed = self._config.fail_closed and has_rules
        self._host.remove(keep_rules=has_rules)

    def _apply(self, config: Config, shut: frozenset[str], facts: HostFacts | None = None) -> None:
        """The plan is kept only when it is in force. `facts`: as they were read just now."""
        wanted = plan(with_shut(config, shut), facts or self._facts())
        for warning in wanted.warnings:
            log.warning("%s", warning)
        for skipped in wanted.skipped_routes:
            log.warning("route %s is skipped: %s", skipped.route, skipped.why)
        for note in wanted.notes:
            log.info("%s", note)
        self._budgets.forget()
        self._host.apply(wanted)
        self.plan, self._shut_then = wanted, shut

    def _apply_if_changed(self, shut: frozenset[str], facts: HostFacts) -> None:
        fresh = plan(with_shut(self._config, shut), facts)
        # An interface that was down for a moment has lost the host routes that lead through it.
        if fresh != self.plan or (fresh.state.bypasses and self._host.missing(fresh)):
            self._apply(self._config, shut, facts)
        else:
            self.plan = fresh

    def _obstacles(self) -> tuple[list[str], tuple[str, ...]]:
        return self._host.obstacles(self._config, self._endpoints(), self._proxies, self._direct_port())

    def _facts(self) -> HostFacts:
        return replace(self._host.read_facts(), endpoints=self._endpoints(), proxies=self._proxies)

    def _give_flows(
        self, names: Sequence[str], received: Mapping[str, int], limits: Mapping[str, int]
    ) -> None:
        try:
            flows = self._host.count_flows(self._config)
            tokens = self._budgets.give(names, limits, flows, received)
            ids = {peer.name: peer_id(peer) for peer in self._config.peers}
            self._host.give_flows({ids[name]: number for name, number in tokens.items()})
        except HostError as error:
            self._budgets.forget()
            log.warning("the bounds on peers' connections are as they were: %s", error)

    def _end_flows(self, old: Config, fresh: Config) -> None:
        if not provides(old) and not provides(fresh):
            return
        shut = all_shut(fresh, self._shut_then)
        passing = (peer for peer in fresh.peers if str(peer.address) not in shut)
        kept = {prefix for peer in passing for prefix in peer.allowed_ips}
        gone = [prefix for peer in old.peers for prefix in peer.allowed_ips if prefix not in kept]
        try:
            if gone:
                self._host.flush_conntrack(gone)
            self._host.end_refused(with_shut(fresh, shut))
        except HostError as error:
            self._flows_problem = f"connections that peers have lost may go on for a while: {error}"
            log.error("%s", self._flows_problem)
        else:
            self._flows_problem = ""


class _Settings:
    """Settings of the whole machine (sysctls) that another program changes.

    Each is set again once. When it is changed a second time, the other program is configured to do so: we
    leave it, and `status` says so until the setting has our value again.
    """

    def __init__(self) -> None:
        self.overruled: set[str] = set()  # as `setting` words them
        self._set_again: set[str] = set()

    def without_overruled(self, wanted: HostPlan, gone: Sequence[str]) -> HostPlan:
        """The plan without the settings that are left to another program. `gone`: what is missing."""
        changed = {words for name, value in wanted.state.sysctls if (words := setting(name, value)) in gone}
        self.overruled = changed & self._set_again
        self._set_again |= changed
        kept = tuple(pair for pair in wanted.state.sysctls if setting(*pair) not in self.overruled)
        return replace(wanted, state=replace(wanted.state, sysctls=kept))

    def problems(self) -> list[str]:
        return [
            f"another program sets {words.partition(' ')[0]} (nconnect needs {words}), so that peers cannot"
            " reach what is provided: find it (a file in /etc/sysctl.d, a firewall, a network manager), then"
            " run `nconnect reload`"
            for words in sorted(self.overruled)
        ]

    def forgive(self) -> None:
        """A reload has set all settings anew: try again."""
        self.overruled.clear()
        self._set_again.clear()
