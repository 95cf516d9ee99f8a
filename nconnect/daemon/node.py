"""`nconnect node`: one relay node in the foreground, until SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
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
from nconnect.io.errors import reason
from nconnect.io.files.paths import NODE_CERTIFICATE, make_node_dir
from nconnect.io.files.seed_file import kept_seed
from nconnect.io.files.trusted import Folder, write_atomically
from nconnect.io.nkn.cluster import ClusterLink
from nconnect.io.nkn.node_server import NodeServer
from nconnect.io.process import descriptors
from nconnect.io.process.privileges import drop_privileges
from nconnect.io.process.process import collect_rarely, keep_freed_memory
from nconnect.model import NodeConfig
from nconnect.node.settings import NodeDrop, NodeSettings

log = logging.getLogger(__name__)

_QUEUE_DROPS = (NodeDrop.QUEUE_FULL, NodeDrop.NODE_FULL)


def run(
    config: NodeConfig,
    *,
    settings: NodeSettings | None = None,
    seed_file: Path | None = None,
    stats_file: Path | None = None,
    capture_file: Path | None = None,
    cluster: str | None = None,
    cluster_key: bytes | None = None,
    keep_state: bool = False,
    on_ready: Callable[[NodeServer], None] | None = None,
) -> int:
    """Serve until a signal ends it; the exit status. Raises `HostError` when it cannot start.

    `settings` has what `config` does not say; absent, they are `settings_of(config)`. The node's key is kept
    in `seed_file` (made if it is not there), else with `keep_state` in a state folder, as the certificate is
    that `config.tls` asks for; else it is new at each start. Once the ports are bound the process gives up
    every capability: it must not be one that has other things to do. `stats_file` is written as JSON at
    SIGUSR1 and at the end. `cluster` is the URL of a NATS server, `cluster_key` its nodes' secret.
    `on_ready` is called once all ports listen.
    """
    folder = _state_folder(config) if keep_state else None
    identity = Identity(kept_seed(seed_file or (folder and folder / "seed")))
    descriptors.take_all()
    settings = _within_descriptors(settings or settings_of(config))
    server = NodeServer(
        config,
        identity,
        settings,
        own_certificate=folder and folder / NODE_CERTIFICATE,
        capture_file=capture_file,
    )
    server.bind()
    link = _cluster_link(cluster, cluster_key, server, config) if cluster is not None else None
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
    return NodeSettings(
        verify_signatures=config.verify_signatures, source_connections=config.connections_per_address
    ).with_memory(config.queue_mb, config.mail_mb)


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
    try:
        await server.start()
        await control.start()
        async with asyncio.TaskGroup() as group:
            if stats_file is not None:
                loop.add_signal_handler(
                    signal.SIGUSR1,
                    lambda: group.create_task(asyncio.to_thread(_write_stats, server.stats(), stats_file)),
                )
            verifying = ", verifying signatures" if server.node.settings.verify_signatures else ""
            log.info("node listening on %s: %s%s", config.listen, _ports_text(server), verifying)
            log.info("clients find it with --seed-rpc %s", server.seed_url())
            keep_freed_memory()
            collect_rarely()
            if on_ready is not None:
                on_ready(server)
            supervisor = Supervisor(group)
            if link is not None:
                supervisor.start("cluster", link.run)
            await ended.wait()
            supervisor.cancel()
    finally:
        if stats_file is not None:
            await asyncio.to_thread(_write_stats, server.stats(), stats_file)
        await control.close()
        await server.close()


def _ports_text(server: NodeServer) -> str:
    plain = server.fingerprint is None
    words = []
    if server.port is not None:
        words.append(f"port {server.port} (websocket and RPC{'' if plain else ', with TLS'})")
    if server.ws_port not in (None, server.port):
        words.append(f"websocket port {server.ws_port}")
    if server.rpc_port not in (None, server.port):
        words.append(f"RPC port {server.rpc_port}")
    secure = [str(p) for p in (server.wss_port, server.https_port) if p not in (None, server.port)]
    if secure:
        words.append(f"with TLS {' and '.join(secure)}")
    if server.stun_ports:
        words.append(f"STUN on UDP ports {' and '.join(map(str, server.stun_ports))}")
    return ", ".join(words)


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
        port=server.port,
        fingerprint=server.fingerprint,
        seed_url=server.seed_url(),
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
        stun=server.stun.status() if server.stun is not None else None,
    )


def _cluster_link(url: str, key: bytes | None, server: NodeServer, config: NodeConfig) -> ClusterLink:
    """What makes the server one of several; its ports are bound."""
    host = config.advertise or config.listen
    link = ClusterLink(url, server.node, server.node_info(host), server.node_info(host, secure=True), key)
    server.node.relay.elsewhere = link
    server.assign = link.cluster.assign
    return link


def _write_stats(stats: dict[str, object], path: Path) -> None:
    """Replace the file as a whole, so that a reader never sees half of it."""
    try:
        write_atomically(path, (json.dumps(stats, indent=2) + "\n").encode(), durable=False)
    except OSError as error:
        log.error("cannot write %s: %s", path, reason(error))


def _state_folder(config: NodeConfig) -> Path | None:
    """Where this node keeps its key and certificate; None if it can't, and then needs no certificate either.

    The folder stays locked until the process ends: two nodes must not have one key.
    """
    port = next(p for p in (config.port, config.rpc_port, config.https_port) if p is not None)
    try:
        folder = make_node_dir(port)
        with Folder.open(folder) as opened:
            fd = opened.open_again()
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.access(folder, os.W_OK, effective_ids=True):
            raise HostError(f"cannot write to {folder}")
    except BlockingIOError:
        problem = f"another node uses the state folder {folder}"
    except OSError as error:
        problem = f"cannot open {folder}: {reason(error)}"
    except HostError as error:
        problem = str(error)
    else:
        return folder
    if config.tls and config.tls_cert is None:
        raise HostError(f"{problem}: set $NCONNECT_STATE_DIR to a folder for this node's certificate")
    log.info("%s: this node's key is new at each start (--seed-file keeps it)", problem)
    return None


def _within_descriptors(settings: NodeSettings) -> NodeSettings:
    """No more connections than there are descriptors for, besides those that the process itself needs."""
    most = max(1, descriptors.limit() * 3 // 4)
    return replace(settings, max_connections=min(settings.max_connections, most))
