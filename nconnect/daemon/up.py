"""`nconnect up`: one interface, from its configuration to a running tunnel, and all of it taken back.

What is started, in this order, and undone in reverse: the interface's lock, a node of its own if configured,
the TUN device; then, with CAP_NET_ADMIN alone, the links, the host's state, the driver, the control socket
and the tasks that keep them. `wiring` has the parts themselves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import uvloop

from nconnect.config.proxy import of_config
from nconnect.control.client import ControlClient
from nconnect.control.schema import Status
from nconnect.crypto.keys import Identity
from nconnect.daemon.direct_sockets import open_sockets
from nconnect.daemon.events import Ready
from nconnect.daemon.node import settings_of
from nconnect.daemon.runtime_files import Lock
from nconnect.daemon.seams import TunnelNetwork
from nconnect.daemon.settings import InForce, completed
from nconnect.daemon.supervisor import first_error
from nconnect.daemon.wiring import Daemon, Opened
from nconnect.errors import ControlError, HostError, NconnectError
from nconnect.invite.table import PeerTable
from nconnect.io.files import config_file, paths, peer_table
from nconnect.io.files.config_source import ConfigSource
from nconnect.io.files.invitations import InvitationStore
from nconnect.io.files.state import StateStore
from nconnect.io.files.user import acting_as
from nconnect.io.namespace.namespace import Namespace
from nconnect.io.nkn.node_server import NodeServer
from nconnect.io.process import descriptors
from nconnect.io.process.helper import Helper
from nconnect.io.process.notify import ServiceManager
from nconnect.io.process.privileges import may_administer
from nconnect.io.process.process import collect_rarely, keep_freed_memory, switch_threads_soon
from nconnect.io.process.rights import settle
from nconnect.io.system.machine_network import MachineNetwork
from nconnect.model import Config
from nconnect.streams.dialler import Dialler

log = logging.getLogger(__name__)

OnReady = Callable[[Callable[[], Coroutine[Any, Any, Status]]], None]
ServeStreams = Callable[[Dialler], Coroutine[Any, Any, None]]


def run(
    config_path: Path,
    config: Config,
    source: ConfigSource,
    *,
    keep_trying: bool,
    on_ready: OnReady,
    network_of: Callable[[str, Helper | None], AbstractContextManager[TunnelNetwork]] | None = None,
    serve: ServeStreams | None = None,
) -> int:
    """Run the tunnel until a signal, or `nconnect down`, ends it; the exit status.

    Raises `NconnectError` when it cannot start; then nothing is left behind. With `keep_trying` a node that
    cannot be reached is no reason to give up. `on_ready` is called on the loop, with `Backend.status`, once
    the interface is usable. `source` is where the configuration is read from. `network_of` makes the
    interface. `serve` runs as long as the tunnel does, and ends it with itself.
    """
    network_of = network_of or _network
    lock = Lock(config.interface, source.helper)
    try:
        keep_freed_memory()
        descriptors.take_all()
        _refuse_shared_key(config.interface, Identity(config.seed).public_key)
        with network_of(config.interface, source.helper) as network:
            opened = _open(config_path, config, source, lock, network)
            rights = settle(config.interface, is_rootless=network.is_apart)
            if serve is not None:
                rights = "running for streams alone: without an interface, and without rights"
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                daemon = Daemon(opened, runner.get_loop(), keep_trying=keep_trying)
                runner.run(_live(daemon, rights, keep_trying=keep_trying, on_ready=on_ready, serve=serve))
    finally:
        lock.release()
    return 0


# Before there is a loop


def _refuse_shared_key(interface: str, public_key: bytes) -> None:
    """Raise `HostError` when another running interface of this machine has this key: the two would have
    each peer's session in turns.

    The others are asked by their control sockets; one that does not answer, or is another user's, is passed
    over (the peers notice it then: `nconnect.tunnel.shared_key`).
    """
    for path in sorted(paths.run_dir().glob("*.sock")):
        if path.stem == interface:
            continue
        try:
            other = ControlClient(path.stem, path).status()
        except ControlError:
            continue
        if other.public_key == public_key.hex():
            raise HostError(
                f"{other.interface} uses the same key, and only one interface can: give {interface} one of"
                " its own, by `nconnect join` with an invitation, or `nconnect init`"
            )


def _open(path: Path, config: Config, source: ConfigSource, lock: Lock, network: TunnelNetwork) -> Opened:
    """What may need more rights than CAP_NET_ADMIN: state folders, a node's ports and key."""
    invitations = InvitationStore.of(config.interface)
    _tidy(invitations)

    def load() -> PeerTable:
        table = peer_table.of(source.load(), invitations.read)
        return completed(table, of_config(table.config, os.environ))

    in_force = InForce(load())
    config, store = in_force.config, StateStore.of(config.interface)
    return Opened(
        lock,
        source.stamp,
        load,
        in_force,
        invitations,
        store,
        ServiceManager(),
        node=_bound_node(path, config),
        direct=open_sockets(config, store),
        network=network,
    )


@contextmanager
def _network(interface: str, helper: Helper | None) -> Iterator[TunnelNetwork]:
    """Where the TUN device is: without root, in a namespace that is made first, before a thread is there."""
    network = MachineNetwork.open(interface, helper) if may_administer() else Namespace.start(interface)
    try:
        yield network
    finally:
        network.close()


def _tidy(store: InvitationStore) -> None:
    """Carry over what an earlier version kept, and end what has expired; a full disk stops no start."""
    try:
        with store.issuing() as book:
            book.close_expired(time.time())
    except NconnectError as error:
        log.warning("invitations: %s", " ".join(str(error).split()))


def _bound_node(path: Path, config: Config) -> NodeServer | None:
    """A node of our own, if configured; it serves nobody yet."""
    if config.node is None:
        return None
    node = NodeServer(
        config.node,
        Identity(config.seed),
        settings_of(config.node),
        own_certificate=paths.make_state_dir(config.interface) / paths.NODE_CERTIFICATE,
    )
    with acting_as(config_file.writer(path)):  # who named its certificate
        node.bind()
    return node


# On the loop


async def _live(
    daemon: Daemon, rights: str, *, keep_trying: bool, on_ready: OnReady, serve: ServeStreams | None
) -> None:
    """Everything, from the signals' handlers until a stop is asked for and all is taken back."""
    loop, node = asyncio.get_running_loop(), daemon.opened.node
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, daemon.waiting.request_stop)
    loop.add_signal_handler(signal.SIGHUP, daemon.reload.in_background)
    supervisor = daemon.supervisor
    try:
        if node is not None:
            await node.start()
        async with supervisor.group:
            try:
                for name, work in daemon.first_tasks:
                    supervisor.start(name, work)
                async with _serving(daemon, serve):
                    await _with_host(daemon, rights, keep_trying=keep_trying, on_ready=on_ready)
            finally:
                daemon.links.close()
                supervisor.cancel()
    except BaseExceptionGroup as failed:
        raise first_error(failed) from failed
    finally:
        daemon.direct.close()
        daemon.opened.network.close()
        if node is not None:
            await node.close()


@asynccontextmanager
async def _serving(daemon: Daemon, serve: ServeStreams | None) -> AsyncIterator[None]:
    """Have `serve` run meanwhile. Its end stops the daemon, and its error is raised in the end."""
    if serve is None:
        yield
        return
    task = asyncio.ensure_future(serve(daemon.dialler))
    task.add_done_callback(lambda _: daemon.waiting.request_stop())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))
    if not task.cancelled():
        task.result()


async def _with_host(daemon: Daemon, rights: str, *, keep_trying: bool, on_ready: OnReady) -> None:
    try:
        await daemon.proxy.look_up()
        await daemon.host_state.set_up()
        daemon.driver.start()
        await daemon.runtime_files.listen()
        for name, work in daemon.tasks:
            daemon.supervisor.start(name, work)
        try:
            if (metrics := daemon.opened.in_force.config.metrics) is not None:
                await daemon.metrics.listen(metrics)
            if not keep_trying:
                await daemon.waiting.first_login()
            collect_rarely()
            switch_threads_soon()
            log.info("%s", rights)
            daemon.bus.publish(Ready())
            on_ready(daemon.status)
            await daemon.waiting.stop.wait()
        finally:
            await daemon.metrics.close()
            await daemon.enrolment.close()
            await daemon.acceptor.close()
            await daemon.datagrams.close()
            await daemon.runtime_files.close()
    finally:
        daemon.opened.service.stopping()
        daemon.driver.stop()
        await asyncio.shield(_take_back(daemon))
        if daemon.waiting.is_ready:
            log.info("%s is down", daemon.opened.in_force.config.interface)


async def _take_back(daemon: Daemon) -> None:
    """Undo what we set, also when the daemon is cancelled, while the sockets still send goodbyes."""
    await daemon.counters.close()
    await daemon.names.close()
    await daemon.usage.close()
    await daemon.host_state.remove(asked=daemon.waiting.stop.is_set())
