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
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import uvloop

from nconnect.config_edit import unknown_peer
from nconnect.control.schema import PendingPeer, PingReply, Status
from nconnect.crypto.aead import CipherSuite, faster_suite
from nconnect.crypto.keys import Identity
from nconnect.daemon import resume, status
from nconnect.daemon.counters import CounterKeeper
from nconnect.daemon.driver import Driver
from nconnect.daemon.enforcement import Enforcement
from nconnect.daemon.expiry import ExpiryNotices
from nconnect.daemon.firewalls import Firewalls
from nconnect.daemon.keeper import Keeper
from nconnect.daemon.metrics import Metrics
from nconnect.daemon.node import settings_of
from nconnect.daemon.presence import Presence
from nconnect.daemon.reception import Reception
from nconnect.daemon.supervisor import Supervisor
from nconnect.errors import ConfigError, NconnectError, NetworkError
from nconnect.host.nft import provides
from nconnect.host.plan import Address
from nconnect.host.ruleset import table_name
from nconnect.io import config_file, paths
from nconnect.io.account import settle
from nconnect.io.clock import boottime
from nconnect.io.host import Host
from nconnect.io.invitations import InvitationStore
from nconnect.io.links import Links
from nconnect.io.monitor import Monitor
from nconnect.io.node_server import NodeServer
from nconnect.io.notify import ServiceManager
from nconnect.io.process import collect_rarely, keep_freed_memory
from nconnect.io.state import StateStore
from nconnect.io.tun import Tun
from nconnect.model import PUBLIC_SEED_RPC, Config, NknAddress, PeerConfig
from nconnect.nkn.outputs import DownReason
from nconnect.tunnel.constants import REKEY_AFTER_S
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import Pong, Settings
from nconnect.tunnel.peer import Peer, PeerState
from nconnect.wire.jsonrpc import NodeInfo, split_addr
from nconnect.wire.nkn import InboundMessage

log = logging.getLogger(__name__)

STOP_GRACE_S = 2.0  # for what is still to be sent at the end
CLOCK_WARNING_HOURS = 1.0  # expiry dates are as wrong as the clock
REKEY_VARIABLE = "NCONNECT_REKEY_AFTER_S"

# What a running daemon cannot change: these need a new device, or another identity.
_FIXED = ("interface", "seed", "identifier", "address", "mtu", "cipher", "network", "node", "metrics")


def run(
    config_path: Path,
    config: Config,
    *,
    keep_trying: bool,
    detached: bool,
    on_ready: Callable[[], None],
) -> int:
    """Run the tunnel until a signal, or `nconnect down`, ends it; the exit status.

    Raises `NconnectError` when it cannot start; then nothing is left behind. With `keep_trying` a node that
    cannot be reached is no reason to give up. `on_ready` is called once the interface is usable.
    """
    presence = Presence(config.interface, paths.acquire_lock(config.interface))
    try:
        keep_freed_memory()
        daemon = Daemon(config_path, config, presence, keep_trying=keep_trying, on_ready=on_ready)
        daemon.open()
        daemon.rights = settle(config.interface, config_path)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(daemon.main())
    finally:
        paths.release_lock(config.interface, presence.lock)
    return 0


class Daemon:
    """One running interface: the control server's backend, and what link and driver report to."""

    def __init__(
        self,
        config_path: Path,
        config: Config,
        presence: Presence,
        *,
        keep_trying: bool,
        on_ready: Callable[[], None],
    ) -> None:
        self._path = config_path
        self._presence = presence
        self._config = config
        self._keep_trying = keep_trying
        self._on_ready = on_ready
        self._identity = Identity(config.seed)
        self._address = NknAddress(config.identifier, self._identity.public_key)
        self._started_at = boottime()
        self._store = StateStore.of(config.interface)
        self._enforcement = Enforcement(
            config,
            Host(config.interface, paths.state_dir(config.interface)),
            nodes=self._nodes,
            expired=self._expired,
        )
        self._expiry = ExpiryNotices(self._store, time.time)
        self._expiry_moved = asyncio.Event()
        self._reception: Reception
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()  # something that `wait` looks at; replaced at each change
        self._first_failure: asyncio.Future[str] | None = None
        self._pings: dict[tuple[str, int], asyncio.Future[Pong]] = {}
        self._counters = CounterKeeper(self._store, lambda: self._tunnel.counters())
        self._reloading = asyncio.Lock()
        self._not_applied = ""  # why the file was refused, a sentence for `status`
        self._signalled: asyncio.Task[None] | None = None  # the newest reload by signal; the loop keeps none
        self._ready = False
        self._service = ServiceManager()
        self._firewalls = Firewalls(self._enforcement.obstacles)
        self._keeper = Keeper(
            lambda: Monitor(config.interface, table_name(config.interface)),
            on_network=self._network_changed,
            on_firewall=self._firewalls.changed,
            repair=lambda: self._enforcement.repair(self._renew_device),
            clock=boottime,
        )
        self.rights = ""  # as whom we run, for the log; said once we are up: a start that fails is one line
        self._node: NodeServer | None = None
        self._tun: Tun
        self._tunnel: Tunnel
        self._driver: Driver
        self._link: Links
        self._supervisor: Supervisor
        self._loop: asyncio.AbstractEventLoop

    def open(self) -> None:
        """What may need more rights than CAP_NET_ADMIN: a node's ports and key, the TUN device."""
        if self._config.node is not None:
            self._node = NodeServer(self._config.node, self._identity, settings_of(self._config.node))
            self._node.bind()
        self._tun = Tun(self._config.interface)

    async def main(self) -> None:
        """Everything, until `request_stop`; after `open`."""
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self.request_stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload_in_background)
        self._first_failure = self._loop.create_future()
        try:
            if self._node is not None:
                await self._node.start()
            await self._with_tunnel()
        finally:
            self._tun.close()
            if self._node is not None:
                await self._node.close()

    async def _with_tunnel(self) -> None:
        config = self._config
        now = boottime()
        self._tunnel = Tunnel(
            self._identity,
            self._address,
            config.peers,
            Settings(
                suite=_suite(config.cipher),
                features=self._tun.features,
                mtu=config.mtu,
                persistent=not provides(config),
                accept_pending=config.accept_pending,
                rekey_after_s=_rekey_after_s(),
            ),
            now=now,
            rng=os.urandom,
            wall_clock_ns=time.time_ns,
            counters=self._counters.stored(),
        )
        self._link = Links(
            self._identity,
            self._address,
            _seeds(config),
            self,
            count=config.network.links,
            rng=os.urandom,
        )
        self._link.on_found = self._on_found
        first, *more = self._link.runners
        self._driver = Driver(self._tun, self._tunnel, first, self, self._loop, more_links=more)
        self._reception = Reception(
            config_path=self._path,
            identity=self._identity,
            address=self._address,
            store=InvitationStore.of(config.interface),
            reload=self.reload,
            send=self._send,
        )
        self._tunnel.on_visitor = self._reception.knock
        self._tunnel.ask_legs(self._leg_s)
        self._expiry.set_peers(config.peers)
        await self._with_tasks()

    async def _with_tasks(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                supervisor = self._supervisor = Supervisor(group)
                for name, run_link in self._link.tasks():
                    supervisor.start(name, run_link)
                supervisor.start("expiry", self._watch_expiry)
                try:
                    await self._with_host()
                finally:
                    self._link.close()
                    supervisor.cancel()
        except BaseExceptionGroup as failed:
            raise _first(failed) from failed

    async def _with_host(self) -> None:
        try:
            await self._enforcement.set_up()
            self._say_routes()
            self._driver.start()
            await self._presence.listen(self)
            self._supervisor.start("presence", self._presence.run)
            self._supervisor.start("keeper", self._keeper.run)
            self._supervisor.start("firewalls", self._firewalls.run)
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
                await self._reception.close()
                await self._presence.close()
        finally:
            await self._take_back()

    async def _serve(self) -> None:
        if not self._keep_trying:
            await self._link_or_failure()
        self._ready = True
        self._enforcement.was_up()
        collect_rarely()
        self._notify()
        if self.rights:
            log.info("%s", self.rights)
        node = self._link.link.node
        where = f", logged in at node {node.addr}" if node is not None and self._link.is_up else ""
        plan = self._enforcement.plan
        skipped = [str(skipped.route) for skipped in plan.skipped_routes] if plan else []
        event = {
            "event": "up",
            "interface": self._config.interface,
            "address": str(self._address),
            "skipped": skipped,
        }
        log.info("%s is up as %s%s", self._config.interface, self._address, where, extra=event)
        self._on_ready()
        await self._stop.wait()

    async def _link_or_failure(self) -> None:
        """The first login; raises when it fails, since who starts us by hand wants to know."""
        assert self._first_failure is not None
        while not self._link.is_up and not self._stop.is_set():
            changed = self._changed
            if self._first_failure.done():
                why = self._first_failure.result()
                raise NetworkError(f"{why}; `nconnect up --keep-trying` goes on trying")
            await changed.wait()

    async def _take_back(self) -> None:
        """Say goodbye to the peers, and undo what we set. Goes on to the end when cancelled."""
        self._service.stopping()
        self._driver.stop()
        self._tunnel.close(boottime())
        self._driver.drain()
        await asyncio.shield(self._leave_nothing())
        if self._ready:
            log.info("%s is down", self._config.interface)

    async def _leave_nothing(self) -> None:
        """While the socket still sends, in threads: disks, netlink and nft block."""
        await self._counters.close()
        await self._enforcement.remove(asked=self._stop.is_set())

    # Host

    def _say_routes(self) -> None:
        plan = self._enforcement.plan
        routes = ", ".join(map(str, plan.state.routes if plan else ())) or "none"
        self._step(f"routes set: {routes}", event="routes_set", routes=routes)

    def _renew_device(self) -> None:
        """Somebody deleted the TUN device: it is made again, and the driver reads on."""
        self._tun.renew()
        self._driver.read_on()

    async def _network_changed(self) -> None:
        """Ask the link at once whether it lives, and plan again: our routes must not hide a new network."""
        self._link.network_changed()
        try:
            await self._enforcement.follow_network()
        except NconnectError as error:
            log.error("the network changed: %s", error)

    def _on_resume(self, away_s: float) -> None:
        log.info("this machine slept, or was held up, for %.0f s", away_s)
        self._link.network_changed()
        self._driver.check_peers()

    async def _feed_watchdog(self) -> None:
        """systemd restarts us when the loop does not come round any more."""
        assert self._service.watchdog_s is not None
        while True:
            self._service.alive()
            await asyncio.sleep(self._service.watchdog_s / 3)

    def _expired(self) -> frozenset[str]:
        return frozenset(dest for dest, peer in self._tunnel.peers.items() if peer.expired)

    async def _watch_expiry(self) -> None:
        """Warn before a peer's access ends, and when it has ended, end what it still had open."""
        while True:
            wait_s = self._expiry.log_new()
            try:
                async with asyncio.timeout(wait_s):
                    await self._expiry_moved.wait()
            except TimeoutError:
                continue
            self._expiry_moved.clear()
            try:
                await self._enforcement.follow_expiry()
            except NconnectError as error:
                log.error("the rules of expired peers: %s", error)

    def _nodes(self) -> tuple[Address, ...]:
        """The nodes in use: routes must not lead the way to them into the tunnel."""
        found = []
        for link in self._link.links:
            try:
                found += [ip_address(split_addr(link.node.addr)[0])] if link.node else []
            except ValueError:
                pass  # a name
        return tuple(dict.fromkeys(found))

    def _step(self, text: str, **fields: str) -> None:
        """Before all is up this is for who watches the start: one that fails is one line in the log."""
        log.log(logging.INFO if self._ready else logging.DEBUG, "%s", text, extra=fields)

    # What the link says

    def on_message(self, message: InboundMessage) -> None:
        self._driver.on_message(message)

    def on_writable(self) -> None:
        self._driver.flush()

    def _on_found(self, node: NodeInfo) -> None:
        self._step(f"node found: {node.addr}", event="node_found", node=node.addr)

    def on_up(self, node: NodeInfo) -> None:
        self._step(f"logged in at node {node.addr}", event="logged_in", node=node.addr)
        self._notify()
        self._tell_links()
        if len(self._link.tags()) == 1:
            self._driver.on_link_up()

    def on_down(self, why: str, reason: DownReason, link: int) -> None:
        if reason is not DownReason.STOPPED and (self._ready or self._keep_trying):
            if self._link.is_up:
                log.info("link %d is down, others are up: %s", link, why)
            else:
                log.warning("no link to a node: %s", why)  # else it is the error that ends us
        if not link and self._first_failure is not None and not self._first_failure.done():
            self._first_failure.set_result(why)
        self._notify()
        self._tell_links()

    def _tell_links(self) -> None:
        if self._config.network.links > 1:
            self._driver.set_links(self._link.tags())

    # What the driver says

    def on_session_up(self, peer: Peer) -> None:
        plan = self._enforcement.plan
        skipped = {skipped.route for skipped in plan.skipped_routes} if plan else set()
        reach = [str(p) for p in peer.config.allowed_ips if p not in skipped and not provides(self._config)]
        log.info(
            "%s: session up",
            peer.name,
            extra={"event": "peer_up", "peer": peer.name, "allowed_ips": reach},
        )
        self._reception.session_up(peer.dest)
        self._notify()

    def on_session_lost(self, peer: Peer, why: str) -> None:
        if not peer.expired:  # else that was said already
            log.info("%s", why)
        self._notify()

    def on_expiry_changed(self, peer: Peer) -> None:
        log.info("%s", f"{peer.name} has expired" if peer.expired else f"{peer.name} may pass again")
        self._expiry_moved.set()

    def on_pong(self, pong: Pong) -> None:
        waiting = self._pings.pop((pong.peer.dest, pong.ping_id), None)
        if waiting is not None and not waiting.done():
            waiting.set_result(pong)

    def on_counters_moved(self) -> None:
        self._counters.moved()

    # What the control socket asks

    def status(self) -> Status:
        drops: Counter[str] = Counter()
        for counted in (self._tunnel.drops, self._driver.drops):
            for reason, count in counted.items():
                drops[reason.value] += count
        link = self._link.link.counters
        for name, count in (("bad_frames", link.bad_frames), ("ignored_actions", link.ignored_actions)):
            if count:
                drops[name] += count
        now = boottime()
        return status.build(
            self._config,
            address=str(self._address),
            links=self._link.links,
            shared_with=self._link.shared_with,
            tunnel=self._tunnel,
            plan=self._enforcement.plan,
            drops=drops,
            refused=self._enforcement.refused_counts(now),
            problems=[*self._store.problems, *self._problems()],
            started_at=self._started_at,
            now=now,
        )

    def _problems(self) -> list[str]:
        link = self._link.link
        problems = self._supervisor.problems()
        if not link.is_up:
            problems.append(f"no link to a node: {link.last_error or 'still connecting'}")
        for peer in self._tunnel.peers.values():
            hours = abs(peer.clock_ahead_s) / 3600
            if hours > CLOCK_WARNING_HOURS:
                problems.append(
                    f"the clocks here and at {peer.name} differ by {hours:.0f} hours:"
                    " set the one that is wrong (`timedatectl set-ntp true`)"
                )
        held = (self._keeper.problem, self._enforcement.problem, self._not_applied)
        problems += [problem for problem in held if problem]
        problems += self._firewalls.problems
        return problems + self._expiry.warnings()

    def pending(self) -> list[PendingPeer]:
        """Unknown addresses that tried to reach us, the latest last."""
        return status.pending_peers(self._tunnel.pending, boottime())

    def _send(self, dest: str, payload: bytes) -> None:
        """A message of its own, outside all sessions; lost when the link is down."""
        self._link.send(dest, (payload,))

    async def wait(self, peer: str | None, timeout_s: float) -> None:
        if peer is not None and self._tunnel.peer_named(peer) is None:
            raise unknown_peer(peer, (known.name for known in self._tunnel.peers.values()))
        try:
            async with asyncio.timeout(timeout_s):
                while missing := self._missing(peer):
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"{missing} after {timeout_s:g} s") from None

    def _missing(self, name: str | None) -> str:
        """What is not there yet, in words; empty when all is up."""
        if self._enforcement.plan is None or not self._ready:
            return f"{self._config.interface} is not set up yet"
        if not self._link.is_up:
            return f"there is no link to a node ({self._link.link.last_error or 'still connecting'})"
        if name is not None:
            peer = self._tunnel.peer_named(name)
            if peer is None:
                return f"there is no peer {name}"
            if peer.state is not PeerState.UP:
                if self._tunnel.can_seal(peer, boottime()):
                    self._tunnel.ping(peer, boottime())
                self._driver.drain()
                return f"{name} does not answer"
        return ""

    async def ping(self, peer: str, timeout_s: float) -> PingReply:
        found = self._tunnel.peer_named(peer)
        if found is None:
            raise unknown_peer(peer, (known.name for known in self._tunnel.peers.values()))
        async with asyncio.timeout(timeout_s) as limit:
            try:
                await self.wait(peer, timeout_s)
            except TimeoutError as error:
                limit.reschedule(None)
                raise TimeoutError(str(error)) from None
            self._leg_s(found.lane.link)
            ping_id = self._tunnel.ping(found, boottime())
            if ping_id is None:
                raise TimeoutError(f"there is no session with {peer}")
            answered: asyncio.Future[Pong] = self._loop.create_future()
            self._pings[found.dest, ping_id] = answered
            self._driver.drain()
            try:
                pong = await answered
            except asyncio.CancelledError:
                raise
            finally:
                self._pings.pop((found.dest, ping_id), None)
        return status.ping_reply(peer, pong.rtt_s, self._link.links[pong.link].rtt_s, pong.leg_s)

    def _leg_s(self, link: int) -> float | None:
        """The newest round trip of this link to its node. Who asks has a newer one soon."""
        runner = self._link.runners[link]
        runner.measure()
        return runner.link.rtt_s

    async def reload(self) -> None:
        """Apply the file as it is now. Peers and what is provided change at once."""
        async with self._reloading:
            await self._reload()
            self._not_applied = ""

    async def _reload(self) -> None:
        fresh = await asyncio.to_thread(config_file.load, self._path)
        changed = [name for name in _FIXED if getattr(fresh, name) != getattr(self._config, name)]
        if changed:
            raise ConfigError(
                f"{', '.join(changed)} cannot change while {self._config.interface} is up:"
                " run `nconnect down`, then `nconnect up`"
            )
        old = self._config
        self._set_peers(fresh.peers)
        try:
            await self._enforcement.change(fresh)
        except NconnectError:
            self._set_peers(old.peers)
            raise
        self._config = fresh
        self._keeper.forgive()
        await self._enforcement.end_flows(old)

    def _set_peers(self, peers: tuple[PeerConfig, ...]) -> None:
        self._tunnel.set_peers(peers, boottime())
        self._expiry.set_peers(peers)
        self._expiry_moved.set()
        self._driver.drain()
        self._notify()

    def _reload_in_background(self) -> None:
        self._signalled = self._loop.create_task(self._reload_or_say_why(), name="reload")

    async def _reload_or_say_why(self) -> None:
        """For who sent a signal, and gets no answer: `status` has it until a reload succeeds."""
        try:
            await self.reload()
        except NconnectError as error:
            log.error("reload: %s", error)
            first = str(error).partition("\n")[0]
            self._not_applied = (
                f"the configuration file is not applied: {first}; correct it, then run `nconnect reload`"
            )

    def request_stop(self) -> None:
        self._stop.set()
        self._notify()

    def _notify(self) -> None:
        if self._ready and self._link.is_up:
            self._service.ready(f"{self._config.interface} is up as {self._address}")
        self._changed.set()
        self._changed = asyncio.Event()


def _seeds(config: Config) -> tuple[str, ...]:
    """Where to ask for a node: our own, when we run one and no other is configured."""
    seeds = config.network.seed_rpc
    if config.node is not None and seeds == PUBLIC_SEED_RPC:
        host = config.node.listen
        host = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
        return (f"http://{f'[{host}]' if ':' in host else host}:{config.node.rpc_port}",)
    return seeds


def _suite(cipher: str) -> CipherSuite:
    return faster_suite(time.perf_counter) if cipher == "auto" else CipherSuite(cipher)


def _rekey_after_s() -> float:
    """A seam for tests: keys may be renewed earlier than the protocol asks for, never later."""
    word = os.environ.get(REKEY_VARIABLE, "")
    try:
        seconds = float(word) if word else REKEY_AFTER_S
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= REKEY_AFTER_S:
        raise ConfigError(f"{REKEY_VARIABLE} is {word!r}: take seconds up to {REKEY_AFTER_S:g}, or unset it")
    return seconds


def _first(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to show out of a group's."""
    errors = list(failed.exceptions)
    while errors:
        error = errors.pop(0)
        if isinstance(error, BaseExceptionGroup):
            errors += error.exceptions
        elif isinstance(error, NconnectError) or not errors:
            return error
    return failed
