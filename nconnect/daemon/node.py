"""`nconnect node`: one relay node in the foreground, until SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import uvloop

from nconnect.crypto.keys import Identity
from nconnect.errors import HostError
from nconnect.io.node_server import NodeServer
from nconnect.model import NodeConfig
from nconnect.node.settings import NodeSettings

log = logging.getLogger(__name__)

_SEED_BYTES = 32


def run(
    config: NodeConfig,
    *,
    settings: NodeSettings | None = None,
    seed_file: Path | None = None,
    stats_file: Path | None = None,
    capture_file: Path | None = None,
    on_ready: Callable[[NodeServer], None] | None = None,
) -> int:
    """Serve until a signal ends it; the exit status. Raises `HostError` when it cannot start.

    `settings` has what `config` does not say; absent, they are `settings_of(config)`. The node's key is kept
    in `seed_file` (made if it is not there), else it is new at each start. `stats_file` is written as JSON
    at SIGUSR1 and at the end. `on_ready` is called once both ports listen.
    """
    identity = Identity(_seed(seed_file))
    _raise_descriptor_limit()
    server = NodeServer(config, identity, settings or settings_of(config), capture_file=capture_file)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(server, config, stats_file, on_ready))
    return 0


def settings_of(config: NodeConfig) -> NodeSettings:
    """The settings that a configuration file's `[node]` asks for."""
    return NodeSettings(verify_signatures=config.verify_signatures)


async def _serve(
    server: NodeServer,
    config: NodeConfig,
    stats_file: Path | None,
    on_ready: Callable[[NodeServer], None] | None,
) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    if stats_file is not None:
        loop.add_signal_handler(signal.SIGUSR1, _write_stats, server, stats_file)
    await server.start()
    try:
        log.info(
            "node listening on %s: websocket port %d, RPC port %d%s",
            config.listen,
            server.ws_port,
            server.rpc_port,
            ", verifying signatures" if server.node.settings.verify_signatures else "",
        )
        if on_ready is not None:
            on_ready(server)
        await ended.wait()
    finally:
        if stats_file is not None:
            _write_stats(server, stats_file)
        await server.close()


def _write_stats(server: NodeServer, path: Path) -> None:
    """Replace the file as a whole, so that a reader never sees half of it."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        new.write_text(json.dumps(server.stats(), indent=2) + "\n")
        new.replace(path)
    except OSError as error:
        log.error("cannot write %s: %s", path, (error.strerror or str(error)).lower())


def _seed(path: Path | None) -> bytes:
    """The node's seed: 64 hex digits in a file of mode 0600, made when it is not there; random without."""
    if path is None:
        return os.urandom(_SEED_BYTES)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return _read_seed(path)
    except OSError as error:
        raise HostError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error
    seed = os.urandom(_SEED_BYTES)
    with os.fdopen(fd, "w") as file:
        file.write(seed.hex() + "\n")
    return seed


def _read_seed(path: Path) -> bytes:
    try:
        seed = bytes.fromhex(path.read_text().strip())
    except OSError as error:
        raise HostError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except ValueError:
        seed = b""
    if len(seed) != _SEED_BYTES:
        raise HostError(f"{path} does not hold a node's key of 64 hex digits; remove it to get a new one")
    return seed


def _raise_descriptor_limit() -> None:
    """Each client is a descriptor: take as many as we are allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
