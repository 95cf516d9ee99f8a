"""`nconnect up`: one interface, from its configuration to a running tunnel, and all of it taken back.

The composition root. What it starts, in this order, and undoes in reverse: the interface's lock, a node of
its own if configured, the TUN device, the tunnel core with its driver, the link, the host's state, the
control socket.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import uvloop

from nconnect.config.proxy import of_config
from nconnect.control.schema import PendingPeer, PingReply, Status
from nconnect.crypto.keys import Identity
from nconnect.daemon import flows, resume, settings, status
from nconnect.daemon.counters import CounterKeeper
from nconnect.daemon.driver import Driver
from nconnect.daemon.enrolment import Enrolment
from nconnect.daemon.events import Reports
from nconnect.daemon.expiry import ExpiryNotices
from nconnect.daemon.file_watch import FileWatch
from nconnect.daemon.host_state import HostState
from nconnect.daemon.metrics import Metrics
from nconnect.daemon.node import settings_of
from nconnect.daemon.proxy_addresses import ProxyAddresses
from nconnect.daemon.reconciler import Reconciler
from nconnect.daemon.reload import Reload
from nconnect.daemon.runtime_files import RuntimeFiles
from nconnect.daemon.same_key import refuse_shared_key
from nconnect.daemon.supervisor import Supervisor, first_error
from nconnect.daemon.surroundings import Surroundings
from nconnect.daemon.waiting import Waiting
from nconnect.daemon.way_out import WayOut
from nconnect.errors import NconnectError
from nconnect.host.plan import HostPlan
from nconnect.host.ruleset import table_name
from nconnect.invite.table import Table
from nconnect.io.clock import boottime
from nconnect.io.files import config_file, paths, peer_table
from nconnect.io.files.config_source import ConfigSource
from nconnect.io.files.invitations import InvitationStore
from nconnect.io.files.state import StateStore
from nconnect.io.files.trusted import acting_as
from nconnect.io.nkn.links import Links
from nconnect.io.nkn.node_server import NodeServer
from nconnect.io.process.notify import ServiceManager
from nconnect.io.process.process import collect_rarely, keep_freed_memory, switch_threads_soon
from nconnect.io.process.rights import settle
from nconnect.io.system.host import Host
from nconnect.io.system.monitor import Monitor
from nconnect.io.system.tun import Tun
from nconnect.model import Config, NknAddress, PeerConfig
from nconnect.tunnel.core import Tunnel

log = logging.getLogger(__name__)


def run(
    config_path: Path,
    config: Config,
    source: ConfigSource,
    *,
    keep_trying: bool,
    detached: bool,
    on_ready: Callable[[], None],
) -> int:
    """Run the tunnel until a signal, or `nconnect down`, ends it; the exit status.

    Raises `NconnectError` when it cannot start; then nothing is left behind. With `keep_trying` a node that
    cannot be reached is no reason to give up. `on_ready` is called once the interface is usable. `source` is
    where the configuration is read from.
    """
    presence = RuntimeFiles(config.interface, source.helper)
    try:
        keep_freed_memory()
        refuse_shared_key(config.interface, Identity(config.seed).public_key)
        store = InvitationStore.of(config.interface)
        _tidy(store)
        daemon = Daemon(config_path, source, store, presence, keep_trying=keep_trying, on_ready=on_ready)
        daemon.open()
        daemon.rights = settle(config.interface)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(daemon.main())
    finally:
        presence.release()
    return 0


def _tidy(store: InvitationStore) -> None:
    """Carry over what an earlier version kept, and end what has expired; a full disk stops no start."""
    try:
        with store.issuing() as book:
            book.close_expired(time.time())
    except NconnectError as error:
        log.warning("invitations: %s", " ".join(str(error).split()))


class Daemon:
    """One running interface, put together; the control server's backend."""

    def __init__(
        self,
        config_path: Path,
        source: ConfigSource,
        store: InvitationStore,
        presence: RuntimeFiles,
        *,
        keep_trying: bool,
        on_ready: Callable[[], None],
    ) -> None:
        self._path = config_path
        self._source = source
        self._invitations = store
        table = self._load()
        config = table.config
        self._runtime_files = presence
        self._keep_trying = keep_trying
        self._on_ready = on_ready
        self._interface = config.interface
        self._identity = Identity(config.seed)
        self._address = NknAddress(config.identifier, self._identity.public_key)
        proxies = of_config(config, os.environ)
        self._proxy = ProxyAddresses(proxies, self._plan_again)
        self._way_out = WayOut(
            lambda: self._config,
            proxies,
            found=lambda: self._proxy.found,
            plan_again=self._plan_again,
            clock=boottime,
        )
        self._proxies = replace(proxies, admit=self._way_out.admit)
        self._started_at = boottime()
        self._store = StateStore.of(config.interface)
        self._host_state = HostState(
            config,
            Host(config.interface, paths.state_dir(config.interface), device=lambda: self._tun.index()),
            endpoints=lambda: self._way_out.endpoints,
            proxies=self._proxies,
            expired=self._expired,
            planned=self._planned,
        )
        self._counters = CounterKeeper(self._store, lambda: self._tunnel.counters())
        self._expiry = ExpiryNotices(self._store, time.time)
        self._service = ServiceManager()
        self._surroundings = Surroundings(self._host_state.obstacles, boottime)
        self._reconciler = Reconciler(
            lambda: Monitor(config.interface, table_name(config.interface)),
            on_network=self._network_changed,
            on_surroundings=self._surroundings.changed,
            repair=lambda: self._host_state.repair(self._renew_device),
            clock=boottime,
        )
        self._reload = Reload(
            self._load,
            table,
            set_peers=self._set_peers,
            enforcement=self._host_state,
            keeper=self._reconciler,
        )
        self._file_watch = FileWatch(source.stamp, self._load, lambda: self._config)
        self.rights = ""  # as whom we run, for the log; said once we are up: a start that fails is one line
        self._node: NodeServer | None = None
        self._tun: Tun
        self._tunnel: Tunnel
        self._driver: Driver
        self._links: Links
        self._enrolment: Enrolment
        self._waiting: Waiting
        self._reports: Reports
        self._supervisor: Supervisor

    @property
    def _config(self) -> Config:
        """What is in force."""
        return self._reload.config

    def _load(self) -> Table:
        """The file as it is now, with the peers that came by invitation. Blocks."""
        return peer_table.of(self._source.load(), self._invitations.read)

    def open(self) -> None:
        """What may need more rights than CAP_NET_ADMIN: a node's ports and key, the TUN device."""
        if self._config.node is not None:
            self._node = NodeServer(
                self._config.node,
                self._identity,
                settings_of(self._config.node),
                own_certificate=paths.make_state_dir(self._interface) / paths.NODE_CERTIFICATE,
            )
            with acting_as(config_file.writer(self._path)):  # who named its certificate
                self._node.bind()
        self._tun = Tun(self._interface)

    async def main(self) -> None:
        """Everything, until `request_stop`; after `open`."""
        try:
            self._build(asyncio.get_running_loop())
            if self._node is not None:
                await self._node.start()
            await self._with_tasks()
        finally:
            self._tun.close()
            if self._node is not None:
                await self._node.close()

    def _build(self, loop: asyncio.AbstractEventLoop) -> None:
        """All the parts; none of them does anything yet."""
        config = self._config
        self._tunnel = Tunnel(
            self._identity,
            self._address,
            config.peers,
            settings.of_tunnel(config, self._tun.features),
            now=boottime(),
            rng=os.urandom,
            wall_clock_ns=time.time_ns,
            counters=self._counters.stored(),
        )
        self._expiry.set_peers(config.peers)
        reports = self._reports = Reports(
            lambda: self._config,
            enforcement=self._host_state,
            expiry=self._expiry,
            counters=self._counters,
            keep_trying=self._keep_trying,
        )
        links = self._links = reports.links = Links(
            self._identity,
            self._address,
            settings.seeds(config, self._node.seed_url(here=True) if self._node is not None else None),
            reports,
            count=config.network.links,
            rng=os.urandom,
            proxies=self._proxies,
        )
        links.on_found = reports.on_found
        reports.link_changed = self._proxy.link_changed
        first, *more = links.runners
        self._driver = reports.driver = Driver(self._tun, self._tunnel, first, reports, loop, more_links=more)
        self._waiting = reports.waiting = Waiting(
            self._interface,
            self._address,
            tunnel=self._tunnel,
            driver=self._driver,
            links=links,
            enforcement=self._host_state,
            service=self._service,
        )
        self._enrolment = reports.reception = Enrolment(
            load=self._load,
            identity=self._identity,
            address=self._address,
            store=self._invitations,
            reload=self.reload,
            send=self._send,
        )
        self._tunnel.on_visitor = self._enrolment.knock
        self._tunnel.ask_legs(links.leg_s)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.request_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload.in_background)

    async def _with_tasks(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                supervisor = self._supervisor = Supervisor(group)
                for name, run_link in self._links.tasks():
                    supervisor.start(name, run_link)
                supervisor.start("expiry", lambda: self._expiry.watch(self._host_state.follow_expiry))
                try:
                    await self._with_host()
                finally:
                    self._links.close()
                    supervisor.cancel()
        except BaseExceptionGroup as failed:
            raise first_error(failed) from failed

    async def _with_host(self) -> None:
        try:
            await self._proxy.look_up()
            await self._host_state.set_up()
            self._reports.routes_set()
            self._driver.start()
            await self._runtime_files.listen(self)
            self._supervisor.start("presence", self._runtime_files.run)
            self._supervisor.start("keeper", self._reconciler.run)
            self._supervisor.start("surroundings", self._surroundings.run)
            self._supervisor.start(
                "flows", lambda: flows.watch(self._received, self._host_state.renew_flow_limits, boottime)
            )
            self._supervisor.start("resume", lambda: resume.watch(self._on_resume))
            if self._service.watchdog_s is not None:
                self._supervisor.start("watchdog", self._feed_watchdog)
            metrics = Metrics(self._tunnel, self.status)
            try:
                if self._config.metrics is not None:
                    await metrics.listen(self._config.metrics)
                await self._serve()
            finally:
                await metrics.close()
                self._tunnel.on_visitor = None
                await self._enrolment.close()
                await self._runtime_files.close()
        finally:
            await self._take_back()

    async def _serve(self) -> None:
        if not self._keep_trying:
            await self._waiting.first_login()
        self._waiting.is_ready = True
        self._host_state.was_up()
        collect_rarely()
        switch_threads_soon()
        self._waiting.notify()
        if self.rights:
            log.info("%s", self.rights)
        node = self._links.link.node
        where = f", logged in at node {node.addr}" if node is not None and self._links.is_up else ""
        plan = self._host_state.plan
        skipped = [str(skipped.route) for skipped in plan.skipped_routes] if plan else []
        event = {
            "event": "up",
            "interface": self._interface,
            "address": str(self._address),
            "skipped": skipped,
        }
        log.info("%s is up as %s%s", self._interface, self._address, where, extra=event)
        self._on_ready()
        await self._waiting.stop.wait()

    async def _take_back(self) -> None:
        """Say goodbye to the peers, and undo what we set. Goes on to the end when cancelled."""
        self._service.stopping()
        self._driver.stop()
        self._tunnel.close(boottime())
        self._driver.drain()
        await asyncio.shield(self._leave_nothing())
        if self._waiting.is_ready:
            log.info("%s is down", self._interface)

    async def _leave_nothing(self) -> None:
        """While the socket still sends, in threads: disks, netlink and nft block."""
        await self._counters.close()
        await self._host_state.remove(asked=self._waiting.stop.is_set())

    # What happens to this machine

    def _renew_device(self) -> None:
        """Somebody deleted the TUN device: it is made again, and the driver reads on."""
        self._tun.renew()
        self._driver.read_on()

    async def _network_changed(self) -> None:
        """Ask the link at once whether it lives, and plan again: our routes must not hide a new network."""
        self._links.network_changed()
        await self._proxy.look_up()
        await self._plan_again()

    async def _plan_again(self) -> None:
        try:
            await self._host_state.follow_network()
        except NconnectError as error:
            log.error("the network changed: %s", error)

    def _on_resume(self, away_s: float) -> None:
        log.info("this machine slept, or was held up, for %.0f s", away_s)
        self._links.network_changed()
        self._driver.check_peers()

    async def _feed_watchdog(self) -> None:
        """systemd restarts us when the loop does not come round any more."""
        assert self._service.watchdog_s is not None
        while True:
            self._service.alive()
            await asyncio.sleep(self._service.watchdog_s / 3)

    # What the parts ask of one another

    def _expired(self) -> frozenset[str]:
        return frozenset(dest for dest, peer in self._tunnel.peers.items() if peer.expired)

    def _planned(self, plan: HostPlan) -> None:
        """Leave the nodes that a peer's prefix holds by now."""
        self._way_out.planned(plan)
        self._links.leave(self._way_out.refusal)

    def _set_peers(self, peers: tuple[PeerConfig, ...]) -> None:
        self._tunnel.set_peers(peers, boottime())
        self._expiry.set_peers(peers)
        self._driver.drain()
        self._waiting.notify()

    def _send(self, dest: str, payload: bytes) -> None:
        """A message of its own, outside all sessions; lost when the link is down."""
        self._links.send(dest, (payload,))

    def _received(self) -> dict[str, int]:
        """Packets from each peer."""
        return {peer.name: peer.traffic.rx_packets for peer in self._tunnel.peers.values()}

    # What the control socket asks (`control.server.Backend`)

    async def status(self) -> Status:
        now = boottime()
        refused = await self._host_state.refused_counts(now)
        await self._file_watch.look()
        return status.build(
            self._config,
            address=str(self._address),
            links=self._links.links,
            shared_with=self._links.shared_with,
            proxies=self._proxies,
            tunnel=self._tunnel,
            plan=self._host_state.plan,
            drops=status.drops(self._tunnel.drops, self._driver.drops, link=self._links.link),
            refused=refused,
            problems=[*self._store.problems, *self._problems()],
            started_at=self._started_at,
            now=now,
        )

    def _problems(self) -> list[str]:
        return [
            *self._supervisor.problems(),
            *status.problems(self._links.link, self._tunnel.peers.values(), boottime()),
            *filter(None, (self._reconciler.problem, self._reload.problem or self._file_watch.problem)),
            *self._reload.left_out,
            *self._host_state.problems,
            *self._way_out.problems(),
            *self._surroundings.problems,
            *self._expiry.warnings(),
        ]

    def pending(self) -> Sequence[PendingPeer]:
        return status.pending_peers(self._tunnel.pending, boottime())

    async def wait(self, peer: str | None, timeout_s: float) -> None:
        await self._waiting.wait(peer, timeout_s)

    async def ping(self, peer: str, timeout_s: float) -> PingReply:
        return await self._waiting.ping(peer, timeout_s)

    async def reload(self) -> None:
        await self._reload.apply()

    def request_stop(self) -> None:
        self._waiting.stop.set()
        self._waiting.notify()
