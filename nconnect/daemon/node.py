"""`nconnect node`: one relay node in the foreground, until SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import uvloop

from nconnect import __version__
from nconnect.control.node import NodeControl, NodeStatus
from nconnect.crypto.keys import Identity
from nconnect.daemon.supervisor import Supervisor
from nconnect.errors import HostError
from nconnect.io.cluster import ClusterLink
from nconnect.io.errors import reason
from nconnect.io.node_server import NodeServer
from nconnect.io.privileges import drop_privileges
from nconnect.io.process import collect_rarely, keep_freed_memory
from nconnect.model import NodeConfig
from nconnect.node.settings import NodeDrop, NodeSettings

log = logging.getLogger(__name__)

_SEED_BYTES = 32
_QUEUE_DROPS = (NodeDrop.QUEUE_FULL, NodeDrop.QUEUE_DELAY, NodeDrop.NODE_FULL)


def run(
    config: NodeConfig,
    *,
    settings: NodeSettings | None = None,
    seed_file: Path | None = None,
    stats_file: Path | None = None,
    capture_file: Path | None = None,
    cluster: str | None = None,
    on_ready: Callable[[NodeServer], None] | None = None,
) -> int:
    """Serve until a signal ends it; the exit status. Raises `HostError` when it cannot start.

    `settings` has what `config` does not say; absent, they are `settings_of(config)`. The node's key is kept
    in `seed_file` (made if it is not there), else it is new at each start. Once the ports are bound the
    process gives up every capability: it must not be one that has other things to do. `stats_file` is
    written as JSON at SIGUSR1 and at the end. `cluster` is the URL of a NATS server.
    `on_ready` is called once all ports listen.
    """
    identity = Identity(_seed(seed_file))
    _raise_descriptor_limit()
    settings = _within_descriptors(settings or settings_of(config))
    server = NodeServer(config, identity, settings, capture_file=capture_file)
    server.bind()
    link = _cluster_link(cluster, server, config) if cluster is not None else None
    control = NodeControl(partial(_status, server, config, link))
    try:
        control.bind()
    except HostError as error:
        log.info("`nconnect node status` will not find this node: %s", error)
    drop_privileges()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(server, control, config, link, stats_file, on_ready))
    return 0


def settings_of(config: NodeConfig) -> NodeSettings:
    """The settings that a configuration file's `[node]` asks for."""
    return NodeSettings(verify_signatures=config.verify_signatures)


async def _serve(
    server: NodeServer,
    control: NodeControl,
    config: NodeConfig,
    link: ClusterLink | None,
    stats_file: Path | None,
    on_ready: Callable[[NodeServer], None] | None,
) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    if stats_file is not None:
        loop.add_signal_handler(signal.SIGUSR1, _write_stats, server, stats_file)
    try:
        await server.start()
        await control.start()
        log.info(
            "node listening on %s: websocket port %d, RPC port %d%s%s",
            config.listen,
            server.ws_port,
            server.rpc_port,
            f", with TLS {server.wss_port} and {server.https_port}" if server.wss_port else "",
            ", verifying signatures" if server.node.settings.verify_signatures else "",
        )
        keep_freed_memory()
        collect_rarely()
        if on_ready is not None:
            on_ready(server)
        async with asyncio.TaskGroup() as group:
            supervisor = Supervisor(group)
            if link is not None:
                supervisor.start("cluster", link.run)
            await ended.wait()
            supervisor.cancel()
    finally:
        if stats_file is not None:
            _write_stats(server, stats_file)
        await control.close()
        await server.close()


def _status(server: NodeServer, config: NodeConfig, link: ClusterLink | None) -> NodeStatus:
    stats = server.node.stats()
    return NodeStatus(
        pid=os.getpid(),
        version=__version__,
        listen=config.listen,
        ws_port=server.ws_port,
        rpc_port=server.rpc_port,
        wss_port=server.wss_port,
        https_port=server.https_port,
        public_key=server.public_key.hex(),
        uptime_s=server.uptime_s,
        connections=stats.connections,
        clients=stats.clients,
        logins=stats.logins,
        messages=stats.messages,
        bytes=stats.bytes,
        held_messages=stats.held_messages,
        held_bytes=stats.held_bytes,
        queue_bytes=stats.queue_bytes,
        queue_drops=sum(stats.drops.get(reason.value, 0) for reason in _QUEUE_DROPS),
        drops=stats.drops,
        cluster=link.status() if link is not None else None,
    )


def _cluster_link(url: str, server: NodeServer, config: NodeConfig) -> ClusterLink:
    """What makes the server one of several; its ports are bound."""
    host = config.advertise or config.listen
    ws = server.node_info(host)
    assert ws is not None
    link = ClusterLink(url, server.node, ws, server.node_info(host, secure=True))
    server.node.relay.elsewhere = link
    server.assign = link.cluster.assign
    return link


def _write_stats(server: NodeServer, path: Path) -> None:
    """Replace the file as a whole, so that a reader never sees half of it."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        new.write_text(json.dumps(server.stats(), indent=2) + "\n")
        new.replace(path)
    except OSError as error:
        log.error("cannot write %s: %s", path, reason(error))


def _seed(path: Path | None) -> bytes:
    """The node's seed: 64 hex digits in a file of mode 0600, made when it is not there; random without."""
    if path is None:
        return os.urandom(_SEED_BYTES)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return _read_seed(path)
    except OSError as error:
        raise HostError(f"cannot write {path}: {reason(error)}") from error
    seed = os.urandom(_SEED_BYTES)
    with os.fdopen(fd, "w") as file:
        file.write(seed.hex() + "\n")
    return seed


def _read_seed(path: Path) -> bytes:
    try:
        seed = bytes.fromhex(path.read_text().strip())
    except OSError as error:
        raise HostError(f"cannot read {path}: {reason(error)}") from error
    except ValueError:
        seed = b""
    if len(seed) != _SEED_BYTES:
        raise HostError(f"{path} does not hold a node's key of 64 hex digits; remove it to get a new one")
    return seed


def _within_descriptors(settings: NodeSettings) -> NodeSettings:
    """No more connections than there are descriptors for, besides those that the process itself needs."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return settings
    return replace(settings, max_connections=min(settings.max_connections, max(1, soft * 3 // 4)))


def _raise_descriptor_limit() -> None:
    """Each client is a descriptor: take as many as we are allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
