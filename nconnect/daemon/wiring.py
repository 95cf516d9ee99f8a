"""One daemon, put together: each part is made once, complete, and its arguments say what it needs.

`Opened` is made while the process has all its rights; `Daemon` makes the rest, and starts nothing. At its end
stand the two tables: who is told of which event, and which tasks run. `up` starts and stops the whole.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from nconnect.config.proxy import UNPROXIED, of_config
from nconnect.crypto.keys import Identity
from nconnect.daemon import resume, settings, status
from nconnect.daemon.acceptance import Acceptance
from nconnect.daemon.announcing import Announcing
from nconnect.daemon.backend import DaemonBackend
from nconnect.daemon.counters import CounterKeeper, stored
from nconnect.daemon.datagram_acceptor import DatagramAcceptor
from nconnect.daemon.direct_paths import DirectResources
from nconnect.daemon.direct_sockets import DirectSockets, open_sockets
from nconnect.daemon.driver import Driver
from nconnect.daemon.enrolment import Enrolment
from nconnect.daemon.event_log import EventLog
from nconnect.daemon.events import (
    Bus,
    ConfigChanged,
    NetworkChanged,
    PeerStated,
    PlanInForce,
    Ready,
    Reloaded,
    Resumed,
)
from nconnect.daemon.expiry import ExpiryNotices
from nconnect.daemon.host_state import HostState
from nconnect.daemon.interference import Interference
from nconnect.daemon.limits import PeerLimits
from nconnect.daemon.machine_ports import MachinePorts
from nconnect.daemon.metrics import Metrics
from nconnect.daemon.names import NameService
from nconnect.daemon.official_clients import OfficialClients, own_client
from nconnect.daemon.reconciler import Reconciler
from nconnect.daemon.reflexive import Reflexive
from nconnect.daemon.reload import FileWatch, Reload
from nconnect.daemon.runtime_files import Lock, RuntimeFiles
from nconnect.daemon.seams import TunnelNetwork
from nconnect.daemon.server_watch import ServerWatch
from nconnect.daemon.session_dialler import SessionDialler
from nconnect.daemon.session_streams import SessionStreams
from nconnect.daemon.settings import InForce
from nconnect.daemon.stream_acceptor import StreamAcceptor
from nconnect.daemon.stream_rights import StreamRights
from nconnect.daemon.streams import Streams
from nconnect.daemon.supervisor import Supervisor
from nconnect.daemon.usage import Usage
from nconnect.daemon.waiting import Waiting
from nconnect.daemon.way_out import Endpoints, ProxyAddresses, WayOut
from nconnect.invite.table import PeerTable
from nconnect.io.clock import boottime
from nconnect.io.files.invitations import InvitationStore
from nconnect.io.files.state import StateStore
from nconnect.io.files.usage_store import UsageStore
from nconnect.io.nkn.links import LinkCameUp, Links, LinkWentDown, NodeFound
from nconnect.io.nkn.node_server import NodeServer
from nconnect.io.process.notify import ServiceManager
from nconnect.io.system import local_network
from nconnect.model import NknAddress
from nconnect.offers.names import of_peers
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import (
    CountersMoved,
    DatagramCame,
    DirectChanged,
    ExpiryChanged,
    Pong,
    SessionLost,
    SessionUp,
    Stated,
    StreamAsked,
    StreamEnds,
    StreamMoved,
    TrafficBegan,
    Visitor,
)
from nconnect.tunnel.paths.direct.outputs import AskReflexive
from nconnect.tunnel.paths.direct.surroundings import Surroundings

Task = tuple[str, Callable[[], Awaitable[None]]]  # its name in the log, and what it runs


@dataclass(frozen=True, slots=True)
class Opened:
    """What may take more rights than CAP_NET_ADMIN to make."""

    lock: Lock
    stamp: Callable[[], object]  # changes with the configuration's file; blocks
    load: Callable[[], PeerTable]  # that file as it is now, with the peers that came by invitation; blocks
    in_force: InForce
    invitations: InvitationStore
    store: StateStore
    service: ServiceManager
    node: NodeServer | None  # bound, not started
    network: TunnelNetwork
    direct: DirectSockets


class Daemon:
    """What `up` starts and stops. The other parts are reached by these, by events, or by their tasks."""

    def __init__(self, opened: Opened, loop: asyncio.AbstractEventLoop, *, keep_trying: bool) -> None:
        """All the parts. Reads the state folder: call it before the loop runs.

        Raises `ConfigError` when the environment is wrong, and `HostError` when the state cannot be read.
        """
        self.opened = opened
        in_force, config, device, store = (
            opened.in_force,
            opened.in_force.config,
            opened.network.device,
            opened.store,
        )
        identity = Identity(config.seed)
        address = NknAddress(config.identifier, identity.public_key)
        bus = self.bus = Bus()
        supervisor = self.supervisor = Supervisor(asyncio.TaskGroup())

        # The tunnel
        around = Surroundings(opened.direct.port)
        tunnel = Tunnel(
            identity,
            address,
            config.peers,
            settings.of_tunnel(config, device.features),
            now=boottime(),
            rng=os.urandom,
            wall_clock_ns=time.time_ns,
            counters=stored(store),
            surroundings=around,
        )
        counters = self.counters = CounterKeeper(store, tunnel.counters)
        expiry = ExpiryNotices(store, config.peers, time.time)

        usage = self.usage = Usage(
            UsageStore(store.folder),
            tunnel.peers.values,
            wall=time.time,
            clock=boottime,
            flows=lambda: flows(),
            on_spent=expiry.moved.set,
            await_traffic=tunnel.await_traffic,
        )

        async def flows() -> Mapping[str, int]:
            """Connections that peers have opened, by packets and by streams."""
            return Counter(await host_state.opened_counts(boottime())) + rights.opened

        limits = PeerLimits(tunnel.peers.values, usage, lambda dest: announcing.statement_of(dest))

        # This machine
        proxies = of_config(config, os.environ)
        endpoints = Endpoints(in_force, proxies)
        acceptance = Acceptance(store)
        host_state = self.host_state = HostState(
            in_force,
            opened.network.host,
            bus,
            endpoints=(lambda: ()) if opened.network.is_apart else endpoints.all,
            shut=lambda: limits.shut(),
            proxies=UNPROXIED if opened.network.is_apart else proxies,
            direct_port=lambda: 0 if opened.network.is_apart else around.port,
            acceptance=acceptance,
        )
        plan_again = host_state.follow_network
        proxy = self.proxy = ProxyAddresses(proxies, endpoints, plan_again)
        way_out = WayOut(in_force, proxies, endpoints, plan_again=plan_again, clock=boottime)
        interference = Interference(host_state.obstacles, boottime)
        names = self.names = NameService(
            in_force,
            lambda: of_peers(in_force.config, announcing.statements),
            opened.network.names,
            clock=boottime,
        )

        listen = opened.network.listen
        ports = None if listen is None else MachinePorts(in_force, listen)

        # The network
        seeds = settings.seeds(config, opened.node.seed_url(here=True) if opened.node is not None else None)
        links = self.links = Links(
            identity,
            address,
            seeds,
            bus.publish,
            count=config.network.links,
            rng=os.urandom,
            proxies=replace(proxies, admit=way_out.admit),
        )
        reflexive = Reflexive(
            around,
            lambda: settings.stun_servers(in_force.config, links.links, proxies),
            may_ask=lambda server: not way_out.refusal(server.address),
            found=lambda: driver.candidates_changed(),
        )
        driver = self.driver = Driver(
            device,
            tunnel,
            links.runners,
            bus.publish,
            loop,
            leg_s=links.leg_s,
            datagrams=opened.direct.datagrams,
            stun=reflexive,
        )
        streams = Streams(address, tunnel, driver, around, opened.direct.listeners)
        session_streams = SessionStreams(tunnel, driver, loop)
        rights = StreamRights(
            in_force,
            shut=limits.shut,
            why_shut=usage.why_spent,
            own_addresses=lambda: asyncio.to_thread(local_network.own_addresses),
            max_flows=lambda: {} if host_state.plan is None else host_state.plan.flow_limits,
            elsewhere=lambda: () if host_state.plan is None else host_state.plan.elsewhere,
            is_apart=opened.network.is_apart,
        )
        acceptor = self.acceptor = StreamAcceptor(rights, session_streams)
        datagrams = self.datagrams = DatagramAcceptor(rights, session_streams)
        official = OfficialClients(
            in_force, acceptor.serve, lambda identifier: own_client(config, identifier, seeds)
        )
        direct = self.direct = DirectResources(
            in_force,
            opened.direct,
            around,
            reflexive,
            driver,
            streams,
            open_sockets=lambda fresh: open_sockets(fresh, store),
            read_network=lambda: local_network.read(config.interface),
        )

        async def network_changed() -> None:
            """Our routes must not hide a network that the machine has entered."""
            bus.publish(NetworkChanged())
            await proxy.look_up()
            await plan_again()

        def surroundings_changed() -> None:
            """Rules may lead another way, or drop something."""
            interference.changed()
            direct.changed()

        reconciler = Reconciler(
            opened.network.monitor,
            on_network=network_changed,
            on_surroundings=surroundings_changed,
            repair=lambda: host_state.repair(driver.renew_device),
            clock=boottime,
        )

        # What peers are told, and what they tell
        watch = ServerWatch(
            in_force,
            lambda: announcing.changed(),
            is_heard=lambda: any(p.session.current and not p.doubtful for p in tunnel.peers.values()),
        )
        announcing = self.announcing = Announcing(
            in_force,
            tunnel,
            driver,
            bus,
            live=lambda: watch.live,
            follow_offers=host_state.follow_offers,
            limits=limits.terms,
        )

        self.dialler = SessionDialler(in_force, tunnel, session_streams, lambda: announcing.statements)

        def told_rate(event: PeerStated) -> None:
            rate = event.statement.rate
            tunnel.told_rate(event.peer, None if rate is None else rate.up, boottime())

        # Changes of the configuration
        reload = self.reload = Reload(opened.load, in_force, host_state, bus, prepare=direct.prepare)
        file_watch = FileWatch(opened.stamp, opened.load, in_force)
        enrolment = self.enrolment = Enrolment(
            opened.load, identity, address, opened.invitations, reload.apply, links.send, tunnel.turn_away
        )

        # Who asks, and who waits
        waiting = self.waiting = Waiting(
            config.interface, address, tunnel, driver, links, host_state, opened.service
        )

        def problems() -> Iterable[str]:
            yield from store.problems
            yield usage.problem
            yield from supervisor.problems()
            yield from status.problems(links.link, tunnel.peers.values(), boottime())
            yield reconciler.problem
            yield reload.problem or file_watch.problem
            yield from in_force.left_out
            yield from host_state.problems
            yield from way_out.problems()
            yield from interference.problems
            yield from announcing.problems()
            yield from expiry.warnings()
            yield names.problem
            yield opened.network.problem
            yield "" if ports is None else ports.problem

        backend = DaemonBackend(
            in_force,
            address,
            proxies,
            links,
            tunnel,
            driver,
            streams,
            rights,
            self.dialler,
            host_state,
            file_watch,
            reload,
            waiting,
            usage,
            limits,
            lambda: status.direct_here(around, direct.mapping_problem, host_state.stops_direct),
            names,
            announcing,
            problems,
            started_at=boottime(),
        )

        self.status = backend.status
        runtime_files = self.runtime_files = RuntimeFiles(
            opened.lock, backend, lambda: bool(in_force.config.readers)
        )
        self.metrics = Metrics(tunnel, backend.status, opened.node)

        # Events: who is told, in this order
        def tell_peers_of_links(_: LinkCameUp | LinkWentDown) -> None:
            if links.count > 1 or links.spare_was_up:
                driver.set_links(links.tags())

        def check_peers(_: LinkCameUp) -> None:
            if len(links.tags()) == 1:
                driver.check_peers()

        said = EventLog(in_force, address, links, keep_trying=keep_trying)
        on, waits = bus.subscribe, waiting.notify
        on(NodeFound, said.node_found)

        def relay_changed(_: LinkCameUp | LinkWentDown) -> None:
            driver.relay_changed(links.is_up)

        on(LinkCameUp, said.link_came_up, waits, tell_peers_of_links, proxy.link_changed, check_peers)
        on(LinkCameUp, relay_changed, lambda _: reflexive.look_again())
        on(LinkWentDown, said.link_went_down, proxy.link_changed, waiting.link_went_down, tell_peers_of_links)
        on(LinkWentDown, relay_changed)
        on(SessionUp, said.session_up, enrolment.session_up, waits, usage.look, watch.session_up)
        on(SessionLost, said.session_lost, announcing.session_lost, waits, usage.look)
        on(TrafficBegan, usage.traffic_began)
        on(ExpiryChanged, said.expiry_changed, lambda _: expiry.moved.set())
        on(DirectChanged, said.direct_changed, lambda _: streams.wake())
        on(StreamEnds, streams.ended)
        on(Pong, waiting.answered)
        on(Stated, announcing.stated)
        on(PeerStated, told_rate, said.stated)
        on(Visitor, enrolment.knock)
        on(StreamAsked, acceptor.asked)
        on(StreamMoved, session_streams.moved)
        on(DatagramCame, session_streams.datagram_came, datagrams.came)
        on(PlanInForce, rights.look, official.config_changed)
        on(CountersMoved, counters.moved)
        on(PlanInForce, way_out.plan_in_force, lambda _: links.leave(way_out.refusal), said.plan_in_force)
        on(PlanInForce, lambda _: direct.changed(), watch.config_changed, announcing.changed)
        on(PlanInForce, lambda _: names.wake(), lambda _: runtime_files.look())
        if ports is not None:
            on(PlanInForce, ports.changed)
        on(PeerStated, lambda _: names.wake())
        on(ConfigChanged, usage.look, driver.configure, lambda e: expiry.set_peers(e.config.peers), waits)
        on(ConfigChanged, direct.config_changed, lambda _: streams.look())
        on(Reloaded, lambda _: reconciler.forgive(), lambda _: direct.reloaded())
        on(Reloaded, lambda _: names.forgive())
        on(Ready, waiting.ready, lambda _: host_state.was_up(), said.ready)
        on(NetworkChanged, lambda _: links.network_changed(), lambda _: direct.network_changed())
        on(NetworkChanged, lambda _: streams.network_changed(), lambda _: names.wake())
        on(Resumed, said.resumed, lambda _: links.network_changed(), lambda _: driver.check_peers())
        on(Resumed, lambda _: direct.resumed())
        on(AskReflexive, lambda _: reflexive.ask())

        def received() -> dict[str, int]:
            return {peer.name: peer.traffic.rx_packets for peer in tunnel.peers.values()}

        self.first_tasks = (*links.tasks(), ("expiry", lambda: expiry.watch(host_state.follow_shut)))
        self.tasks: Sequence[Task] = (  # once the host is set
            ("presence", runtime_files.run),
            ("keeper", reconciler.run),
            ("surroundings", interference.run),
            ("direct paths", direct.run),
            ("direct TCP streams", streams.run),
            ("STUN servers", reflexive.run),
            ("servers", watch.run),
            ("announcements", announcing.run),
            ("flows", lambda: host_state.keep_flows(received, boottime)),
            ("names", names.run),
            ("usage", usage.run),
            ("official clients", official.run),
            ("resume", lambda: resume.watch(lambda away_s: bus.publish(Resumed(away_s)))),
            ("watchdog", opened.service.feed_watchdog),
            *((("machine's ports", ports.run),) if ports is not None else ()),
        )
